"""Episodes: disjoint, fair, a pure function of the seed, masked where tasks differ in size."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from upstairs.data.episodes import Episodes
from upstairs.data.seeds import dice, hash_seed, task_seed
from upstairs.data.source import Source
from upstairs.errors import UpstairsError


def numbered(sizes: list[int]) -> Source:
    """Each input is its own row number, so that a test sees which examples were drawn."""
    y = np.repeat(np.arange(len(sizes)), sizes)
    return Source.from_arrays(np.arange(len(y), dtype=np.float32)[:, None], y)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**40))
def test_a_task_is_what_it_says(way: int, shot: int, query: int, seed: int) -> None:
    sizes = [7, 9, 8, 20, 7, 11]
    source = numbered(sizes)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    support, queries = Episodes(source, way=way, shot=shot, query=query).batch([seed, seed + 1])
    for i in range(2):
        rows = torch.cat([support.x[i], queries.x[i]])[:, 0].int().tolist()
        assert len(set(rows)) == way * (shot + query), "an example was drawn twice"
        classes = {}
        for row, label in zip(rows, torch.cat([support.y[i], queries.y[i]]).tolist(), strict=True):
            assert classes.setdefault(label, owner[row]) == owner[row], "one label, two classes"
        assert len(set(classes.values())) == way
        assert support.y[i].bincount(minlength=way).tolist() == [shot] * way
        assert queries.y[i].bincount(minlength=way).tolist() == [query] * way


def test_a_task_depends_on_its_seed_alone() -> None:
    episodes = Episodes(numbered([9] * 8), way=3, shot=(1, 3), query=2)
    alone, among = episodes.batch([7]), episodes.batch([3, 7, 9])
    n = int(alone.support.mask.sum())
    assert torch.equal(alone.support.x[0], among.support.x[1][:n])
    assert torch.equal(alone.query.x[0], among.query.x[1])
    assert not torch.equal(among.query.x[0], among.query.x[1])


def test_ranges_are_drawn_and_padded() -> None:
    tasks = Episodes(numbered([9] * 8), way=(2, 6), shot=(1, 4), query=2).batch(range(60))
    ways = {int(y[m].max()) + 1 for y, m in zip(tasks.support.y, tasks.support.mask, strict=True)}
    shots = {int((y[m] == 0).sum()) for y, m in zip(tasks.support.y, tasks.support.mask, strict=True)}
    assert ways == {2, 3, 4, 5, 6} and shots == {1, 2, 3, 4}
    assert (tasks.support.x[~tasks.support.mask] == 0).all()
    assert tasks.support.mask.sum(-1).max() == tasks.support.mask.shape[1]


def test_classes_are_drawn_evenly() -> None:
    """Chi-squared over 6 classes at 2,000 draws; false alarms 1 in 10,000 (and the seed is fixed)."""
    from scipy.stats import chisquare

    source = numbered([5, 9, 30, 6, 7, 8])
    owner = np.repeat(np.arange(6), [5, 9, 30, 6, 7, 8])
    drawn = Episodes(source, way=2, shot=1, query=1).batch(range(1000)).support.x[..., 0].int().flatten()
    assert chisquare(np.bincount(owner[drawn.numpy()], minlength=6)).pvalue > 1e-4


def test_no_class_keeps_a_label_and_none_keep_company() -> None:
    """Chi-squared over all 30 ordered pairs (class 0, class 1) of 6 classes, 3,000 tasks; false alarms 1 in 10,000."""
    from scipy.stats import chisquare

    x = Episodes(numbered([5] * 6), way=2, shot=1, query=1).batch(range(3000)).support.x[..., 0].int() // 5
    pairs = np.bincount((6 * x[:, 0] + x[:, 1]).numpy(), minlength=36).reshape(6, 6)
    assert pairs.diagonal().sum() == 0
    assert chisquare(pairs[~np.eye(6, dtype=bool)]).pvalue > 1e-4


def test_streams_do_not_meet() -> None:
    assert task_seed(0, 2**31 - 1) < task_seed(1, 0)
    seeds = [task_seed(s, i) for s in range(5) for i in range(50)]
    assert len(set(seeds)) == 250
    assert len({hash_seed(s) for s in seeds}) == 250
    assert len({torch.rand((), generator=dice(s)).item() for s in seeds}) == 250  # torch reads 32 bits of a seed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"way": 0}, "`way` is 0: it must be at least 1"),
        ({"way": 4}, "has 3 classes and `way` is 4"),
        ({"shot": -3}, "`shot` is -3: it must be at least 1"),
        ({"shot": 0}, "`shot` is 0"),
        ({"query": 0}, "`query` is 0"),
        ({"shot": (3, 1)}, "`shot` is"),
        ({"shot": 4}, "class '1' of arrays has 5 examples and 4 shot"),
    ],
)
def test_bad_requests(options: dict, message: str) -> None:
    with pytest.raises(UpstairsError, match=message):
        Episodes(numbered([9, 5, 9]), **{"way": 2, "shot": 1, "query": 2, **options})


def test_a_task_of_few_speakers_has_no_others() -> None:
    """Of 8 speakers all said classes 0 to 4 twice, and three of them class 5: that one takes whom it must."""
    source = replace(numbered([16] * 5 + [6]), speakers=tuple("abcdefgh" * 10 + "abcabc"))
    episodes = Episodes(source, way=6, shot=1, query=4, speakers=3)
    drawn = Counter[str]()
    for seed in range(40):
        task = episodes.batch([seed])
        rows = {k: [] for k in range(6)}
        for part in task:
            for row, label in zip(part.x[0, :, 0].int().tolist(), part.y[0].tolist(), strict=True):
                rows[episodes.classes(seed)[label]].append(row)
        assert all(len(set(own)) == 5 for own in rows.values())
        few = [{source.speakers[row] for row in rows[k]} for k in range(5)]
        assert len(set().union(*few)) == 3, "the same speakers say all classes"
        assert {source.speakers[row] for row in rows[5]} <= set("abc")
        drawn.update(set().union(*few))
    assert len(drawn) == 8 and min(drawn.values()) >= 5, "every speaker has a turn"
    assert torch.equal(episodes.batch([3, 7]).query.x[1], episodes.batch([7]).query.x[0])
    with pytest.raises(UpstairsError, match="names none"):
        Episodes(numbered([9] * 4), way=3, shot=1, query=2, speakers=3)
