"""Data by name or path; the real sets are checked against their published numbers where they are at hand."""

import io
import json
import mmap
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from upstairs.data.episodes import Episodes
from upstairs.data.images.cifar import cifar_splits
from upstairs.data.images.datasets import open_data, open_source
from upstairs.data.images.folders import folder_source
from upstairs.data.images.omniglot import omniglot_splits
from upstairs.data.splits import Splits
from upstairs.errors import UpstairsError

TURNS = ("rot000", "rot090", "rot180", "rot270")


def square(seed: int, side: int = 20) -> Image.Image:
    pixels = np.full((side, side), 255, np.uint8)
    row, column = np.random.default_rng(seed).integers(2, side - 6, 2)
    pixels[row : row + 4, column : column + 3] = 0
    return Image.fromarray(pixels)


def make(folder: Path, labels: list[str], count: int = 2) -> Path:
    for i, label in enumerate(labels):
        (folder / label).mkdir(parents=True)
        for k in range(count):
            square(100 * i + k).save(folder / label / f"{k}.png")
    return folder


def small_omniglot(folder: Path) -> Path:
    """Characters of four alphabets, two drawings each, in the layout of the real one."""
    (folder / "splits/vinyals").mkdir(parents=True)
    for name, alphabets in (("background", ("Greek", "Latin")), ("evaluation", ("Angelic", "Tengwar"))):
        with zipfile.ZipFile(folder / f"images_{name}.zip", "w") as archive:
            for i in range(8):
                stream = io.BytesIO()
                square(i, 105).convert("1").save(stream, "PNG")
                member = f"images_{name}/{alphabets[i // 4]}/character0{1 + i // 2 % 2}/{i:04}_0{1 + i % 2}.png"
                archive.writestr(member, stream.getvalue())
    for part, labels in (
        ("train", ["Greek/character01", "Latin/character02"]),
        ("val", ["Angelic/character01"]),
        ("test", ["Angelic/character02"]),
    ):
        (folder / f"splits/vinyals/{part}.txt").write_text("".join(f"{c}/{t}\n" for c in labels for t in TURNS))
    return folder


def small_cifar(folder: Path) -> Path:
    """Three classes of 600 tiles; tile k of class c is of the colour (c, k // 256, k % 256)."""
    (folder / "sheets").mkdir(parents=True)
    (folder / "splits").mkdir()
    labels = ["apple", "bear", "can"]
    for c, label in enumerate(labels):
        k = np.arange(600).reshape(30, 20)
        colours = np.stack([np.full_like(k, c), k // 256, k % 256], axis=-1).astype(np.uint8)
        tiles = np.repeat(np.repeat(colours, 32, axis=0), 32, axis=1)
        tiles[::32, 31::32, 0] = 255  # a mark in the upper right corner of each
        Image.fromarray(tiles).save(folder / "sheets" / f"{label}.webp", lossless=True)
    (folder / "splits/superclass.json").write_text(json.dumps({label: f"super {label}" for label in labels}))
    for which, order in (("cifar-fs", labels), ("fc100", labels[::-1])):
        lists = {part: [label] for part, label in zip(Splits._fields, order, strict=True)}
        (folder / f"splits/{which}.json").write_text(json.dumps(lists))
    return folder


def test_omniglot_layout(tmp_path: Path) -> None:
    splits = open_data(small_omniglot(tmp_path))
    assert [len(part) for part in splits] == [8, 4, 4]
    assert splits.train.labels[:5] == (*(f"Greek/character01/{t}" for t in TURNS), "Latin/character02/rot000")
    assert splits.train.turns == (0, 1, 2, 3) * 2 and splits.train.groups == ("Greek",) * 4 + ("Latin",) * 4
    assert (splits.train.rows[0] == splits.train.rows[3]).all() and len(splits.train.rows[0]) == 2
    with zipfile.ZipFile(tmp_path / "images_evaluation.zip") as archive:
        second = archive.read("images_evaluation/Angelic/character02/0003_02.png")
    np.testing.assert_array_equal(splits.test.inputs[splits.test.rows[0][1]], splits.test.format.read(second))
    whole = open_source(tmp_path)
    alphabets = ("Angelic", "Greek", "Latin", "Tengwar")
    assert whole.labels == tuple(f"{a}/character0{i}" for a in alphabets for i in (1, 2)) and not whole.turns
    assert folder_source(tmp_path / "images_background.zip").groups == ("Greek", "Greek", "Latin", "Latin")
    assert open_data(tmp_path, size=14).train.feature_shape == (1, 14, 14)


def test_cifar_layout(tmp_path: Path) -> None:
    splits = open_data(small_cifar(tmp_path))
    assert [part.labels for part in splits] == [("apple",), ("bear",), ("can",)]
    assert splits.val.groups == ("super bear",) and splits.val.name == "cifar-fs"
    for k in (0, 1, 20, 599):
        tile = splits.val.inputs[splits.val.rows[0][k]]
        assert tile[0, 0, 31] == 255 and tile[0, 0, 0] == tile[0, 31, 31] == 1
        assert tile.shape == (3, 32, 32) and (tile[1:] == np.array([k // 256, k % 256])[:, None, None]).all()
    other = open_data(tmp_path, split="fc100")
    assert [part.labels for part in other] == [("can",), ("bear",), ("apple",)] and other.train.name == "fc100"
    assert open_source(tmp_path).labels == ("apple", "bear", "can")


def test_broken_layouts(tmp_path: Path) -> None:
    cifar = small_cifar(tmp_path / "cifar")
    with pytest.raises(UpstairsError, match="no split 'cub': choose cifar-fs or fc100"):
        cifar_splits(cifar, "cub")
    (cifar / "splits/fc100.json").write_text('{"train": ["apple"], "val": ["pear"], "test": []}')
    with pytest.raises(UpstairsError, match="the val list names 'pear'"):
        cifar_splits(cifar, "fc100")
    (cifar / "splits/fc100.json").write_text("{")
    with pytest.raises(UpstairsError, match=r"fc100\.json is no JSON object"):
        cifar_splits(cifar, "fc100")
    (cifar / "splits/fc100.json").write_text('{"train": []}')
    with pytest.raises(UpstairsError, match=r"fc100\.json has no list 'val'"):
        cifar_splits(cifar, "fc100")
    Image.new("RGB", (64, 64)).save(cifar / "sheets/bear.webp")
    with pytest.raises(UpstairsError, match=r"bear\.webp is not 640 x 960"):
        cifar_splits(cifar)
    (cifar / "sheets/zebra.webp").touch()
    with pytest.raises(UpstairsError, match=r"zebra\.webp"):
        cifar_splits(cifar)
    omniglot = small_omniglot(tmp_path / "omniglot")
    (omniglot / "splits/vinyals/val.txt").unlink()
    with pytest.raises(UpstairsError, match=r"val\.txt cannot be read"):
        omniglot_splits(omniglot)
    (omniglot / "images_background.zip").write_bytes(b"PK")
    with pytest.raises(UpstairsError, match=r"images_background\.zip is no whole zip"):
        open_data(omniglot)


def test_a_folder_by_ratio(tmp_path: Path) -> None:
    make(tmp_path, [f"c{i}" for i in range(20)])
    splits = open_data(tmp_path, seed=3)
    assert [len(part) for part in splits] == [13, 3, 4]
    assert {label for part in splits for label in part.labels} == {f"c{i}" for i in range(20)}
    assert [p.labels for p in open_data(tmp_path, seed=3)] == [p.labels for p in splits]
    assert [p.labels for p in open_data(tmp_path, seed=4)] != [p.labels for p in splits]
    assert [len(part) for part in open_data(tmp_path, ratio=(0.5, 0.0, 0.5))] == [10, 0, 10]
    assert len(open_source(tmp_path)) == 20
    with pytest.raises(UpstairsError, match="groups"):
        open_data(tmp_path, split="group")


def test_a_folder_by_group(tmp_path: Path) -> None:
    make(tmp_path, [f"g{i}/c{k}" for i in range(4) for k in range(4)])
    splits = open_data(tmp_path)
    parts = [set(part.groups) for part in splits]
    assert sum(map(len, parts)) == 4 and set.union(*parts) == {"g0", "g1", "g2", "g3"}
    assert len({g for part in open_data(tmp_path, split="ratio") for g in part.groups}) == 4
    two = make(tmp_path / "two", [f"g{i}/c{k}" for i in range(2) for k in range(8)])
    assert [len(part) for part in open_data(two)] == [10, 3, 3]


def test_a_folder_of_splits(tmp_path: Path) -> None:
    make(tmp_path, ["train/a", "train/b", "val/c", "test/d"])
    assert [part.labels for part in open_data(str(tmp_path))] == [("a", "b"), ("c",), ("d",)]
    whole = open_source(tmp_path)
    assert whole.labels == ("a", "b", "c", "d")
    np.testing.assert_array_equal(whole.inputs[whole.rows[3][1]], whole.format.read(tmp_path / "test/d/1.png"))
    assert [len(part) for part in open_data(tmp_path, split="ratio")] == [2, 0, 2]


def test_glyphs_by_name() -> None:
    splits = open_data("glyphs")
    whole = open_source("glyphs")
    assert len(whole) == sum(map(len, splits)) and len(set(whole.labels)) == len(whole)
    assert len(whole.groups) == len(whole.rows) == len(whole)
    with pytest.raises(UpstairsError, match="it has one of its own"):
        open_data("glyphs", split="ratio")
    with pytest.raises(UpstairsError, match="glyphs has channels 1 and no other"):
        open_data("glyphs", channels=3)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    for open_either in (open_data, open_source):
        with pytest.raises(UpstairsError, match="glyph does not exist: give 'glyphs'"):
            open_either("glyph")
        with pytest.raises(UpstairsError, match="holds no pictures"):
            open_either(tmp_path)
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(UpstairsError, match=r"notes\.txt is no whole zip file"):
        open_data(tmp_path / "notes.txt")
    make(tmp_path / "few", ["a", "b", "c"])
    with pytest.raises(UpstairsError, match="3 classes, of which 0 would be for val"):
        open_data(tmp_path / "few")
    with pytest.raises(UpstairsError, match=r"`split` is 'vinyals', which .* choose ratio or group"):
        open_data(tmp_path / "few", split="vinyals")
    with pytest.raises(UpstairsError, match="choose cifar-fs or fc100 or ratio or group"):
        open_data(small_cifar(tmp_path / "cifar"), split="vinyals")
    with pytest.raises(UpstairsError, match="cifar-fs has size 32 and no other: leave `size` 84 out"):
        open_data(tmp_path / "cifar", size=84)


# With real data


@pytest.fixture(scope="module")
def omniglot(data_dir: Path) -> Splits:
    return open_data(data_dir / "omniglot")


@pytest.fixture(scope="module")
def cifar(data_dir: Path) -> Splits:
    return open_data(data_dir / "cifar100-fewshot")


def test_omniglot_counts(omniglot: Splits, data_dir: Path) -> None:
    assert [len(part) for part in omniglot] == [4112, 688, 1692]
    assert omniglot.train.inputs.shape == (32460, 1, 28, 28)
    assert {len(rows) for part in omniglot for rows in part.rows} == {20}
    assert len(np.unique(np.concatenate([rows for part in omniglot for rows in part.rows]))) == 32460
    assert len({group for part in omniglot for group in part.groups}) == 50
    assert omniglot.test.labels[1] == "Gurmukhi/character42/rot090"
    whole = open_source(data_dir / "omniglot")
    assert len(whole) == 1623 and len(set(whole.groups)) == 50 and not whole.turns


def test_omniglot_ink(omniglot: Splits) -> None:
    """Every drawing has ink, on a background of zeros, and the four turns of a character differ."""
    x = omniglot.train.inputs
    assert x.reshape(len(x), -1).max(1).min() >= 100
    assert 0.03 < x.mean() / 255 < 0.12 and np.median(x, axis=(1, 2, 3)).max() == 0
    row = torch.full((4,), int(omniglot.train.rows[0][0]))
    turned = omniglot.train.gather(row, torch.arange(4))
    assert len({picture.numpy().tobytes() for picture in turned}) == 4


def test_omniglot_pixels_tell_classes_as_published(omniglot: Splits) -> None:
    """Raw pixels, nearest example, 5-way 1-shot: 43.4% here (Vinyals et al. 2016: 41.7%).

    A task's accuracy varies by 9 points, so that the mean of 400 is within 3 points in all but one run in 10^10.
    """
    episodes = Episodes(omniglot.test, way=5, shot=1, query=15)
    tasks = episodes.batch(range(400))
    nearest = torch.cdist(tasks.query.x.flatten(2), tasks.support.x.flatten(2)).argmin(-1)
    accuracy = (tasks.support.y.gather(1, nearest) == tasks.query.y).float().mean()
    assert abs(float(accuracy) - 0.44) < 0.03


def test_cifar_counts(cifar: Splits, data_dir: Path) -> None:
    assert [len(part) for part in cifar] == [64, 16, 20] and cifar.train.inputs.shape == (60000, 3, 32, 32)
    assert {len(rows) for part in cifar for rows in part.rows} == {600}
    other = open_data(data_dir / "cifar100-fewshot", split="fc100")
    assert [len(part) for part in other] == [60, 20, 20]
    superclasses = [set(part.groups) for part in other]
    assert [len(part) for part in superclasses] == [12, 4, 4] and len(set.union(*superclasses)) == 20


def test_cifar_pixels(cifar: Splits) -> None:
    """The mean colour of CIFAR-100's official train tiles (0 to 499 of each class), as published."""
    rows = np.concatenate([rows[:500] for part in cifar for rows in part.rows])
    mean = np.mean([cifar.train.inputs[part].mean((0, 2, 3)) for part in np.split(rows, 100)], axis=0) / 255
    np.testing.assert_allclose(mean, (0.5071, 0.4865, 0.4409), atol=2e-4)


def test_rows_are_read_from_a_plain_view_of_the_map(cifar: Splits) -> None:
    """300 random rows take 0.2 ms; np.memmap indexes more slowly."""
    inputs = cifar.train.inputs
    assert type(inputs) is np.ndarray and isinstance(inputs.base, np.memmap | mmap.mmap)
