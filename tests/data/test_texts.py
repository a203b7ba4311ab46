"""Texts from the command line, and the features of a frozen transformer."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import upstairs
from helpers.runs import Call, count_time
from upstairs.data.episodes import Episodes
from upstairs.data.open import open_splits
from upstairs.data.text.tables import open_texts
from upstairs.engine.precompute import embedded
from upstairs.errors import UpstairsError
from upstairs.experiments.evaluate import evaluate_run
from upstairs.training.presets import PRESETS


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 classes of 8 texts, each with two words of its own."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("texts") / "intents.csv"
    words = ["".join(rng.choice(list("abdegiklmnoprstuvz"), 5)) for _ in range(90)]
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["utterance", "intent"])
        for k in range(30):
            for e in range(8):
                own = words[2 * k + e % 2]
                out.writerow([" ".join(rng.permutation([own, *rng.choice(words[60:], 4)])), f"intent {k:02d}"])
    return path


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("text,label\n" + "\n".join(f'"{text}",{label}' for text, label in rows), encoding="utf-8")
    return path


def test_from_a_table_to_answers(call: Call, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, model = tmp_path / "run", tmp_path / "model.safetensors"
    words = ("--data", table, "--steps", 40, "--way", 8, "--query", 3, "--validations", 2, "--validation-tasks", 10)
    status, _, err = call("train", "protonet", *words, "--out", out, "--quiet")
    assert status == 0, err
    result = json.loads(call("evaluate", out, "--way", 4, "--shot", 1, "--query", 3, "--tasks", 60, "--json")[1])
    assert result["accuracy"] > 0.4 and {"tf_idf", "scratch"} == set(result["baselines"])
    support = write(tmp_path / "mine.csv", [("zakopi turelo", "first"), ("venimu lokesa", "second")])
    assert call("adapt", out, "--support", support, "--out", model)[0] == 0
    lines = tmp_path / "ask.txt"
    lines.write_text("zakopi\n\nlokesa \U0001f389\n")
    rows = json.loads(call("predict", model, lines, "--json")[1])
    assert [(row["input"], row["label"]) for row in rows] == [("zakopi", "first"), ("lokesa \U0001f389", "second")]
    assert [row["label"] for row in json.loads(call("predict", model, support, "--json")[1])] == ["first", "second"]
    monkeypatch.setattr("sys.stdin", io.StringIO("venimu\n"))
    assert call("predict", model, "-")[1].split("\t")[:2] == ["venimu", "second"]
    rows = json.loads(call("predict", model, "--text", "venimu", "zakopi now", "--json")[1])
    assert [(row["input"], row["label"]) for row in rows] == [("venimu", "second"), ("zakopi now", "first")]
    for given, message in ((b"caf\xe9", "standard input is not UTF-8 at byte 3"), (b" \n", "standard input is empty")):
        lenient = io.TextIOWrapper(io.BytesIO(given), encoding="utf-8", errors="surrogateescape")
        monkeypatch.setattr("sys.stdin", lenient)
        status, _, err = call("predict", model, "-")
        assert status == 2 and message in err and err.count("\n") == 1
    again = upstairs.load_adapted(model)
    assert again.predict(["zakopi", b"venimu", lines]) == ["first", "second", again.predict([lines.read_text()])[0]]
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    hole = write(tmp_path / "hole.csv", [(" ", "a"), ("b", "b")])
    cases = [
        (("predict", model, tmp_path / "bad.txt"), "not UTF-8 at byte 3"),
        (("predict", model, tmp_path / "none.txt"), "none.txt cannot be read"),
        (("predict", model), "no inputs were given"),
        (("predict", model, "--text", " "), "is empty"),
        (("adapt", out, "--support", hole, "--out", tmp_path / "m"), "row 1, text"),
        (("train", "protonet", "--data", table, "--columns", "a,b", "--out", tmp_path / "no"), "no column 'a'"),
    ]  # fmt: skip
    for asked, message in cases:
        status, _, err = call(*asked)
        assert status == 2 and message in err and err.count("\n") == 1, f"{asked}: {err}"
    other = json.loads(
        call("evaluate", out, "--data", table, "--way", 4, "--query", 3, "--tasks", 30, "--no-baselines", "--json")[1]
    )
    assert other["split"] == "test"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer with random weights, saved as a pretrained one is."""
    transformers = pytest.importorskip("transformers", reason="transformers (extra [text]) is not installed")
    path = tmp_path_factory.mktemp("model") / "tiny"
    path.mkdir()
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{c}" for c in "aeioukzt"),
    ]
    (path / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(path)
    transformers.BertTokenizerFast(str(path / "vocab.txt"), model_max_length=32).save_pretrained(path)
    return path


def test_features_of_a_frozen_transformer(tiny: Path, table: Path, tmp_path: Path) -> None:
    import transformers

    from upstairs.data.text.embeddings import encode_layers

    texts = ["a b c", "k", "z " * 100]
    layers = encode_layers(str(tiny), texts)
    net, tokenizer = (
        transformers.AutoModel.from_pretrained(tiny).eval(),
        transformers.AutoTokenizer.from_pretrained(tiny),
    )
    for text, rows in zip(texts, layers, strict=True):  # one at a time: nothing is padded
        with torch.no_grad():
            ids = tokenizer(text, truncation=True, return_tensors="pt")
            hidden = net(**ids, output_hidden_states=True).hidden_states
        mean, words, earlier = hidden[-1][0].mean(0), hidden[-1][0, 1:-1].mean(0), hidden[-3][0, 1:-1].mean(0)
        np.testing.assert_allclose(rows[0], mean / mean.norm(), atol=1e-5)
        np.testing.assert_allclose(rows[1], words / words.norm(), atol=1e-5)  # without the marks of beginning and end
        np.testing.assert_allclose(rows[2], earlier / earlier.norm(), atol=1e-5)
    run = upstairs.train(
        "protonet", data=table, encoder=str(tiny), out=tmp_path / "run", steps=5, way=5, query=3, quiet=True
    )
    assert run.settings.net == "projection" and run.inputs.shape == (3, 16)
    model = run.adapt({"a": ["a b c"], "b": ["z z"]})
    model.save(tmp_path / "model.safetensors")
    again = upstairs.load_adapted(tmp_path / "model.safetensors")
    np.testing.assert_allclose(again.predict_proba(["a b"]), model.predict_proba(["a b"]), atol=1e-6)


def test_a_transformer_that_is_adapted(
    tiny: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before training it answers as the frozen one does; its last two layers change, and nothing else."""
    from upstairs.data.text.embeddings import encode_layers
    from upstairs.data.text.tokens import piece_format
    from upstairs.nets import PretrainedTransformer

    texts = ["a b c", "k", "z " * 100, "e f a k"]
    form = piece_format(str(tiny), texts)
    assert form.shape == (32,)
    ids = torch.from_numpy(form.read_many(texts)).float()
    net = PretrainedTransformer(str(tiny), last=1)
    monkeypatch.setattr("upstairs.nets.pretrained.PART", 3)  # texts go through it in parts, by their lengths
    with torch.no_grad():
        np.testing.assert_allclose(net.eval()(ids) / 4, encode_layers(str(tiny), texts)[:, 0], atol=1e-5)
    words = {"data": table, "encoder": str(tiny), "net": "pretrained", "way": 4, "query": 3, "quiet": True}
    run = upstairs.train("protonet", out=tmp_path / "run", steps=4, lr=1e-2, **words)
    own, before = run.learner.state_dict(), PretrainedTransformer(str(tiny)).state_dict()
    changed = {n for n, v in before.items() if not torch.equal(own[f"encoder.pretrained.{n}"], v)}
    assert changed and all(".layer.0." in n or ".layer.1." in n for n in changed)
    model = run.adapt({"a": ["a b c"], "b": ["z z"]})
    model.save(tmp_path / "model.safetensors")
    again = upstairs.load_adapted(tmp_path / "model.safetensors")
    np.testing.assert_allclose(again.predict_proba(["a b", "k k"]), model.predict_proba(["a b", "k k"]), atol=1e-6)
    found = evaluate_run(run.path, way=3, query=2, tasks=5, quiet=True)
    assert set(found["baselines"]) == {"nearest_centroid"}
    learner = run.learner.eval().for_way(3)
    each = Episodes(open_splits(run.settings, quiet=True).test, way=3, shot=1, query=2)
    with torch.no_grad():  # every text encoded once is the same as in every task anew
        head, once = embedded(learner, each, tasks=1000)
        assert once.source.feature_shape == (16,)
        torch.testing.assert_close(head.solve(once.batch([0, 1])), learner.solve(each.batch([0, 1])))
        assert embedded(learner, each, tasks=1) == (learner, each)
    upstairs.train("maml", out=tmp_path / "maml", steps=2, tasks=2, **words)
    for tune in ("norms", "lora", "all"):
        run = upstairs.train("maml", out=tmp_path / tune, steps=2, tune=tune, lr=1e-2, **words)
        own = run.learner.state_dict()
        moved = {n for n, v in before.items() if not torch.equal(own[f"net.pretrained.{n}"], v)}
        assert bool(moved) == (tune != "lora") and all("LayerNorm" in n for n in moved) == (tune != "all")
        assert not any("pooler" in n for n in moved), "which is not used"
    with pytest.raises(UpstairsError, match="`net` pretrained needs `encoder`"):
        upstairs.train("protonet", data=table, net="pretrained", out=tmp_path / "no", steps=1, quiet=True)


def test_texts_that_an_encoder_cuts_are_counted(tiny: Path, tmp_path: Path) -> None:
    rows = [(f"{'a b ' * (40 if i < 2 else 3)}{'cdefghijkl'[i]} {label}", label) for i in range(8) for label in "xyz"]
    path = write(tmp_path / "long.csv", rows)
    said, trained = {}, {"adapted": True}
    for name, options in {"features": {}, "tokens": trained, "few": trained | {"words": 9}}.items():
        said[name] = open_texts(path, encoder=str(tiny), **options).summary.partition("; ")[2]
    assert said["features"] == said["tokens"] == "6 of 24 texts are longer than 32 tokens and were cut"
    assert said["few"] == "24 of 24 texts are longer than 9 tokens and were cut: --words 32 reads more"
    with pytest.raises(UpstairsError, match="`words` is given and an encoder reads as many as it can"):
        open_texts(path, encoder=str(tiny), words=9)


def test_an_encoder_that_is_not_there(tmp_path: Path, table: Path) -> None:
    with pytest.raises(UpstairsError, match=r"is no model that can be loaded|needs transformers"):
        upstairs.train("protonet", data=table, encoder=str(tmp_path), out=tmp_path / "run", steps=1, quiet=True)


def test_a_demo_of_texts(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {f"language {k:02}": {f"{chr(97 + k % 26) * 3}{n:02} {k:02}" for n in range(60)} for k in range(40)}
    monkeypatch.setattr("upstairs.data.text.languages.names_by_language", lambda: names)  # Babel's are many
    monkeypatch.setitem(PRESETS["demo_texts"].settings, "width", 8)
    count_time(monkeypatch, 0.125)
    words = ("demo", "--kind", "text", "--minutes", 0.05, "--tasks", 20, "--out", tmp_path / "demo", "--quiet")
    status, _, err = call(*words)
    assert status == 0, err
    assert upstairs.load(tmp_path / "demo" / "protonet").meta["progress"]["step"] == 13  # of 0.25 seconds each
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert {(r["way"], r["shot"]) for r in results} == {(5, 1), (5, 5)} and "tf_idf" in results[0]["baselines"]
    assert '<span class="words">' in (tmp_path / "demo" / "report.html").read_text()
