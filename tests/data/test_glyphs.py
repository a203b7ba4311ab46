"""Glyphs: many distinct letters, scripts in one split only, the same on every call, quick the second time."""

from itertools import combinations

import numpy as np
import pytest
import torch

from upstairs.data.episodes import Episodes
from upstairs.data.images.glyphs import _distinct, glyphs
from upstairs.data.images.warp import Warp
from upstairs.data.splits import Splits
from upstairs.errors import UpstairsError


@pytest.fixture(scope="module")
def splits() -> Splits:
    return glyphs()


def test_many_letters_of_many_scripts(splits):
    assert sum(len(source) for source in splits) >= 1300
    assert len(splits.train) >= 800
    assert len(splits.test) >= 300
    scripts = [set(source.groups) for source in splits]
    assert len(set().union(*scripts)) >= 12
    assert len(scripts[2]) == 8
    assert all(len(source) >= 20 for source in splits.test.by_group().values())  # 20-way tasks inside one script


def test_no_script_and_no_letter_is_in_two_splits(splits):
    for a, b in combinations(splits, 2):
        assert not set(a.groups) & set(b.groups)
        assert not set(a.labels) & set(b.labels)


def test_labels_are_distinct_and_can_be_read_in_any_terminal(splits):
    labels = [label for source in splits for label in source.labels]
    assert len(set(labels)) == len(labels)
    assert all(label.isascii() and len(label) < 50 for label in labels)
    assert "Armenian capital ayb" in splits.test.labels
    place = splits.test.labels.index("Armenian capital ayb")
    assert splits.test.groups[place] == "Armenian"


def test_of_look_alikes_one_is_left(splits):
    labels = {label for source in splits for label in source.labels}
    twins = [
        ("Latin capital a", "Greek capital alpha", "Cyrillic capital a"),
        ("Latin capital c", "Latin small c", "Cyrillic small es"),
        ("Latin capital o", "Latin small o", "Greek small omicron"),
        ("Latin capital x", "Latin small x", "Cyrillic small ha"),
    ]
    for first, *others in twins:
        assert first in labels
        assert not labels & set(others)


def test_every_letter_has_three_pictures_and_no_two_letters_share_one(splits):
    owner: dict[bytes, str] = {}
    for source in splits:
        for label, rows in zip(source.labels, source.rows, strict=True):
            assert len(rows) >= 20
            pictures = {source.inputs[row].tobytes() for row in rows}
            assert len(pictures) == len(set(rows.tolist())) >= 3
            for picture in pictures:
                assert owner.setdefault(picture, label) == label


def test_a_picture_counts_once_for_its_letter_and_for_the_first_of_two():
    noise = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    nearly = noise[0] ^ 1
    chosen = _distinct({"a": {0: noise[0], 1: noise[1], 2: noise[2], 3: nearly}, "b": dict(enumerate(noise[2:6]))})
    assert chosen[:, ord("a")].nonzero()[0].tolist() == [0, 1, 2]
    assert chosen[:, ord("b")].nonzero()[0].tolist() == [1, 2, 3]
    assert not _distinct({"a": {0: noise[0], 1: noise[1], 2: nearly}}).any()


def test_pictures_are_centred_ink_of_one_size(splits):
    x = splits.train.inputs
    assert (x.dtype, x.shape[1:]) == (np.uint8, (1, 28, 28))
    assert (x.reshape(len(x), -1).max(1) >= 128).all()  # none is empty, none so thin that it fades
    extents = []
    for axis in (1, 2):
        lit = (x[:, 0] > 0).any(axis)
        first, last = lit.argmax(1), 27 - lit[:, ::-1].argmax(1)
        assert (abs(first - (27 - last)) <= 2).all()  # the margins are equal, but for an odd pixel and a faint edge
        extents.append(last - first + 1)
    longer = np.maximum(*extents)
    assert longer.min() >= 19
    assert longer.max() <= 20


def test_tasks_depend_on_their_seed_alone(splits):
    episodes = Episodes(splits.test, way=20, shot=1, query=15)
    once, again = episodes.batch([5]), episodes.batch([4, 5])
    assert torch.equal(once.query.x[0], again.query.x[1])
    assert torch.equal(once.support.x[0], again.support.x[1])
    assert not torch.equal(again.query.x[0], again.query.x[1])


def test_warped_in_every_split_so_that_tasks_are_neither_trivial_nor_hopeless(splits):
    assert all(source.augment == Warp() for source in splits)
    tasks = Episodes(splits.test, way=5, shot=1, query=15).batch(range(300))
    support, query = tasks.support.x.flatten(2), tasks.query.x.flatten(2)
    nearest = tasks.support.y.gather(1, torch.cdist(query, support).argmin(-1))
    accuracy = (nearest == tasks.query.y).float().mean()
    assert 0.40 < accuracy < 0.47  # the seeds are fixed: 43.4% whenever fonts and warp are what they were


def test_a_second_call_opens_the_cache(splits):
    steps: list[tuple[int, int]] = []
    again = glyphs(progress=lambda done, total: steps.append((done, total)))
    assert not steps
    assert again.val.labels == splits.val.labels


def test_drawn_anew_it_is_the_same(splits, tmp_path, monkeypatch):
    monkeypatch.setenv("UPSTAIRS_CACHE", str(tmp_path))
    steps: list[tuple[int, int]] = []
    anew = glyphs(progress=lambda done, total: steps.append((done, total)))
    assert np.array_equal(anew.train.inputs, splits.train.inputs)
    for a, b in zip(anew, splits, strict=True):
        assert a.labels == b.labels
        assert all(np.array_equal(p, q) for p, q in zip(a.rows, b.rows, strict=True))
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]


def test_another_size_has_the_same_classes(splits):
    small = glyphs(size=16)
    assert small.train.inputs.shape == (len(splits.train.inputs), 1, 16, 16)
    assert [source.labels for source in small] == [source.labels for source in splits]
    assert small.test.format is not None
    assert small.test.format.to_json()["size"] == 16


@pytest.mark.parametrize("size", [0, 7, 257])
def test_sizes_out_of_range_are_refused(size):
    with pytest.raises(UpstairsError, match=f"`size` {size}"):
        glyphs(size=size)


def test_missing_fonts_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("UPSTAIRS_CACHE", str(tmp_path))
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    with pytest.raises(UpstairsError, match=r"DejaVuSans\.ttf is missing"):
        glyphs()
    assert not list(tmp_path.iterdir()), "nothing half made is left behind"
