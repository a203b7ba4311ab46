"""The command line as a user meets it: the whole way on a folder of pictures, and every mistake in one sentence."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import upstairs
from helpers.runs import SMALL, draw_folder
from upstairs import storage as checkpoint
from upstairs.data.source import Source
from upstairs.data.splits import split_by_ratio


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("data") / "pictures", classes=20)


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ProtoNet trained for a few seconds on half of the pictures' classes."""
    out = tmp_path_factory.mktemp("runs") / "protonet"
    words = ["train", "protonet", "--data", pictures, "--out", out, "--quiet", *SMALL, "--steps", "40"]
    subprocess.run([sys.executable, "-m", "upstairs", *map(str, words)], check=True)
    return out


def mixed_folder(path: Path) -> Path:
    """A newcomer's folder: 10 classes of 3 to 9 pictures, all sizes, PNG and JPEG, colour and grey."""
    rng = np.random.default_rng(1)
    for c in range(10):
        folder = path / f"thing {c}"
        folder.mkdir(parents=True)
        base = rng.uniform(0, 255, (4, 4, 3))
        for e in range(int(rng.integers(3, 10))):
            height, width = (int(v) for v in rng.integers(20, 90, 2))
            picture = Image.fromarray((base + rng.uniform(0, 30, base.shape)).clip(0, 255).astype(np.uint8))
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
            picture = picture.convert("L") if e % 3 == 0 else picture
            picture.save(folder / (f"{e}.jpg" if e % 2 else f"{e}.png"))
    return path


@pytest.mark.filterwarnings("ignore::upstairs.errors.UnfamiliarWarning")  # which these photos are, to that run
def test_a_newcomers_folder(call, trained: Path, tmp_path: Path) -> None:
    folder, file = mixed_folder(tmp_path / "mine"), tmp_path / "mine.safetensors"
    status, out, _ = call("adapt", trained, "--support", folder, "--out", file)
    assert status == 0 and "10 classes" in out
    inputs = sorted(folder.rglob("*.*"))[::3]
    status, out, _ = call("predict", file, *inputs, "--json")
    rows = json.loads(out)
    assert status == 0 and [r["input"] for r in rows] == list(map(str, inputs))
    model = upstairs.load(trained).adapt(folder)
    expected = model.predict_proba(inputs)
    for row, p in zip(rows, expected, strict=True):
        assert row["label"] == model.labels[int(p.argmax())] and set(row["probabilities"]) == {
            f"thing {i}" for i in range(10)
        }
        np.testing.assert_allclose([row["probabilities"][label] for label in model.labels], p, atol=1e-6)
        assert abs(sum(row["probabilities"].values()) - 1) < 1e-6
    code = f"import upstairs, sys; print(upstairs.load_adapted({str(file)!r}).predict_proba(sys.argv[1:]).tolist())"
    other = subprocess.run([sys.executable, "-c", code, *map(str, inputs)], check=True, capture_output=True, text=True)
    np.testing.assert_allclose(json.loads(other.stdout), expected, atol=1e-6)
    one = model.predict_proba(inputs[:1])
    np.testing.assert_allclose(one, expected[:1], atol=1e-6)


def test_python_takes_dicts_and_arrays(trained: Path, pictures: Path) -> None:
    run = upstairs.load(trained)
    files = {f"class{c:02d}": sorted((pictures / f"class{c:02d}").glob("*.png"))[:3] for c in (2, 5)}
    by_dict = run.adapt(files)
    by_arrays = run.adapt(([f for fs in files.values() for f in fs], [name for name in files for _ in range(3)]))
    opened = run.adapt({label: [Image.open(f) for f in fs] for label, fs in files.items()})
    queries = sorted((pictures / "class05").glob("*.png"))[4:]
    expected = by_dict.predict_proba(queries)
    for other in (by_arrays, opened):
        assert other.labels == by_dict.labels
        np.testing.assert_allclose(other.predict_proba(queries), expected)
    assert by_dict.predict(queries) == ["class05"] * len(queries)
    assert by_dict.predict_proba([]).shape == (0, 2)


def test_it_may_answer_none_of_these(call, trained: Path, pictures: Path, tmp_path: Path) -> None:
    """Taught 10 classes: pictures of 10 others are refused but for a few, most of those of the 10 are named."""
    support, file = tmp_path / "ten", tmp_path / "model.safetensors"
    for c in range(10):
        folder = support / f"class{c:02d}"
        folder.mkdir(parents=True)
        for e in range(3):
            (folder / f"{e}.png").write_bytes((pictures / folder.name / f"{e}.png").read_bytes())
    own = [p for c in range(10) for p in sorted((pictures / f"class{c:02d}").glob("*.png"))[3:]]
    others = [p for c in range(10, 20) for p in sorted((pictures / f"class{c:02d}").glob("*.png"))]
    assert call("adapt", trained, "--support", support, "--unknown", 0.1, "--out", file, "--quiet")[0] == 0
    rows = json.loads(call("predict", file, *own, *others, "--json")[1])
    right = [row["label"] == path.parent.name for row, path in zip(rows, own, strict=False)]
    refused = [row["label"] == "none of these" for row in rows[len(own) :]]
    assert np.mean(right) > 0.7 and np.mean(refused) > 0.7, (np.mean(right), np.mean(refused))
    assert abs(sum(rows[-1]["probabilities"].values()) - 1) < 1e-6
    model = upstairs.load_adapted(file)
    assert model.predict([*own, *others]) == [row["label"] for row in rows]
    without = upstairs.load(trained).adapt(support)
    assert "none of these" not in without.predict(others)
    status, _, err = call("adapt", trained, "--support", support, "--unknown", 1.5, "--out", tmp_path / "no")
    assert status == 2 and "a share between 0 and 1" in err and not (tmp_path / "no").exists()
    for path in support.glob("*/[12].png"):  # few examples: measured on the run's validation classes
        path.unlink()
    assert call("adapt", trained, "--support", support, "--unknown", 0.2, "--out", file, "--quiet")[0] == 0
    rows = json.loads(call("predict", file, *own, "--json")[1])
    assert 0.05 < np.mean([row["label"] == "none of these" for row in rows]) < 0.4


def test_a_transductive_learner_serves_one_picture_like_many(call, pictures: Path, tmp_path: Path) -> None:
    words = ["--data", pictures, "--quiet", "--width", 4, "--way", 3, "--query", 2, "--tasks", 2, "--steps", 5]
    assert call("train", "maml", *words, "--out", tmp_path / "run")[0] == 0
    model = upstairs.load(tmp_path / "run").adapt(
        {f"class{c:02d}": sorted((pictures / f"class{c:02d}").glob("*"))[:2] for c in (1, 2)}
    )
    queries = sorted(pictures.glob("class0[12]/*.png"))
    many = model.predict_proba(queries)
    np.testing.assert_allclose(np.concatenate([model.predict_proba([q]) for q in queries]), many, atol=1e-6)
    assert many.shape == (len(queries), 2)


def test_evaluate_prints_one_json_object(call, trained: Path, pictures: Path) -> None:
    status, out, err = call("evaluate", trained, "--way", 3, "--tasks", 40, "--json")
    result = json.loads(out)
    assert status == 0 and err == ""
    keys = "learner data split way shot query tasks seed accuracy ci95 transductive baselines"
    assert set(keys.split()) <= set(result)
    assert result["learner"] == "protonet" and result["split"] == "test" and result["way"] == 3
    assert set(result["baselines"]) == {"nearest_centroid", "scratch"}
    assert 0 <= result["ci95"] < 0.2 and result["accuracy"] > 0.6
    again = json.loads(call("evaluate", trained, "--way", 3, "--tasks", 40, "--json")[1])
    assert again["accuracy"] == result["accuracy"]
    status, out, _ = call("evaluate", trained, "--tasks", 10, "--no-baselines", "--way", 3)
    assert status == 0 and "protonet" in out


def test_evaluate_on_a_foreign_folder(call, trained: Path, tmp_path: Path) -> None:
    other = draw_folder(tmp_path / "other", classes=6, seed=9, size=40)
    result = json.loads(call("evaluate", trained, "--data", other, "--tasks", 20, "--json")[1])
    assert result["split"] == "all" and result["way"] == 5 and result["data"] == str(other)


def test_report_of_two_runs_of_one_learner(call, trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    status, out, _ = call("report", trained, other, "--tasks", 20, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert status == 0 and "page.html" in out
    for text in ("protonet other", f"protonet {trained.name}", "nearest centroid", "<span>report</span>", "<svg"):
        assert text in page, text


def test_list_names_everything(call) -> None:
    status, out, _ = call("list", "--json")
    table = json.loads(out)
    assert status == 0 and {"maml", "fomaml", "anil", "protonet"} <= {row["name"] for row in table["learners"]}
    assert "glyphs" in {row["name"] for row in table["data"]} and table["presets"] and len(table["experiments"]) == 94
    assert "protonet" in call("list")[1]


def test_resume_and_its_refusals(call, pictures: Path, tmp_path: Path) -> None:
    words = ["--data", pictures, "--quiet", *SMALL]
    assert call("train", "protonet", *words, "--steps", 4, "--out", tmp_path / "run")[0] == 0
    status, _, err = call("train", "protonet", *words, "--steps", 4, "--out", tmp_path / "run")
    assert status == 2 and "holds a run already" in err and "--resume" in err
    status, _, err = call("train", "--out", tmp_path / "other", "--resume")
    assert status == 2 and "other holds no run to resume" in err
    assert call("--version")[1] == f"upstairs {upstairs.__version__}\n"
    status, _, err = call("train", "maml", "--out", tmp_path / "run", "--resume")
    assert status == 2 and "`learner` is maml" in err
    status, _, err = call("train", "--out", tmp_path / "run", "--resume", "--width", 64)
    assert status == 2 and "--width is 64 and the run" in err
    assert call("train", "--resume", tmp_path / "run", "--steps", 5, "--quiet")[0] == 0
    assert call("train", "--out", tmp_path / "run", "--resume", "--steps", 6, "--quiet")[0] == 0
    assert upstairs.load(tmp_path / "run").meta["progress"]["step"] == 6


def test_python_trains_on_arrays_and_goes_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 1, 6)) + 0.3 * rng.normal(size=(20, 6, 6))
    splits = split_by_ratio(Source.from_arrays(x.reshape(-1, 6), np.arange(20).repeat(6)), (0.5, 0.25, 0.25))
    budget = {"steps": 6, "validation_tasks": 4, "quiet": True}
    run = upstairs.train("protonet", data=splits, out=tmp_path / "run", **budget)
    assert run.settings.net == "mlp" and run.meta["progress"]["step"] == 6
    again = upstairs.train("protonet", data=splits, out=tmp_path / "run", **{**budget, "steps": 9})
    assert again.meta["progress"]["step"] == 9
    model = run.adapt((x[:3, :2].reshape(-1, 6), ["a", "a", "b", "b", "c", "c"]))
    assert model.predict([x[1, 3], x[2, 4]]) == ["b", "c"]
    with pytest.raises(upstairs.UpstairsError, match="input 0 has shape"):
        model.predict([np.zeros(7)])
    with pytest.raises(upstairs.UpstairsError, match="no setting 'step'"):
        upstairs.train("protonet", data=splits, out=tmp_path / "other", step=3)


def test_a_preset_trains_by_name_and_options_change_it(call, pictures: Path, tmp_path: Path) -> None:
    words = ["--data", pictures, "--quiet", *SMALL, "--steps", 2, "--out", tmp_path / "run"]
    assert call("train", "omniglot_protonet", *words)[0] == 0
    settings = upstairs.load(tmp_path / "run").settings
    assert settings.learner == "protonet" and settings.way == 3 and settings.steps == 2 and settings.minutes is None


def with_file(path: Path, name: str, content: bytes) -> Path:
    draw_folder(path, classes=12)
    (path / "class01" / name).write_bytes(content)
    return path


def test_bad_input(call, trained: Path, pictures: Path, tmp_path: Path) -> None:
    """Each mistake: status 2, one sentence that names the thing, no traceback, nothing left behind."""
    (tmp_path / "empty").mkdir()
    png = sorted((pictures / "class00").glob("*.png"))[0].read_bytes()
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20000, 20000)).save(bomb)
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "zero.png").write_bytes(b"")
    half = tmp_path / "half"
    half.mkdir()
    content = (trained / "last.safetensors").read_bytes()
    (half / "last.safetensors").write_bytes(content[: len(content) // 2])
    train = ("train", "protonet", "--quiet", "--steps", 2, "--out", tmp_path / "out")
    model = tmp_path / "model.safetensors"
    assert call("adapt", trained, "--support", pictures, "--out", model, "--quiet")[0] == 0
    cases = [
        ((*train, "--data", tmp_path / "nowhere"), "nowhere"),
        ((*train, "--data", tmp_path / "empty"), "empty"),
        ((*train, "--data", pictures, "--way", 2, "--shot", 1, "--query", 9), "have too few"),
        ((*train, "--data", pictures, "--way", 50), "--way is 50"),
        ((*train, "--data", pictures, "--way", 1), "--way is 1"),
        ((*train, "--data", pictures, "--shot", -3), "--shot is '-3'"),
        ((*train, "--data", pictures, "--shot", 8), "8 examples and 8 shot"),
        ((*train, "--data", pictures, "--lr", 0), "--lr is 0"),
        ((*train, "--data", pictures, "--chunk", 0), "--chunk is 0"),
        ((*train, "--data", pictures, "--memory", "much"), "memory is 'much'"),
        ((*train, "--data", pictures, "--split", "vinyals"), "vinyals"),
        ((*train, "--data", with_file(tmp_path / "cut", "x.png", png[: len(png) // 2])), "x.png"),
        ((*train, "--data", with_file(tmp_path / "text", "x.png", b"hello")), "x.png"),
        ((*train, "--data", with_file(tmp_path / "zero", "x.png", b"")), "x.png"),
        ((*train, "--data", with_file(tmp_path / "bomb", "x.png", bomb.read_bytes())), "x.png"),
        (("train", "nonesuch", "--out", tmp_path / "out"), "no learner 'nonesuch'"),
        (("train", "--out", tmp_path / "out"), "no learner was named"),
        ((*train, "--data", pictures, "--minutes", 1), "one budget"),
        (("evaluate", tmp_path / "nowhere"), "there is no run"),
        (("evaluate", tmp_path / "empty"), "holds no checkpoint"),
        (("evaluate", half), "damaged"),
        (("evaluate", trained, "--way", 30), "--way is 30"),
        (("evaluate", trained, "--way", 3, "--tasks", 0), "--tasks is 0"),
        (("evaluate", trained, "--shot", -1), "--shot is -1"),
        (("adapt", trained, "--support", tmp_path / "empty", "--out", tmp_path / "m"), "empty"),
        (("adapt", trained, "--support", bomb, "--out", tmp_path / "m"), "bomb.png"),
        (("predict", tmp_path / "none.safetensors", bomb), "none.safetensors"),
        (("predict", trained / "last.safetensors", bomb), "an adapted model"),
        (("predict", model, bomb), "bomb.png"),
        (("predict", model, tmp_path / "text.png"), "text.png"),
        (("predict", model, tmp_path / "zero.png"), "zero.png"),
        (("predict", model, tmp_path / "nowhere.png"), "nowhere.png"),
        (("report", tmp_path / "nowhere"), "there is no run"),
    ]  # fmt: skip
    for words, needed in cases:
        status, out, err = call(*words)
        assert status == 2, f"{words}: status {status}, {err}"
        assert needed in err and "Traceback" not in err and out == "", f"{words}: {err}"
        assert err.count("upstairs: ") == 1 and err.count("\n") <= 2, f"{words}: {err}"  # after what was read
        assert not (tmp_path / "out").exists() and not (tmp_path / "m").exists(), f"{words} left something behind"


def test_a_checkpoint_of_another_version(call, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, meta = checkpoint.load_tensors(trained / "last.safetensors", kind="run")
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    checkpoint.save_tensors(tmp_path / "run" / "last.safetensors", tensors, {**meta, "format": 2}, kind="run")
    monkeypatch.undo()
    status, _, err = call("evaluate", tmp_path / "run")
    assert status == 2 and "format 2" in err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of a file as Linux does")
def test_a_full_disk_keeps_the_last_good_checkpoint(trained: Path, pictures: Path, tmp_path: Path) -> None:
    """A file-size limit stands in for the disk: the first checkpoint fits, later ones (with Adam's state) do not."""
    words = [
        "train",
        "protonet",
        "--data",
        str(pictures),
        "--quiet",
        *SMALL,
        "--steps",
        "20",
        "--out",
        str(tmp_path / "run"),
    ]
    code = """
import resource, signal
from upstairs.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8600, 8600))
main()
"""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 2 and "could not be written" in done.stderr and "Traceback" not in done.stderr
    assert upstairs.load(tmp_path / "run").meta["progress"]["step"] == 0
    assert sorted(f.name for f in (tmp_path / "run").iterdir()) == ["last.safetensors", "settings.json"]


def test_help_teaches() -> None:
    for command in ("", "demo", "train", "evaluate", "compare", "breadth", "adapt", "predict", "report", "list"):
        words = [sys.executable, "-m", "upstairs", *command.split(), "--help"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert "usage" in done.stdout.lower()
