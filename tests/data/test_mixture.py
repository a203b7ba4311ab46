"""Several kinds of data at once: which task is of which, and that it is the task that it would be there."""

import numpy as np
import pytest
import torch

from upstairs.data.episodes import Episodes
from upstairs.data.mixture import Mixture, episodes_of, mixed
from upstairs.data.source import Source
from upstairs.data.text.hashed import TOKENS, text_source
from upstairs.errors import UpstairsError


def numbered(name: str, first: int, classes: int) -> Source:
    """Each input is its own number, so that a test sees where it came from."""
    x = np.arange(first, first + 6 * classes, dtype=np.float32)[:, None]
    return Source.from_arrays(x, [f"{k:02d}" for k in range(classes) for _ in range(6)], name=name)


def both(weights: list[float] | None = None) -> Source:
    return mixed([numbered("low", 0, 5), numbered("high", 1000, 8)], weights)


def test_a_task_is_the_one_its_part_would_draw() -> None:
    episodes = episodes_of(both(), way=3, shot=1, query=2)
    assert isinstance(episodes, Mixture)
    assert type(episodes_of(numbered("low", 0, 5), way=3, shot=1, query=1)) is Episodes
    alone = [Episodes(part, way=3, shot=1, query=2) for part in episodes.source.parts]
    tasks = episodes.batch(range(40))
    for i in range(40):
        place = episodes.part(i)
        own = alone[place].batch([i])
        assert torch.equal(tasks.support.x[i], own.support.x[0]) and torch.equal(tasks.query.x[i], own.query.x[0])
        assert (tasks.support.x[i] >= 1000).all() == (place == 1)
        assert episodes.labels(i) == alone[place].labels(i)
        assert episodes.classes(i) == [5 * place + k for k in alone[place].classes(i)]


def test_shares_are_those_that_were_stated() -> None:
    """2,000 tasks at 3 : 1, within 4 standard errors."""
    episodes = episodes_of(both([3, 1]), way=2, shot=1, query=1)
    share = np.mean([episodes.part(seed) for seed in range(2000)])
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 2000) ** 0.5


def test_own_labels_are_places_in_the_whole() -> None:
    source = both()
    episodes = episodes_of(source, way=4, shot=1, query=1, global_labels=True)
    for seed in range(20):
        x, y = (leaf[0] for leaf in episodes.batch([seed]).query[:2])
        expected = [int(v) // 6 if v < 1000 else 5 + (int(v) - 1000) // 6 for v in x[:, 0]]
        assert y.tolist() == expected and set(y.tolist()) == set(episodes.classes(seed))
    assert source.labels[5] == "high/00" and source.groups[4] == "low" and len(source) == 13
    assert [len(part) for part in source.by_group().values()] == [5, 8]


def test_tasks_of_unequal_size_are_padded() -> None:
    tasks = episodes_of(both(), way=2, shot=(1, 3), query=1).batch(range(12))
    assert not tasks.support.mask.all() and tasks.query.mask.all()
    assert (tasks.support.x[~tasks.support.mask] == 0).all()


def test_texts_of_unequal_length_are_read_alike() -> None:
    short = text_source(["a b", "c"] * 2, ["x", "y"] * 2, name="short")
    long = text_source(["one two three four", "five"] * 2, ["x", "y"] * 2, name="long")
    source = mixed([short, long])
    assert source.feature_shape == (4, TOKENS) and source.parts[0].feature_shape == (4, TOKENS)
    assert (source.parts[0].inputs[:, :2] == short.inputs).all() and not source.parts[0].inputs[:, 2:].any()


def test_what_cannot_be_mixed() -> None:
    with pytest.raises(UpstairsError, match="1 data set is no mixture"):
        mixed([numbered("low", 0, 5)])
    with pytest.raises(UpstairsError, match="give one above 0 for each"):
        both([1, 0])
    flat = Source.from_arrays(np.zeros((4, 2), np.float32), [0, 0, 1, 1], name="flat")
    with pytest.raises(UpstairsError, match="only where they are alike"):
        mixed([numbered("low", 0, 5), flat])
    with pytest.raises(UpstairsError, match="`hard`"):
        episodes_of(both(), way=2, shot=1, query=1).batch([0], among=[1, 2])
