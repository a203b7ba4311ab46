"""Pictures listed by class in three tables, as mini-ImageNet is handed round; and splits that the package publishes."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from helpers.runs import mini_folder
from upstairs.data.images.datasets import open_data, open_source
from upstairs.data.source import Source
from upstairs.data.splits import published_splits
from upstairs.errors import UpstairsError


def test_three_lists(tmp_path: Path) -> None:
    path = mini_folder(tmp_path / "mini")
    splits = open_data(path)
    assert [len(part) for part in splits] == [3, 3, 3] and splits.train.feature_shape == (3, 84, 84)
    assert splits.val.labels == ("n00000001", "n00000004", "n00000007")
    assert all(len(rows) == 8 for part in splits for rows in part.rows)
    for part in splits:  # the right pictures: those of a class are alike, and unlike another's
        means = [part.inputs[rows].mean((2, 3)) for rows in part.rows]
        assert max(np.ptp(own, axis=0).max() for own in means) < 10 < np.ptp([m.mean(0) for m in means], axis=0).max()
    assert len(open_source(path)) == 9


def test_train_val_and_test_folders_are_read_too(tmp_path: Path) -> None:
    listed, folders = open_data(mini_folder(tmp_path / "mini")), tmp_path / "folders"
    for part in ("train", "val", "test"):
        for row in (tmp_path / "mini" / f"{part}.csv").read_text().splitlines()[1:]:
            name, label = row.split(",")
            target = folders / part / label / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((tmp_path / "mini" / "images" / name).read_bytes())
    for one, other in zip(listed, open_data(folders), strict=True):
        assert one.labels == other.labels
        mine, theirs = (part.inputs[np.concatenate(part.rows)] for part in (one, other))
        assert np.array_equal(mine, theirs)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    path = mini_folder(tmp_path / "mini", classes=6, examples=2, side=20)
    table = path / "val.csv"
    good = table.read_text()
    table.write_text(good + "absent.jpg,n1\n")
    with pytest.raises(UpstairsError, match=r"absent\.jpg, which is not in"):
        open_data(path)
    table.write_text(good + f"{(path / 'train.csv').read_text().split()[1].split(',')[0]},n00000001\n")
    with pytest.raises(UpstairsError, match=r"gives .* the labels .* keep one"):  # another label in train.csv
        open_data(path)
    table.write_text("file,label\na,b\n")
    with pytest.raises(UpstairsError, match="needs file and label"):
        open_data(path)
    table.write_text("filename,label\n")
    with pytest.raises(UpstairsError, match="no rows"):
        open_data(path)
    table.write_text(good)
    assert len(open_data(path, split="ratio").test) == 2


@pytest.mark.parametrize(("name", "sizes"), [("clinc150", (90, 30, 30)), ("arabic-speech-commands", (24, 6, 10))])
def test_splits_of_the_package(name: str, sizes: tuple[int, ...]) -> None:
    lists = json.loads(files("upstairs.data").joinpath("class_lists", f"{name}.json").read_text())
    labels = sorted(lists["train"] + lists["val"] + lists["test"])
    assert len(set(labels)) == len(labels)
    source = Source(name, np.zeros((0, 1)), tuple(labels), tuple(np.zeros(0, int) for _ in labels))
    splits = published_splits(source)
    assert tuple(map(len, splits)) == sizes and set(splits.test.labels) == set(lists["test"])
    with pytest.raises(UpstairsError, match="no split for"):
        published_splits(source.subset(range(5)))
