"""An adapted model in Python: one item is one item, answers have scores, and mistakes are sentences."""

import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from scipy.sparse import csr_matrix

import upstairs as up
from helpers.runs import draw_folder, untrained
from helpers.sounds import bytes_of, tone
from upstairs.core import Examples
from upstairs.data.audio.format import AudioFormat
from upstairs.data.images.format import ImageFormat
from upstairs.data.text.hashed import TextFormat
from upstairs.engine.metrics import score_answers
from upstairs.errors import TruncationWarning
from upstairs.learners import LEARNERS
from upstairs.storage import save_tensors
from upstairs.training.inputs import Inputs, label_text, read_support
from upstairs.training.model import Model

TEXTS = {"refund": ["i want my money back", "refund please"], "late": ["where is my parcel", "it is late"]}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return draw_folder(tmp_path / "pictures", classes=3, examples=4)


@pytest.fixture
def named(pictures: Path) -> Model:
    return untrained(format=ImageFormat(20, 3, False)).adapt(pictures)


class Frame:
    """What pandas and polars have in common: columns, rows by name, and an array."""

    def __init__(self, **columns: Any) -> None:
        self.values, self.columns = columns, list(columns)

    def __getitem__(self, name: str) -> np.ndarray:
        return np.array(self.values[name])

    def __iter__(self) -> Any:
        return iter(self.columns)

    def to_numpy(self) -> np.ndarray:
        return np.stack([np.array(v) for v in self.values.values()], 1)


def test_one_picture_is_one_picture(named: Model, pictures: Path, tmp_path: Path) -> None:
    file = pictures / "class01" / "0.png"
    content = file.read_bytes()
    read = io.BytesIO(content)
    read.read()  # its end: a file is read from its start
    upload = SimpleNamespace(file=io.BytesIO(content), filename="0.png", read=lambda: 1 / 0)  # a web framework's
    whole = np.asarray(Image.open(file).convert("RGB"))
    wanted = named.logits([file])
    with file.open("rb") as handle, tempfile.NamedTemporaryFile(suffix=".png") as spare:
        spare.write(content)
        spare.flush()
        for item in (
            str(file), file, np.str_(file), content, bytearray(content), memoryview(content), read, handle, upload,
            spare, Image.open(file), whole, torch.from_numpy(whole.copy()), whole.transpose(2, 0, 1),
        ):  # fmt: skip
            got = named.predict(item)
            assert len(got) == 1, type(item)
            torch.testing.assert_close(named.logits(item), wanted)
    assert named.predict(iter([read, read])) == named.predict([file, file])
    for several in (
        np.stack([whole] * 3),
        [whole] * 3,
        (file for _ in range(3)),
        np.array([str(file)] * 3),
        map(str, [file] * 3),
    ):
        assert len(named.predict(several)) == 3
    many = named.logits(file for _ in range(130))
    assert many.shape == (130, 3) and torch.allclose(many, wanted.expand(130, -1), atol=1e-6)
    assert named.predict([]) == [] and named.predict_proba(iter(())).shape == (0, 3)


def test_one_text_is_one_text(tmp_path: Path) -> None:
    model = untrained(format=TextFormat(8)).adapt(TEXTS)
    (tmp_path / "note.txt").write_text("refund please")
    assert len(model.predict("where is my parcel")) == 1
    for item in ("refund please", tmp_path / "note.txt", b"refund please", io.StringIO("refund please")):
        assert torch.equal(model.logits(item), model.logits(["refund please"]))
    assert len(model.predict(np.array("one"))) == 1
    assert len(model.predict(np.array(["one", "two"]))) == 2 and len(model.predict({"a set"})) == 1
    with pytest.raises(up.UpstairsError, match=r"table with the columns text, label.*table\['text'\]"):
        model.predict(Frame(text=["a"], label=["b"]))


def test_a_model_says_once_that_it_cuts_long_texts() -> None:
    long, run = "one two three four five", untrained(format=TextFormat(4))
    with pytest.warns(TruncationWarning, match="1 of 4 texts are longer than 4 words and were cut: --words 5 at train"):
        model = run.adapt({"a": [long, "b c"], "d": ["e", "f"]})
    for call in (model.predict, model.predict_proba, lambda texts: model.evaluate((texts, ["a"] * 200))):
        with pytest.warns(TruncationWarning) as said:
            call([long, "short"] * 100)
        assert [str(one.message).split(" are")[0] for one in said] == ["100 of 200 texts"]
    model.predict(["short", "one two three four"])  # a warning would be an error


def test_one_array_is_one_array() -> None:
    model = untrained((4,)).adapt((torch.eye(4), ["a", "b", "a", "b"]))
    row = np.array([1.0, 2.0, 3.0, 4.0])
    frame = Frame(a=[1.0, 1.0], b=[2.0, 2.0], c=[3.0, 3.0], d=[4.0, 4.0])
    wanted = model.logits([row])
    for item in (
        row,
        row.tolist(),
        tuple(row),
        torch.tensor(row, requires_grad=True),
        row.astype(np.float16),
        torch.tensor(row, dtype=torch.bfloat16),
    ):
        assert torch.equal(model.logits(item), wanted), item
    for several in ([row, row], np.stack([row, row]), torch.tensor(np.stack([row, row])), frame, [[*row], [*row]]):
        assert torch.equal(model.logits(several), wanted.expand(2, -1))


def test_one_sound_is_one_sound(tmp_path: Path) -> None:
    model = untrained(format=AudioFormat(0.5)).adapt({"low": [(tone(300), 16000)], "high": [(tone(900), 16000)]})
    wave = tone(300, seconds=0.5)
    (tmp_path / "a.wav").write_bytes(bytes_of(wave, "WAV"))
    wanted = model.logits([(wave, 16000)])
    stereo = torch.from_numpy(np.stack([wave, wave]))  # torchaudio's: channels first
    for item in (
        (wave, 16000),
        (16000, wave),
        [wave, 16000.0],
        (stereo, 16000),
        {"array": wave, "sampling_rate": 16000},
    ):
        torch.testing.assert_close(model.logits(item), wanted)
    for item in (tmp_path / "a.wav", str(tmp_path / "a.wav"), io.BytesIO((tmp_path / "a.wav").read_bytes())):
        torch.testing.assert_close(model.logits(item), wanted, atol=0.05, rtol=0.05)
    assert len(model.predict([(wave, 16000), (wave, 16000)])) == 2
    assert (
        len(model.predict([str(tmp_path / "a.wav")] * 2))
        == 2
        == len(model.predict(np.array([str(tmp_path / "a.wav")] * 2)))
    )
    for wrong in (wave, stereo, (wave, "fast"), [("a.wav", 3)], (wave, 0)):
        with pytest.raises(up.UpstairsError, match=r"give \(samples, rate\)|fast"):
            model.predict(wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda m, r: m.predict(None), "type NoneType: give a path"),
        (lambda m, r: m.predict(3), "int: give"),
        (lambda m, r: m.predict(torch.tensor(3.0)), "type float: give"),
        (lambda m, r: m.predict({"a": [1.0] * 4}), "type dict: give"),
        (lambda m, r: m.predict(np.zeros((2, 5))), r"shape \(2, 5\) and this learner takes \(4,\)"),
        (lambda m, r: m.predict([np.zeros(4), np.zeros(5), np.zeros(6)]), "2 inputs cannot be used: input 1 .*input 2"),
        (lambda m, r: m.predict([[0.0, 1.0, float("nan"), 0.0]]), "input 0 has values that are no finite numbers"),
        (lambda m, r: m.predict(np.ma.masked_equal(np.eye(4), 1)), "input 0 has a mask that hides 1 of 4"),
        (lambda m, r: r.adapt((np.ma.masked_equal(np.eye(4), 1), list("abab"))), "input 3 has a mask"),
        (lambda m, r: m.predict([["a", "b", "c", "d"]]), "input 0 has values that are no finite numbers"),
        (lambda m, r: m.predict("nowhere.npy"), r"nowhere.npy cannot be read .* \.npy file"),
        (lambda m, r: m.evaluate({"z": np.zeros((1, 4))}), "the labels are z and the model knows a, b"),
        (lambda m, r: m.predict_windows("x.wav"), "windows are parts of recordings"),
        (lambda m, r: r.adapt(5), "the support set is of type int: give"),
        (lambda m, r: r.adapt((np.zeros((2, 4)), np.eye(2))), "give each a name or a number, such as y.argmax"),
        (lambda m, r: r.adapt((np.zeros((2, 4)), [1.0, float("nan")])), "input 1 has the label nan"),
        (lambda m, r: r.adapt((np.zeros((2, 4)), ["a", None])), "input 1 has the label None"),
        (lambda m, r: r.adapt((np.zeros((2, 4)), ["a"])), "2 inputs and 1 labels"),
        (lambda m, r: r.adapt((np.zeros((2, 4)), 5)), "2 inputs and 1 labels"),
        (lambda m, r: r.adapt((np.zeros((1, 4)), torch.tensor(5))), "has 1 classes"),
        (lambda m, r: r.adapt((np.zeros((2, 4)), "ab")), "2 inputs and 1 labels"),
        (lambda m, r: r.adapt("x", columns="a,b"), "x does not exist: give a folder"),
        (lambda m, r: r.generate({"a": np.zeros((1, 4))}), "makes no examples"),
        (lambda m, r: up.compare("nowhere"), "there is no run at nowhere"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_sentence(wrong: Callable[[Any, Any], object], message: str) -> None:
    run = untrained((4,))
    model = run.adapt((np.eye(4), ["a", "b", "a", "b"]))
    with pytest.raises(up.UpstairsError, match=message):
        wrong(model, run)


WRONG_TYPES = """
import numpy as np, upstairs as up
from helpers.runs import untrained
from upstairs.data.audio.format import AudioFormat
run, tone = untrained((4,)), (np.sin(np.arange(8000) / 9), 16000)
model = run.adapt((np.eye(4), list("abab")))
for wrong in (
    lambda: run.adapt((np.eye(4), list("abab")), unknown="much"),
    lambda: run.adapt((np.eye(4), list("abab")), others="val"),
    lambda: up.load(None), lambda: up.load_adapted(3), lambda: up.evaluate(run, None), lambda: up.load(True),
    lambda: up.evaluate(run.learner, "omniglot"), lambda: up.compare([3, 4]),
    lambda: up.compare(None), lambda: up.train("maml", out=None), lambda: model.save(None),
    lambda: up.load("x", learner="maml"),
    lambda: untrained(format=AudioFormat(0.5)).adapt({"a": [tone], "b": [tone]}).predict_windows(tone, seconds="1"),
):
    try:
        wrong()
    except up.UpstairsError as error:
        print(error)
import sys, upstairs.experiments.predict
print({"scipy", "matplotlib"} & {*sys.modules})  # they take a second, for which `upstairs predict` need not wait
"""


def test_arguments_of_another_type() -> None:
    """In a process of its own, without the types that tests check."""
    found = subprocess.run(
        [sys.executable, "-c", WRONG_TYPES], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    said = ["`unknown` is 'much', of", "`others` is 'val', of", "`path` is None", "`path` is 3", "`learner` is Run(",
            "`path` is True", "`episodes` is 'omniglot'", "`path` is 3",
            "`runs` is None", "`out` is None", "`path` is None", "`learner` is 'maml'", "`seconds` is '1'"]  # fmt: skip
    lines = found.stdout.splitlines()
    assert lines.pop() == "set()"
    assert len(lines) == len(said) and all(line.startswith(one) for line, one in zip(lines, said, strict=True)), lines


def test_what_pictures_are_not(named: Model, pictures: Path) -> None:
    with (
        (pictures / "class00" / "0.png").open(encoding="latin-1") as text,
        pytest.raises(up.UpstairsError, match="'rb'"),
    ):
        named.predict(text)
    closed = io.BytesIO()
    closed.close()
    with pytest.raises(up.UpstairsError, match="input 0 cannot be read"):
        named.predict(closed)
    with pytest.raises(up.UpstairsError, match="input 1"):
        named.predict([np.zeros((8, 8)), np.full((8, 8), np.nan)])
    grey = untrained(format=ImageFormat(20, 1, False)).adapt(pictures)
    assert len(grey.predict(np.zeros((4, 20, 20)))) == 4
    with pytest.raises(up.UpstairsError, match="one colour picture or three grey ones"):
        grey.predict(np.zeros((3, 20, 20)))
    assert len(grey.predict([np.zeros((3, 20, 20))])) == 1


def test_labels_of_any_container(pictures: Path) -> None:
    inputs, x = Inputs((4,), None), np.eye(4)
    for y in (["a", "b", "a", "b"], np.array(["a", "b", "a", "b"]), np.array(["a", "b", "a", "b"], object)):
        assert read_support((x, y), inputs)[::2] == (["a", "b"], [0, 0, 1, 1])
    for y in (
        [1, 2, 1.0, 2],
        np.array([1.0, 2.0, 1.0, 2.0]),
        torch.tensor([1, 2, 1, 2]),
        torch.tensor([1.0, 2.0, 1, 2]),
    ):
        assert read_support((torch.eye(4), y), inputs)[::2] == (["1", "2"], [0, 0, 1, 1])
    assert read_support(Examples(torch.eye(4), torch.tensor([0, 1, 0, 1])), inputs)[0] == ["0", "1"]
    assert label_text(" pâte ") == "p\xe2te" and label_text("Pa\u0302te") == "P\xe2te"
    assert read_support({"None": np.eye(4), "nan": np.eye(4)}, inputs)[0] == ["None", "nan"]  # bread, and no bread
    one = read_support(
        {"a": pictures / "class00" / "0.png", " b": str(pictures), "b ": b""},
        Inputs((3, 20, 20), ImageFormat(20, 3, False)),
    )
    assert one[0] == ["a", "b"] and len(one[1]) == 3


def test_the_score_of_known_answers() -> None:
    """Five inputs of two known classes, one refused, and two of a class that the model does not know."""
    truth = ["a", "a", "a", "b", "b", "z", "z"]
    answers = ["a", "b", "none of these", "b", "b", "none of these", "a"]
    p = np.array([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.2, 0.8], [0.1, 0.9], [0.5, 0.5], [0.9, 0.1]])
    score = score_answers(truth, answers, p, ["a", "b", "c"][:2], refusal="none of these")
    assert score["examples"] == 5 and score["accuracy"] == pytest.approx(3 / 5)
    assert score["interval"] == pytest.approx((0.2307, 0.8824), abs=1e-4)  # Wilson's of 3 of 5
    assert score["classes"]["a"] == pytest.approx({"examples": 3, "precision": 1, "recall": 1 / 3, "f1": 1 / 2})
    assert score["classes"]["b"] == pytest.approx({"examples": 2, "precision": 2 / 3, "recall": 1, "f1": 4 / 5})
    assert score["macro_f1"] == pytest.approx(0.65) and score["refused"] == pytest.approx(1 / 5)
    assert score["unknown"] == {"z": 2} and score["unknown_refused"] == pytest.approx(1 / 2)
    assert score["rows"] == ["a", "b", "z"] and score["columns"] == ["a", "b", "none of these"]
    assert score["confusion"] == [[1, 1, 1], [0, 2, 0], [1, 0, 1]]
    # bins: 0.6 (one right of two), 0.8 (right), 0.9 (two right)
    assert score["calibration_error"] == pytest.approx((abs(1 - 1.2) + 0.2 + 0.2) / 5)
    for said in (
        "accuracy 60.0% (95% interval 23.1% to 88.2%, over 5 examples of 2 classes)",
        "z 2 (50.0% of them refused)",
        "a as b 1",
    ):
        assert said in str(score)


def test_evaluate_names_support_examples_and_unknown_labels(named: Model, pictures: Path, tmp_path: Path) -> None:
    test = draw_folder(tmp_path / "test", classes=3, examples=6)  # the same patterns, other noise
    (test / "class02").rename(test / "stranger")
    same = test / "class01" / "copy.png"
    same.write_bytes((pictures / "class01" / "2.png").read_bytes())
    score = named.evaluate(test)
    assert str(same) in score["repeated"] and score["unknown"] == {"stranger": 6} and score["unknown_refused"] is None
    assert "support examples" in str(score) and "adapt with `unknown`" in str(score)
    files = [file for name in ("class00", "class01") for file in sorted((test / name).glob("*"))]
    again = named.evaluate((files, [file.parent.name for file in files]))
    assert again["accuracy"] == score["accuracy"] and again["unknown"] == {}
    assert again["accuracy"] == np.mean([p == f.parent.name for p, f in zip(named.predict(files), files, strict=True)])
    (test / "class00" / "1.png").write_bytes(b"no picture")
    (test / "class01" / "3.png").write_bytes(b"")
    with pytest.raises(up.UpstairsError, match=r"2 inputs cannot be used: .*class00/1.png .*class01/3.png"):
        named.evaluate(test)


@pytest.mark.parametrize("name", [name for name, line in LEARNERS.items() if line.classification is not None])
def test_a_file_without_the_support_examples(name: str, tmp_path: Path) -> None:
    """It predicts the same bits, and no tensor of it holds a support example."""
    run = untrained((1, 16, 16), learner=name)
    for layer in run.learner.modules():
        if "measured" in layer._buffers:
            layer._buffers["measured"].fill_(True)
    x = torch.rand(5, 1, 16, 16)
    model = run.adapt((x, ["a", "b", "c", "a", "a"]))
    if model.learner.needs_support:
        with pytest.raises(up.UpstairsError, match="`support` is False"):
            model.save(tmp_path / "m.safetensors", support=False)
        return
    again = up.load_adapted(model.save(tmp_path / "m.safetensors", support=False))
    assert again.support is None and torch.equal(again.logits(x), model.logits(x))
    twice = up.load_adapted(again.save(tmp_path / "n.safetensors"))
    assert twice.support is None and torch.equal(twice.logits(x), model.logits(x))
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118 (it is no dict)
            held = file.get_tensor(key)
            assert held.dim() < 2 or held.shape[-2:] != (16, 16), key


def test_windows_find_a_word_in_a_long_recording(tmp_path: Path) -> None:
    model = untrained(format=AudioFormat(0.5)).adapt({"low": [(tone(300), 16000)], "high": [(tone(1500), 16000)]})
    quiet = np.zeros(16000, np.float32)
    long = np.concatenate([tone(300), quiet, tone(1500, seconds=2.0), quiet])
    windows = model.predict_windows((long, 16000), hop=0.25)
    assert [w.label for w in windows] == ["low", "high"]
    low, high = windows
    assert low.start == 0 and 1.0 <= low.end <= 1.5 and 1.5 <= high.start <= 2.0 and 4.0 <= high.end <= 4.5
    assert all(0.5 < w.probability <= 1 for w in windows)
    (tmp_path / "long.wav").write_bytes(bytes_of(long, "WAV"))
    assert [w.label for w in model.predict_windows(tmp_path / "long.wav")] == ["low", "high"]
    assert len(model.predict_windows((tone(300, seconds=0.2), 16000))) == 1  # shorter than a window
    for wrong in ({"hop": 0}, {"hop": -1.0}, {"seconds": 0}, {"seconds": float("nan")}):
        with pytest.raises(up.UpstairsError, match=next(iter(wrong))):
            model.predict_windows((long, 16000), **wrong)


def test_labels_are_values_of_an_enum_and_finite() -> None:
    assert label_text(StrEnum("Kind", {"CAT": "cat"}).CAT) == "cat"
    with pytest.raises(up.UpstairsError, match="has the label inf"):
        label_text(float("inf"))


def test_paths_that_are_none(named: Model) -> None:
    for path, message in (("", "input 0 is an empty path"), ("https://a.org/b.png", "is no path of a file")):
        with pytest.raises(up.UpstairsError, match=message):
            named.predict(path)
    with pytest.raises(up.UpstairsError) as caught:
        named.predict("iVBORw0KGgo" * 1000)
    assert len(str(caught.value)) < 200


def test_the_checkpoint_of_a_run_is_not_written_over(named: Model, tmp_path: Path) -> None:
    save_tensors(tmp_path / "best.safetensors", {}, {}, kind="run")
    with pytest.raises(up.UpstairsError, match="checkpoint of a run, which would be lost"):
        named.save(tmp_path / "best.safetensors")


@pytest.mark.parametrize("learner", ["protonet", "maml"])
def test_a_model_made_in_inference_mode_serves_outside_of_it(learner: str) -> None:
    run = untrained((4,), learner=learner)
    support, x = (np.eye(4), list("abab")), np.ones((2, 4))
    expected = run.adapt(support).predict_proba(x)
    with torch.inference_mode():
        model = run.adapt(support)
        np.testing.assert_array_equal(model.predict_proba(x), expected)
    np.testing.assert_array_equal(model.predict_proba(x), expected)


def test_inputs_that_would_be_misread(named: Model) -> None:
    pairs = [("red car", "a"), ("blue sky", "b")]
    assert read_support(pairs, Inputs((8,), TextFormat(8)))[:2] == (["a", "b"], ["red car", "blue sky"])
    with pytest.raises(up.UpstairsError, match=r"shape \[20, 20, 2\] is no picture"):
        named.predict(np.zeros((20, 20, 2), np.uint8))
    with pytest.raises(up.UpstairsError, match="the path of the support set is empty"):
        read_support("", named.inputs)
    numbers = untrained((4,)).adapt((np.eye(4), list("abab")))
    with pytest.raises(up.UpstairsError, match="input 1 has values that are no finite numbers"):
        numbers.predict([[1.0] * 4, [1e40] * 4])
    sparse = csr_matrix(np.eye(4))
    assert numbers.predict(sparse) == numbers.predict(torch.eye(4).to_sparse()) == numbers.predict(np.eye(4))
