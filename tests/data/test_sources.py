"""Sources from arrays and the three splits."""

import numpy as np
import pytest
import torch

from upstairs.data.source import Source
from upstairs.data.splits import split_by_group, split_by_list, split_by_ratio
from upstairs.errors import UpstairsError


def grouped(classes: int = 12, groups: int = 4) -> Source:
    labels = tuple(f"c{i}" for i in range(classes))
    rows = tuple(np.arange(3) + 3 * i for i in range(classes))
    x = np.arange(classes * 3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 4, 4), np.uint8)
    return Source("made", x, labels, rows, groups=tuple(f"g{i % groups}" for i in range(classes)))


def test_from_arrays_groups_by_label() -> None:
    source = Source.from_arrays(np.arange(12.0).reshape(6, 2), ["b", "a", "b", "a", "c", "b"])
    assert source.labels == ("a", "b", "c")
    assert [list(r) for r in source.rows] == [[1, 3], [0, 2, 5], [4]]
    assert source.gather(torch.tensor([5]))[0].tolist() == [10.0, 11.0]


def test_bytes_are_read_as_shares_and_turns_turn() -> None:
    x = np.zeros((1, 1, 2, 2), np.uint8)
    x[0, 0, 0, 0] = 255
    source = Source("s", x, ("a",), (np.array([0]),))
    for turns, corner in ((0, (0, 0)), (1, (1, 0)), (2, (1, 1)), (3, (0, 1))):
        picture = source.gather(torch.tensor([0]), torch.tensor([turns]))[0, 0]
        assert picture[corner] == 1.0 and picture.sum() == 1.0


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((3, 2)), [1, 2], "3 inputs and 2 labels"),
        (np.zeros((0, 2)), [], "no examples"),
        (np.array([[0.0], [np.nan]]), [1, 2], "input 1 has a NaN"),
        (np.ma.masked_equal([[0.0], [9.0]], 9), [1, 2], "the inputs have a mask that hides 1 of 2 values: "),
        (list(np.ma.masked_equal([[0.0], [9.0]], 9)), [1, 2], "the inputs have a mask"),
        ([[0.0], [1.0]], np.ma.masked_equal([1, 9], 9), "the labels have a mask"),
    ],
)
def test_bad_arrays(x: np.ndarray, y: list, message: str) -> None:
    with pytest.raises(UpstairsError, match=message):
        Source.from_arrays(x, y)


def test_a_mask_that_hides_nothing_is_no_fault() -> None:
    assert len(Source.from_arrays(np.ma.masked_equal([[0.0], [1.0]], 9), [1, 2])) == 2


@pytest.mark.parametrize("split", [split_by_ratio, split_by_group])
def test_splits_are_disjoint_whole_and_seeded(split) -> None:
    source = grouped()
    parts = split(source, seed=3)
    labels = [label for part in parts for label in part.labels]
    assert sorted(labels) == sorted(source.labels)
    assert all(len(part) for part in parts)
    assert [p.labels for p in split(source, seed=3)] == [p.labels for p in parts]
    assert any([p.labels for p in split(source, seed=s)] != [p.labels for p in parts] for s in range(5))
    if split is split_by_group:
        groups = [set(part.groups) for part in parts]
        assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])


def test_bad_splits() -> None:
    with pytest.raises(UpstairsError, match="names 'zebra', which is no class"):
        split_by_list(grouped(), ["zebra"], [], [])
    with pytest.raises(UpstairsError, match="class 'c1' is in two lists"):
        split_by_list(grouped(), ["c0", "c1"], ["c1"], [])
    with pytest.raises(UpstairsError, match="three shares"):
        split_by_ratio(grouped(), (0.9, 0.2, 0.2))
    with pytest.raises(UpstairsError, match="2 groups"):
        split_by_group(grouped(groups=2))
