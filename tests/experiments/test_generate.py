"""More of classes seen once: files and sheets, errors in one sentence, and the judge."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import upstairs
from helpers.runs import SMALL, Call, draw_folder
from upstairs.data.source import Source
from upstairs.errors import UpstairsError
from upstairs.experiments.generate import make_sheet
from upstairs.experiments.generator_quality import REAL, copies, judge_generators, noise
from upstairs.learners import ProtoNet


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("pictures"), classes=12, examples=5)


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "redrawing"
    upstairs.train(
        "redrawing", data=str(pictures), out=out, steps=2, width=2, tasks=2, query=2, validations=1,
        validation_tasks=2, quiet=True,
    )  # fmt: skip
    return out


def test_generate_writes_pictures_and_a_sheet(call: Call, trained: Path, pictures: Path, tmp_path: Path) -> None:
    support, out = tmp_path / "support", tmp_path / "more"
    for label in ("class00", "class01"):
        shutil.copytree(pictures / label, support / label)
    (support / "class01" / "4.png").unlink()
    assert call("generate", trained, "--support", support, "--out", out, "--count", 11)[0] == 0
    names = sorted(str(file.relative_to(out)) for file in out.rglob("*.png"))
    assert names == [f"class0{k}/{n:02d}.png" for k in (0, 1) for n in range(11)] + ["sheet.png"]
    made = upstairs.load(trained).generate(support, count=11)
    assert list(made) == ["class00", "class01"] and made["class00"].shape[0] == 11
    ink = made["class01"][7, 0]
    ink = 255 - 255 * ink if ink.mean() < 0.5 else 255 * ink
    assert np.abs(np.asarray(Image.open(out / "class01" / "07.png")) - ink.round()).max() <= 1
    sheet = np.asarray(Image.open(out / "sheet.png"))
    assert sheet.shape == (2 * 70, (5 + 10) * 70 + 12, 3) and (sheet[:, 5 * 70 + 4] == 128).all()


def test_pictures_of_one_class_need_no_class_folder(call: Call, trained: Path, pictures: Path, tmp_path: Path) -> None:
    assert call("generate", trained, "--support", pictures / "class03", "--out", tmp_path / "x", "--count", 2)[0] == 0
    assert (tmp_path / "x" / "class03" / "1.png").is_file()
    one = pictures / "class03" / "1.png"
    assert call("generate", trained, "--support", one, "--out", tmp_path / "y", "--count", 2)[0] == 0
    assert (tmp_path / "y" / "1" / "1.png").is_file()
    first, second = (upstairs.load(trained).generate(pictures, count=2, seed=seed) for seed in (0, 1))
    assert not np.array_equal(first["class03"], second["class03"])


def test_what_cannot_be_made_is_said(call: Call, trained: Path, pictures: Path, tmp_path: Path) -> None:
    protonet, broken = tmp_path / "protonet", tmp_path / "broken" / "a"
    assert call("train", "protonet", "--data", pictures, "--steps", 2, "--out", protonet, "--quiet", *SMALL)[0] == 0
    (tmp_path / "empty").mkdir()
    broken.mkdir(parents=True)
    (broken / "x.png").write_bytes(b"hello")
    generate, out = ("generate", trained, "--support", pictures, "--out"), tmp_path / "out"
    cases = [
        (("generate", protonet, "--support", pictures, "--out", out), "which makes no examples"),
        (("generate", trained, "--support", tmp_path / "empty", "--out", out), "holds no pictures"),
        (("generate", trained, "--support", tmp_path / "nowhere", "--out", out), "does not exist"),
        (("generate", trained, "--support", broken.parent, "--out", out), "x.png"),
        ((*generate, out, "--count", 0), "--count is 0"),
        ((*generate, pictures), "nothing is written over"),
        (("adapt", trained, "--support", pictures, "--out", tmp_path / "m"), "names none"),
        (("report", trained, protonet), "makes nothing"),
        (("evaluate", trained, "--way", 2, "--query", 1), "leave --way out"),
    ]
    for words, message in cases:
        status, _, error = call(*words)
        assert status == 2 and message in error and "Traceback" not in error, (words, error)
    assert not (out / "sheet.png").exists()


def test_a_generator_is_evaluated_by_its_bound(call: Call, trained: Path) -> None:
    status, out, _ = call("evaluate", trained, "--tasks", 2, "--query", 1, "--split", "train")
    assert status == 0 and "bound" in out and "1-way 1-shot" in out


def test_sheet_of_unequal_rows() -> None:
    one, three = [np.zeros((1, 28, 28))], [np.ones((1, 28, 28))] * 3
    assert make_sheet({"a": (one, three), "b": (three, one)}).size == (6 * 62 + 12, 2 * 62)


def test_the_judge_knows_good_from_bad() -> None:
    """On classes that an untrained eye tells apart: copies are right and all alike, noise is neither, the real is both.

    Variety by numpy: distances of two Gaussian examples of a class, sqrt(2) times that from its mean.
    """
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(25), 12)
    x = 3 * rng.normal(size=(25, 16))[y] + rng.normal(size=(300, 16))
    source = Source.from_arrays(x.astype(np.float32), y)

    def double(support, count, numbers):  # twice as far from the example as an example is from another
        return support.x + 2 * torch.randn(count, 16, generator=numbers)

    draws = {"copies": copies, "noise": noise, "wide": double}
    found = judge_generators(ProtoNet(nn.Identity(), way=20), source, draws, tasks=30)
    assert found[REAL]["recognised"] > 0.97 and found[REAL]["variety"] == 1 and found[REAL]["variety_ci95"] == 0
    assert found["copies"]["recognised"] > 0.97 and found["copies"]["variety"] == 0
    assert found["noise"]["recognised"] < 0.3
    assert found["wide"]["variety"] == pytest.approx(2, abs=0.1) and found["wide"]["recognised"] < 1
    assert 0 < found["wide"]["variety_ci95"] < 0.1


def test_examples_are_generated_from_arrays(tmp_path: Path) -> None:
    from upstairs.data.splits import split_by_ratio

    x = np.random.default_rng(0).random(size=(60, 1, 16, 16)).astype(np.float32)
    run = upstairs.train(
        "redrawing", data=split_by_ratio(Source.from_arrays(x, np.repeat(np.arange(10), 6))),
        out=tmp_path / "run", steps=2, width=2, validations=1, validation_tasks=2, quiet=True,
    )  # fmt: skip
    made = run.generate({"mine": list(x[:3])}, count=4)
    assert made["mine"].shape == (4, 1, 16, 16) and np.isfinite(made["mine"]).all()
    with pytest.raises(UpstairsError, match="was not trained on pictures"):
        from upstairs.experiments.generate import generate_folder

        generate_folder(tmp_path / "run", support=tmp_path, out=tmp_path / "more")


def test_the_report_shows_sheets_and_bounds_by_shots(trained: Path, call: Call, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert call("report", trained, "--out", page, "--tasks", 3, "--quiet")[0] == 0
    text = page.read_text()
    assert "nats per example" in text and "redrawing goes from -" in text and text.count("data:image/png") > 10


def test_the_bound_of_a_statistician_starts_at_no_examples(pictures: Path, call: Call, tmp_path: Path) -> None:
    run, page = tmp_path / "statistician", tmp_path / "page.html"
    sizes = ("--steps", 2, "--tasks", 2, "--query", 2, "--validation-tasks", 2, "--width", 4, "--quiet")
    assert call("train", "neural_statistician", "--data", pictures, "--out", run, "--shot", 1, *sizes)[0] == 0
    assert call("report", run, "--out", page, "--tasks", 3, "--quiet")[0] == 0
    assert " at 0 to " in page.read_text()
