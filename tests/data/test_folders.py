"""Sources made from folders and zips of pictures."""

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from upstairs.data.images.datasets import open_data
from upstairs.data.images.folders import files_by_class, folder_source
from upstairs.data.images.format import ImageFormat
from upstairs.data.layouts import rows as decoding
from upstairs.errors import UpstairsError


def draw(path: Path, seed: int, *, side: int = 40, kind: str = "ink") -> None:
    """An ink drawing, a photo, a thing on a plain ground or a texture that no other seed gives."""
    generator = np.random.default_rng(seed)
    pixels = np.full((side, side), 255, np.uint8)
    if kind == "ink":
        for row, column in generator.integers(4, side - 8, (4, 2)):
            pixels[row : row + 4, column : column + 4] = 0
    elif kind == "thing":
        middle = slice(side // 6, side - side // 6)
        pixels[middle, middle] = np.linspace(0, 255, side)[middle] - generator.integers(0, 40)
    elif kind == "texture":
        pixels[1:-1, 1:-1] = 255 * (generator.random((side - 2, side - 2)) < 0.3)
    else:
        pixels = generator.integers(0, 256, (4, 4) if kind == "grey" else (4, 4, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(path)


def make(folder: Path, labels: list[str], *, count: int = 3, **options: Any) -> Path:
    for i, label in enumerate(labels):
        for k in range(count):
            draw(folder / label / f"{k}.png", 100 * i + k, **options)
    return folder


def pack(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, file.relative_to(folder.parent))
    return path


def test_a_source_holds_what_its_format_reads(tmp_path: Path) -> None:
    make(tmp_path / "letters", ["b", "a", "c10", "c9"], count=5)
    source = folder_source(tmp_path / "letters")
    assert (source.name, source.labels, source.groups) == ("letters", ("a", "b", "c9", "c10"), ())
    assert source.format == ImageFormat(28, 1, ink=True)
    assert [len(rows) for rows in source.rows] == [5] * 4 and source.inputs.shape == (20, 1, 28, 28)
    for label, rows in zip(source.labels, source.rows, strict=True):
        for k, row in enumerate(rows):
            np.testing.assert_array_equal(
                source.inputs[row], source.format.read(tmp_path / "letters" / label / f"{k}.png")
            )


def test_a_zip_is_the_folder(tmp_path: Path) -> None:
    make(tmp_path / "data", ["Greek/alpha", "Greek/beta", "Latin/a"])
    from_folder = folder_source(tmp_path / "data")
    from_zip = folder_source(pack(tmp_path / "data", tmp_path / "data.zip"))
    assert from_zip.name == "data" and from_zip.labels == from_folder.labels == ("Greek/alpha", "Greek/beta", "Latin/a")
    assert from_zip.groups == from_folder.groups == ("Greek", "Greek", "Latin")
    np.testing.assert_array_equal(from_zip.inputs, from_folder.inputs)


def test_large_pictures_are_decoded_in_threads_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "data", ["a", "b"], count=20)
    one = folder_source(tmp_path / "data", size=20)
    monkeypatch.setattr(decoding, "SMALL", 0)
    monkeypatch.setenv("UPSTAIRS_CACHE", str(tmp_path / "another cache"))
    np.testing.assert_array_equal(one.inputs, folder_source(tmp_path / "data", size=20).inputs)


@pytest.mark.parametrize(
    ("kind", "side", "expected"),
    [
        ("ink", 105, ImageFormat(28, 1, ink=True)),
        ("grey", 30, ImageFormat(32, 1, ink=False)),
        ("grey", 100, ImageFormat(84, 1, ink=False)),
        ("thing", 100, ImageFormat(84, 1, ink=False)),
        ("texture", 40, ImageFormat(32, 1, ink=False)),
        ("colour", 48, ImageFormat(32, 3, ink=False)),
        ("colour", 49, ImageFormat(84, 3, ink=False)),
    ],
)
def test_the_format_found(kind: str, side: int, expected: ImageFormat, tmp_path: Path) -> None:
    make(tmp_path, ["a", "b"], kind=kind, side=side)
    assert folder_source(tmp_path).format == expected


def test_the_format_given_is_kept(tmp_path: Path) -> None:
    make(tmp_path, ["a", "b"])
    assert folder_source(tmp_path, size=12, channels=3).format == ImageFormat(12, 3, ink=True)
    assert folder_source(tmp_path, ink=False).format == ImageFormat(32, 1, ink=False)
    ink, photo = (folder_source(tmp_path, size=28, channels=1, ink=ink).inputs for ink in (True, False))
    assert (ink != photo).any()
    assert folder_source(tmp_path, size=9, channels=3, ink=False).feature_shape == (3, 9, 9)


def test_the_first_bad_picture_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "data", ["a", "b", "c"], count=40)
    for name in ("b/7.png", "c/1.png", "b/12.png"):
        (tmp_path / "data" / name).write_text("not a picture")
    for small in (decoding.SMALL, 0):
        monkeypatch.setattr(decoding, "SMALL", small)
        with pytest.raises(UpstairsError, match=r"data/b/7\.png is no picture"):
            folder_source(tmp_path / "data")
    with pytest.raises(UpstairsError, match=r"data\.zip/data/b/7\.png is no picture"):
        folder_source(pack(tmp_path / "data", tmp_path / "data.zip"))


def test_all_pictures_bad(tmp_path: Path) -> None:
    make(tmp_path, ["a", "b"])
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(UpstairsError, match=r"a/0\.png is empty"):
        folder_source(tmp_path)


def test_a_changed_picture_is_read_again(tmp_path: Path) -> None:
    make(tmp_path, ["a", "b"])
    before = np.array(folder_source(tmp_path).inputs)
    draw(tmp_path / "b" / "2.png", 999)
    os.utime(tmp_path / "b" / "2.png", (1, 1))
    after = folder_source(tmp_path).inputs
    assert (before[:5] == after[:5]).all() and (before[5] != after[5]).any()


def test_files_of_several_frames_are_counted(tmp_path: Path) -> None:
    make(tmp_path / "d", ["a", "b"])
    assert "frames" not in folder_source(tmp_path / "d").summary
    frames = [Image.new("L", (20, 20), grey) for grey in (0, 128, 255)]
    for kind in ("gif", "png", "tif", "webp"):
        Image.new("L", (20, 20)).save(tmp_path / "d" / "a" / f"single.{kind}")
        frames[0].save(tmp_path / "d" / "a" / f"several.{kind}", save_all=True, append_images=frames[1:])
    for _ in range(2):  # the second time from the cache
        source = folder_source(tmp_path / "d")
        assert "; 4 files have several frames: the first is read" in source.summary
    assert "; 1 file has several" in folder_source(pack(tmp_path / "d", tmp_path / "d.zip")).summary
    for kind in ("gif", "png", "tif"):
        (tmp_path / "d" / "a" / f"several.{kind}").unlink()
    assert "; 1 file has several frames: the first is read" in folder_source(tmp_path / "d").summary


def test_progress_comes_once(tmp_path: Path) -> None:
    make(tmp_path, ["a", "b"])
    seen: list[tuple[int, int]] = []
    for _ in range(2):
        folder_source(tmp_path, size=13, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(1, 7)]


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
@pytest.mark.parametrize("packed", [False, True])
def test_splits_as_folders(val: str, packed: bool, tmp_path: Path) -> None:
    make(tmp_path / "data", ["train/a", "train/b", f"{val}/c", "test/d", "test/e", "test/f"])
    path = pack(tmp_path / "data", tmp_path / "data.zip") if packed else tmp_path / "data"
    splits = open_data(path)
    assert splits is not None
    assert [part.labels for part in splits] == [("a", "b"), ("c",), ("d", "e", "f")]
    assert splits.train.format == splits.val.format == splits.test.format == ImageFormat(28, 1, ink=True)
    np.testing.assert_array_equal(
        splits.test.inputs[splits.test.rows[1][2]], splits.test.format.read(tmp_path / "data/test/e/2.png")
    )


def test_splits_with_groups_and_without_val(tmp_path: Path) -> None:
    make(tmp_path, [*(f"train/g{i}/c" for i in range(10)), "test/h/c", "test/g0/d"])
    splits = open_data(tmp_path)
    assert splits is not None
    assert [len(part) for part in splits] == [8, 2, 2]
    assert splits.test.labels == ("g0/d", "h/c") and splits.test.groups == ("g0", "h")
    assert not set(splits.train.labels) & set(splits.val.labels)
    other = open_data(tmp_path, seed=1)
    assert other is not None and set(other.val.labels) != set(splits.val.labels)


def test_other_folders_are_no_splits(tmp_path: Path) -> None:
    assert folder_source(make(tmp_path / "x", ["train", "bus", "tram"])).labels == ("bus", "train", "tram")
    assert folder_source(make(tmp_path / "y", ["g/a", "h/b"])).labels == ("g/a", "h/b")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["test/a", "test/b", "val/c"], "holds test and val: it needs train"),
        (["train/a", "test/b", "test/g/b"], r"data/test/.* is arranged as"),
    ],
)
def test_splits_that_are_refused(labels: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UpstairsError, match=message):
        open_data(make(tmp_path / "data", labels))


def test_files_by_class(tmp_path: Path) -> None:
    make(tmp_path / "support", ["cat10", "cat2"], count=1)
    draw(tmp_path / "support" / "cat2" / "10.png", 5)
    found = files_by_class(str(tmp_path / "support"))
    assert list(found.items()) == [
        ("cat2", [tmp_path / "support/cat2/0.png", tmp_path / "support/cat2/10.png"]),
        ("cat10", [tmp_path / "support/cat10/0.png"]),
    ]
    make(tmp_path / "grouped", ["g/a", "h/a"])
    with pytest.raises(UpstairsError, match="folders of class folders, such as g/a"):
        files_by_class(tmp_path / "grouped")
    with pytest.raises(UpstairsError, match=r"0\.png is a file: give a folder"):
        files_by_class(tmp_path / "support/cat10/0.png")
    shutil.rmtree(tmp_path / "support" / "cat10")
    (tmp_path / "support" / "cat10").mkdir()
    with pytest.raises(UpstairsError, match="cat10 has no pictures"):
        files_by_class(tmp_path / "support")
