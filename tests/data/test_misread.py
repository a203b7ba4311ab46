"""Inputs as strangers have them, which were once misread in silence or ended in a traceback."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from tests.data.test_layouts import picture

from upstairs.data.audio.format import AudioFormat
from upstairs.data.open import open_splits, read_dataset
from upstairs.data.readers import reader_for
from upstairs.data.source import Source
from upstairs.data.tables import decode, read_table
from upstairs.data.text.tables import from_dataset
from upstairs.errors import UpstairsError
from upstairs.settings import DataOptions

PAIRS = [(f"word{i} about {i % 5}", f"topic{i % 5}") for i in range(40)]


def summary(path: Path, **options: object) -> str:
    return open_splits(DataOptions(data=str(path), **options), quiet=True).train.summary


@pytest.mark.parametrize("head", ["path,label\n", ""])
def test_a_folder_with_a_table_of_pictures_is_no_folder_of_texts(tmp_path: Path, head: str) -> None:
    for i in range(24):
        picture(tmp_path / "images" / f"{i}.png", i)
    labels = ["none", "1.0", "1", "b", "c", "d"]
    (tmp_path / "labels.csv").write_text(head + "".join(f"{i}.png,{labels[i % 6]}\n" for i in range(24)))
    assert reader_for(str(tmp_path)).name == "pictures"
    for data in (tmp_path, tmp_path / "labels.csv"):
        assert summary(data).startswith("24 pictures of 5 classes; labels from labels.csv")


def test_names_that_several_files_share(tmp_path: Path) -> None:
    for i in range(24):
        picture(tmp_path / f"c{i % 6}" / f"{i // 6}.png", i)
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{i // 6}.png,c{i % 6}\n" for i in range(24)))
    with pytest.raises(UpstairsError, match="as several files are called: write their folders too"):
        summary(tmp_path / "labels.csv")


def test_arguments_of_from_arrays() -> None:
    x, y = np.ones((6, 4)), [0, 1] * 3
    assert Source.from_arrays(x, np.array(y)[:, None]).labels == ("0", "1")
    assert Source.from_arrays(torch.ones(6, 4, dtype=torch.bfloat16), y).labels == ("0", "1")
    assert Source.from_arrays(x, np.array([1, "a"] * 3, object)).labels == ("1", "a")
    for inputs, labels, message in (
        (x, np.eye(6), "one-hot"), ([np.ones(3), np.ones(4)] * 3, y, "several shapes"), (csr_matrix(x), y, "dense"),
        (np.array(["a"] * 6), y, "give numbers"), (np.ones(6), y, "feature"), (x.astype(complex), y, "give numbers"),
        (x.astype(str).astype(object), ["a", None] * 3, "missing"), (iter(x), y, "give a dense array"),
    ):  # fmt: skip
        with pytest.raises(UpstairsError, match=message):
            Source.from_arrays(inputs, labels)


def test_labels_of_packed_arrays(tmp_path: Path) -> None:
    x, y = np.zeros((60, 28, 28), np.uint8), np.arange(60) % 6
    np.savez(tmp_path / "a.npz", train_images=x, train_labels=y[:, None])
    assert {
        len(label) for label in open_splits(DataOptions(data=str(tmp_path / "a.npz")), quiet=True).train.labels
    } == {1}
    for labels, message in ((np.eye(6)[y], "one-hot"), (np.where(y == 3, np.nan, y), "is missing")):
        np.savez(tmp_path / "b.npz", x=x, y=labels)
        with pytest.raises(UpstairsError, match=message):
            summary(tmp_path / "b.npz")


def test_arrays_of_two_types_have_no_common_scale(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / f"c{i % 6}").mkdir(exist_ok=True)
        np.save(tmp_path / f"c{i % 6}" / f"{i}.npy", np.full((3, 8, 8), 7, float if i % 2 else int))
    with pytest.raises(UpstairsError, match="either integers, which are scaled, or floats"):
        summary(tmp_path)


def test_samples_as_other_libraries_give_them() -> None:
    w = np.random.default_rng(0).normal(size=16000).astype(np.float32) * 0.1
    right = AudioFormat().read((w, 16000))
    for item in (
        (torch.from_numpy(w)[None], 16000), (16000, w), {"array": w, "sampling_rate": 16000},
        (np.stack([w, w], 1), 16000), (np.stack([w, -w], 1), 16000),
    ):  # fmt: skip
        assert (AudioFormat().read(item) == right).all()
    for scaled in ((w * 2**30).astype(np.int32), (w * 128 + 128).round().clip(0, 255).astype(np.uint8)):
        assert np.abs(AudioFormat().read((scaled, 16000)).astype(int) - right).mean() < 2
    with pytest.raises(UpstairsError, match="holds no sound"):
        AudioFormat().read(("a", "b"))


def test_json_as_pandas_writes_it(tmp_path: Path) -> None:
    for name, value in {
        "split": {"columns": ["text", "label"], "index": list(range(40)), "data": [list(pair) for pair in PAIRS]},
        "index": {str(i): {"text": text, "label": label} for i, (text, label) in enumerate(PAIRS)},
        "columns": {"utter": [text for text, _ in PAIRS], "tag": [label for _, label in PAIRS]},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
        columns = "utter,tag" if name == "columns" else None
        assert summary(tmp_path / f"{name}.json", columns=columns).startswith("40 texts of 5 classes")


def test_tables_that_are_not_what_they_seem(tmp_path: Path) -> None:
    file, rows = tmp_path / "a.csv", "".join(f"{text},{label}\n" for text, label in PAIRS)
    file.write_text(f"text,label\n{rows}text,label\n{rows}")
    with pytest.raises(UpstairsError, match="row 41 repeats the header"):
        summary(file)
    for content in ("<!DOCTYPE html><html>404, not found</html>\n", "version https://git-lfs.github.com/spec/v1\n"):
        file.write_text(content)
        with pytest.raises(UpstairsError, match="is no table"):
            summary(file)
    file.write_text("text,label\n" + "".join(f'"He said \\"{text}\\"",{label}\n' for text, label in PAIRS))
    assert read_table(file).rows[0]["text"] == f'He said "{PAIRS[0][0]}"'
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl (extra [tables]) is not installed")
    book = openpyxl.Workbook()
    for row in (("text", "label"), *PAIRS):
        book.active.append(row)
    book.create_sheet("more")
    book.save(tmp_path / "a.xlsx")
    assert "the first of 2" in summary(tmp_path / "a.xlsx")


def test_accents_of_short_latin_texts_are_no_cyrillic() -> None:
    assert decode("café déjà vu 0".encode("cp1252"), "a")[0] == "café déjà vu 0"
    assert decode(("привет мир, как дела " * 3).encode("cp1251"), "a")[0].startswith("привет")


def test_data_sets_of_other_libraries() -> None:
    with pytest.raises(UpstairsError, match="give one, as dataset"):
        from_dataset({"train": [], "test": []})
    pairs = [(torch.zeros(3), torch.tensor([i % 6])) for i in range(24)]
    assert len(read_dataset(pairs)) == 6
    with pytest.raises(UpstairsError, match=r"label of shape \[2\]"):
        read_dataset([(torch.zeros(3), torch.eye(2)[0])])


def test_regression_tables_that_give_the_answer_away(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    file.write_text("city,temp,load\n" + "".join(f"c{i % 6},{i},7\n" for i in range(60)))
    with pytest.raises(UpstairsError, match="each 'load' is the same"):
        summary(file)
    with pytest.raises(UpstairsError, match="'load' is an input and also"):
        summary(file, target="load", columns="temp,load")


def test_equal_files_are_counted_and_columns_are_named_as_elsewhere(tmp_path: Path) -> None:
    for i in range(24):
        picture(tmp_path / "images" / f"{i}.png", i % 12)
    (tmp_path / "a.csv").write_text('"file, name",kind\n' + "".join(f"{i}.png,k{i % 6}\n" for i in range(24)))
    for columns in ('"file, name",kind', "1,2"):
        assert "12 of them hold the same as another" in summary(tmp_path / "a.csv", columns=columns)


@pytest.mark.parametrize("option", ["columns", "pattern"])
def test_options_on_labels_are_refused_where_the_data_holds_its_own(tmp_path: Path, option: str) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((60, 8, 8), np.uint8), y=np.arange(60) % 6)
    for data in (tmp_path / "a.npz", "glyphs"):
        with pytest.raises(UpstairsError, match=f"`{option}` is about files with labels"):
            open_splits(DataOptions(data=str(data), **{option: "{label},x"}), quiet=True)


def test_a_test_table_without_labels_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("id,text,label\n" + "".join(f"{i},{t},{k}\n" for i, (t, k) in enumerate(PAIRS)))
    (tmp_path / "test.csv").write_text("id,text\n1,new\n")
    assert "40 texts of 5 classes" in summary(tmp_path) and "test.csv has no labels" in summary(tmp_path)
