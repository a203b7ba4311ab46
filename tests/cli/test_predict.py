"""`upstairs adapt`, `predict` and `evaluate MODEL`: inputs of any kind, answers that a program can read."""

import csv
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import upstairs as up
from helpers.runs import SMALL, draw_folder, untrained
from helpers.sounds import bytes_of, tone
from upstairs.data.audio.format import AudioFormat
from upstairs.data.images.format import ImageFormat
from upstairs.data.text.hashed import TextFormat
from upstairs.experiments.predict import row_text


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 3 classes, and models of pictures, texts, sounds and arrays."""
    home = tmp_path_factory.mktemp("models")
    pictures = draw_folder(home / "pictures", classes=3, examples=4)
    untrained(format=ImageFormat(20, 1, False)).adapt(pictures).save(home / "pictures.safetensors")
    texts = {"refund": ["i want my money back", "refund please"], "late": ["where is my parcel", "it is late"]}
    untrained(format=TextFormat(8)).adapt(texts).save(home / "texts.safetensors")
    sounds = {"low": [(tone(300), 16000)], "high": [(tone(1500), 16000)]}
    untrained(format=AudioFormat(0.5)).adapt(sounds).save(home / "sounds.safetensors")
    untrained((4,)).adapt((np.eye(4), list("abab"))).save(home / "arrays.safetensors")
    return home


def stdin(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))


def test_a_folder_a_zip_and_a_pattern(call, home: Path, tmp_path: Path) -> None:
    for name in ("sub/p10.png", "sub/p2.png", "a.png"):
        (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "new" / name).write_bytes((home / "pictures/class01/0.png").read_bytes())
    (tmp_path / "new" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "new" / "notes.txt").write_text("no picture")
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        for file in sorted((tmp_path / "new").rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path / "new"))
    expected = [f"{tmp_path / 'new'}/{name}" for name in ("a.png", "sub/p2.png", "sub/p10.png")]
    model = home / "pictures.safetensors"
    status, out, err = call("predict", model, tmp_path / "new")
    assert status == 0 and [line.split("\t")[0] for line in out.splitlines()] == expected, err
    assert "1 file ignored (.txt 1)" in err
    status, out, _ = call("predict", model, tmp_path / "new.zip")
    assert status == 0 and len(out.splitlines()) == 3
    status, out, _ = call("predict", model, f"{tmp_path}/new/**/*.png")  # a shell of Windows leaves it so
    assert status == 0 and [line.split("\t")[0] for line in out.splitlines()] == expected
    bracket = tmp_path / "a[1].png"
    bracket.write_bytes((home / "pictures/class01/0.png").read_bytes())
    assert call("predict", model, bracket)[0] == 0  # a file of that name is no pattern
    status, out, err = call("predict", model, f"{tmp_path}/none*.png")
    assert (status, out) == (2, "") and "no file is named like" in err
    (tmp_path / "empty").mkdir()
    status, out, err = call("predict", model, tmp_path / "empty")
    assert (status, out) == (2, "") and "holds no pictures" in err


def test_standard_input(call, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted((home / "pictures/class02").glob("*.png"))
    stdin(monkeypatch, "\n".join(map(str, files)) + "\r\n\n")
    status, out, _ = call("predict", home / "pictures.safetensors", "-")
    assert status == 0 and [line.split("\t")[0] for line in out.splitlines()] == list(map(str, files))
    stdin(monkeypatch, "refund please\nit is late\n")
    status, out, _ = call("predict", home / "texts.safetensors", "-", "--text", "one\tmore")
    assert status == 0 and [line.count("\t") for line in out.splitlines()] == [2, 2, 2]


def test_long_texts_are_cut_with_a_word(call, home: Path) -> None:
    status, out, err = call("predict", home / "texts.safetensors", "--text", "where is my parcel " * 3, "it is late")
    assert status == 0 and out.count("\n") == 2
    assert err == "upstairs: 1 of 2 texts are longer than 8 words and were cut: --words 12 at training reads more\n"


def test_each_input_is_one_line_whatever_its_name(call, home: Path, tmp_path: Path) -> None:
    names = ["a\tb", "c\nd", "-e", "f,g $x$ $", 'h"i', "j\rk", "l\u2028m", "猫", "n\x1b[31m"]
    pictures = draw_folder(tmp_path / "odd", classes=len(names), examples=3)
    for c, name in enumerate(names):
        (pictures / f"class{c:02d}").rename(pictures / name)
    model = untrained(format=ImageFormat(20, 1, False)).adapt(pictures).save(tmp_path / "odd.safetensors")
    files = [pictures / name / "0.png" for name in names]
    status, out, _ = call("predict", model, *files)
    assert status == 0 and out.count("\n") == len(names) == len(out.splitlines())
    assert all(line.count("\t") == 2 for line in out.splitlines()) and "\x1b" not in out and "猫" in out
    assert r"a\tb" in out.splitlines()[0]
    assert row_text({"input": "\udcff.png", "label": "a", "probability": 1.0}) == "\\udcff.png\ta\t100.0%"
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        status, out, _ = call("predict", model, *files, "--out", tmp_path / f"rows{suffix}", "--all")
        rows = list(
            csv.reader(io.StringIO((tmp_path / f"rows{suffix}").read_bytes().decode(), ""), delimiter=delimiter)
        )
        assert status == 0 and out == "" and rows[0][:3] == ["input", "label", "probability"]
        assert [row[0] for row in rows[1:]] == list(map(str, files))
        assert {row[1] for row in rows[1:]} <= set(names)
        assert [name.removeprefix("probability of ") for name in rows[0][3:]] == sorted(names)[:0] + up.load_adapted(
            model
        ).labels
        assert all(float(row[2]) == max(map(float, row[3:])) for row in rows[1:])
    status, out, _ = call("evaluate", model, "--data", pictures, "--out", tmp_path / "odd.html")
    assert status == 0 and r"a\tb " in out and "\x1b" not in out and "猫" in (tmp_path / "odd.html").read_text()
    assert call("evaluate", model, "--data", pictures, "--out", tmp_path / "odd.png")[0] == 0
    assert call("predict", model, *files, "--out", tmp_path / "rows.json")[0] == 0
    assert len(json.loads((tmp_path / "rows.json").read_text())) == len(names)
    status, _, err = call("predict", model, *files, "--out", tmp_path / "rows.xlsx")
    assert status == 2 and "--out is" in err and ".csv" in err
    assert "--all is about" in call("predict", model, *files, "--all")[2]


def test_bad_files_are_named_and_the_others_answered(call, home: Path, tmp_path: Path) -> None:
    good, model = sorted((home / "pictures/class01").glob("*.png"))[:2], home / "pictures.safetensors"
    (tmp_path / "broken.png").write_bytes(good[0].read_bytes()[:40])
    (tmp_path / "empty.png").write_bytes(b"")
    files = [good[0], tmp_path / "broken.png", tmp_path / "empty.png", tmp_path / "nowhere.png", good[1]]
    status, out, err = call("predict", model, *files)
    assert status == 1 and [line.split("\t")[0] for line in out.splitlines()] == list(map(str, good))
    assert all(str(file) in err for file in files[1:4]) and "3 of 5 inputs could not be read" in err
    status, out, err = call("predict", model, *files, "--skip-bad")
    assert status == 0 and len(out.splitlines()) == 2 and err == ""
    status, out, _ = call("predict", model, *files, "--json")
    assert status == 1 and len(json.loads(out)) == 2
    status, out, err = call("predict", model, *files[1:4])
    assert (status, out) == (2, "") and all(str(file) in err for file in files[1:4]) and err.count("\n") == 1


def test_windows_of_recordings(call, home: Path, tmp_path: Path) -> None:
    model, long = home / "sounds.safetensors", tmp_path / "long.wav"
    long.write_bytes(bytes_of(np.concatenate([tone(300), np.zeros(16000, np.float32), tone(1500)]), "WAV"))
    status, out, _ = call("predict", model, long, "--windows", "--hop", "0.25")
    rows = [line.split("\t") for line in out.splitlines()]
    assert status == 0 and [row[3] for row in rows] == ["low", "high"] and rows[0][:2] == [str(long), "0.00"]
    assert call("predict", model, long, "--windows", "--out", tmp_path / "words.csv")[0] == 0
    table = list(csv.DictReader(io.StringIO((tmp_path / "words.csv").read_bytes().decode(), "")))
    assert list(table[0]) == ["input", "start", "end", "label", "probability"] and float(table[1]["start"]) > 1
    assert len(call("predict", model, long)[1].splitlines()) == 1
    status, _, err = call("predict", model, long, "--hop", "1")
    assert status == 2 and "give --windows too" in err
    status, _, err = call("predict", model, long, "--windows", "--seconds", "0")
    assert status == 2 and "--seconds is 0" in err
    status, _, err = call("predict", home / "pictures.safetensors", long, "--windows")
    assert status == 2 and "windows are parts of recordings" in err
    status, _, err = call("predict", home / "pictures.safetensors", home / "pictures", "--windows")
    assert status == 2 and err.count("windows are parts of recordings") == 1


def test_arrays_in_files(call, home: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "many.npy", np.eye(4))
    np.save(tmp_path / "one.npy", np.ones(4))
    status, out, _ = call("predict", home / "arrays.safetensors", tmp_path / "many.npy", tmp_path / "one.npy")
    assert status == 0 and [line.split("\t")[0][-8:] for line in out.splitlines()][3:] == ["y.npy[3]"[-8:], "/one.npy"]
    status, _, err = call("predict", home / "arrays.safetensors", tmp_path / "none.npy")
    assert status == 2 and "none.npy cannot be read" in err


def flat(folder: Path, pictures: Path) -> Path:
    """The pictures of class folders in one folder, called after their classes."""
    folder.mkdir()
    for file in sorted(pictures.rglob("*.png")):
        (folder / f"{file.parent.name}_{file.name}").write_bytes(file.read_bytes())
    return folder


def test_labels_from_the_names_of_files(call, tmp_path: Path) -> None:
    folder = flat(tmp_path / "flat", draw_folder(tmp_path / "pictures", classes=3, examples=4))
    run, model = tmp_path / "run", tmp_path / "m.safetensors"
    more = flat(tmp_path / "more", draw_folder(tmp_path / "others", classes=3, examples=9))
    options = (*SMALL, "--steps", 2, "--quiet", "--pattern", "{label}_{n}")
    many = flat(tmp_path / "many", draw_folder(tmp_path / "several", classes=12))
    assert call("train", "protonet", "--data", many, "--out", run, *options)[0] == 0
    status, _, err = call("adapt", run, "--support", folder, "--out", model)
    assert status == 2 and "write --pattern '{label}" in err
    status, out, _ = call("adapt", run, "--support", folder, "--out", model, "--pattern", "{label}_{n}")
    assert status == 0 and "knows 3 classes from 12 examples (class00, class01, class02)" in out
    status, out, _ = call("evaluate", model, "--data", more, "--pattern", "{label}_{n}")
    assert status == 0 and "over 27 examples of 3 classes" in out
    options = ("--tasks", 4, "--json", "--data", more, "--pattern", "{label}_{n}", "--way", 3)
    assert call("evaluate", run, *options)[0] == 0
    assert call("compare", run, run, *options)[0] == 2  # given twice, and no option that it does not know
    texts = tmp_path / "texts"
    texts.mkdir()
    for label in ("late", "refund"):
        for n in range(2):
            (texts / f"{label}_{n}.txt").write_text(f"{label} it is, number {n}")
    named = untrained(format=TextFormat(8)).adapt(texts, pattern="{label}_{n}")
    assert named.labels == ["late", "refund"] and named.evaluate(texts, pattern="{label}_{n}")["examples"] == 4


def test_evaluate_a_model_on_labelled_files(call, home: Path, tmp_path: Path) -> None:
    model, test = home / "pictures.safetensors", draw_folder(tmp_path / "test", classes=3, examples=5, seed=0)
    status, out, _ = call("evaluate", model, "--data", test)
    assert status == 0 and "95% interval" in out and "macro F1" in out and "class02" in out
    score = json.loads(call("evaluate", model, "--data", test, "--json")[1])
    assert score["examples"] == 15 and score == json.loads(json.dumps(up.load_adapted(model).evaluate(test)))
    for name in ("score.png", "score.html", "score.svg"):
        assert call("evaluate", model, "--data", test, "--out", tmp_path / name, "--quiet")[0] == 0
        assert (tmp_path / name).stat().st_size > 1000
    with Image.open(tmp_path / "score.png") as drawn:
        assert drawn.size[0] > 100
    page = (tmp_path / "score.html").read_text()
    assert "macro F1" in page and "<svg" in page
    with zipfile.ZipFile(tmp_path / "test.zip", "w") as archive:
        for file in test.rglob("*.png"):
            archive.write(file, file.relative_to(test))
    assert json.loads(call("evaluate", model, "--data", tmp_path / "test.zip", "--json")[1])["examples"] == 15
    listing = tmp_path / "test" / "labels.csv"
    files = sorted(test.rglob("*.png"))
    listing.write_text("file,label\n" + "\n".join(f"{f.relative_to(test)},{f.parent.name}" for f in files))
    assert json.loads(call("evaluate", model, "--data", listing, "--json")[1])["confusion"] == score["confusion"]
    table = tmp_path / "texts.csv"
    table.write_text("what,kind\nrefund please now,refund\nis it late,late\n")
    status, out, _ = call("evaluate", home / "texts.safetensors", "--data", table, "--columns", "what,kind")
    assert status == 0 and "over 2 examples" in out
    cases: list[tuple[tuple[Any, ...], str]] = [
        (("evaluate", model), "labelled files as --data"),
        (("evaluate", model, "--data", test, "--way", 3), "--way is about the tasks of a run"),
        (("evaluate", model, "--data", test, "--inner-steps", 3), "--inner-steps is about"),
        (("evaluate", model, "--data", test, "--out", tmp_path / "score.xyz"), "--out is"),
        (("evaluate", model, "--data", tmp_path / "nowhere"), "nowhere"),
        (("evaluate", model, "--data", test, "--columns", "a,b"), "has no column 'a'"),
    ]
    for words, needed in cases:
        status, out, err = call(*words)
        assert (status, out) == (2, "") and needed in err and err.count("\n") == 1, f"{words}: {err}"


@pytest.fixture(scope="module")
def run(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "protonet"
    data = draw_folder(home / "train", classes=14, examples=4, seed=3)
    up.train("protonet", data=data, out=out, steps=1, way=2, query=1, width=4, validation_tasks=2, quiet=True)
    return out


def test_the_wrong_file_names_the_right_command(call, home: Path, run: Path, tmp_path: Path) -> None:
    model, picture = home / "pictures.safetensors", home / "pictures/class00/0.png"
    for words, needed in (
        (("predict", run, picture), f"upstairs adapt {run} --support"),
        (("evaluate", run / "nothing"), "there is no run"),
        (("report", model), "upstairs.load_adapted"),
        (("generate", model, "--support", home / "pictures", "--out", tmp_path / "m"), "upstairs.load_adapted"),
        (("compare", run, model), "upstairs.load_adapted"),
        (
            ("adapt", run / "best.safetensors", "--support", home / "pictures", "--out", tmp_path / "m"),
            f"directory, {run}",
        ),
        (("predict", home, picture), "is a folder: give the file"),
        (("evaluate", run, "--out", "x.png"), "upstairs report"),
    ):
        status, out, err = call(*words)
        assert (status, out) == (2, "") and needed in err and err.count("\n") == 1, f"{words}: {err}"


def test_the_user_is_told_what_the_file_holds(call, home: Path, run: Path, tmp_path: Path) -> None:
    words = ("adapt", run, "--support", home / "pictures", "--out")
    out = call(*words, tmp_path / "with")[1]
    assert "from 12 examples" in out and "the file holds the examples (--without-support leaves them out)" in out
    out = call(*words, tmp_path / "without", "--without-support")[1]
    assert "holds none of the examples" in out
    sizes = [(tmp_path / name).stat().st_size for name in ("with", "without")]
    assert sizes[0] - sizes[1] > 12 * 4 * 20 * 20
    answers = [call("predict", tmp_path / name, home / "pictures")[1] for name in ("with", "without")]
    assert answers[0] == answers[1] and len(answers[0].splitlines()) == 12


def test_values_that_would_be_lost_and_empty_inputs(call, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, _, err = call("predict", home / "texts.safetensors", "--text", "late", "--text", "refund")
    assert status == 2 and "--text was given 2 times" in err
    for model in ("pictures", "texts"):
        stdin(monkeypatch, "\n")
        status, _, err = call("predict", home / f"{model}.safetensors", "-")
        assert status == 2 and "standard input is empty" in err
