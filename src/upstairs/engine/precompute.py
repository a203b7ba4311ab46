"""Precomputed embeddings, for evaluation with an encoder that does not adapt."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upstairs.core import Examples, Learner
from upstairs.data.episodes import Episodes
from upstairs.functional.exclusive import alone
from upstairs.tree import to_device_of

PART = 256  # examples that are embedded at a time
MOST = 2**28  # bytes of all embeddings


class Head(Learner[Any]):
    """A learner that `embeds_alone`, on inputs that are embedded already."""

    def __init__(self, learner: Any) -> None:
        super().__init__()
        self.learner, self.way = learner, learner.way

    def adapt(self, support: Examples, /) -> Any:
        return self.learner.fit(support.x, support)

    def predict(self, state: Any, x: Tensor, /) -> Tensor:
        return self.learner.logits(state, x)


def embedded(
    learner: Any, episodes: Episodes, tasks: int, progress: Callable[[float], None] = lambda share: None
) -> tuple[Learner, Episodes]:
    """Returns the learner and tasks with each example embedded once; both unchanged where that saves no work.

    It applies to learners that `embeds_alone`, on examples without augmentation, if all embeddings fit into `MOST`
    bytes.

    Args:
        learner: in evaluation mode; nothing is differentiated.
        tasks: the number of tasks to solve.
        progress: receives the share of examples embedded so far.
    """
    source, given = episodes.source, (learner, episodes)
    sizes = [len(rows) for rows in source.rows]
    drawn = tasks * (episodes.largest_way or 1) * (episodes.shot[1] + episodes.query)
    if type(episodes) is not Episodes or source.augment or episodes.speakers or not 0 < sum(sizes) < drawn:
        return given
    if not learner.embeds_alone or next(learner.parameters(), None) is None:
        return given  # without parameters it compares raw inputs
    turns = torch.tensor(source.turns or (0,) * len(sizes)).repeat_interleave(torch.tensor(sizes))
    rows, vectors = torch.from_numpy(np.concatenate(source.rows)), list[Tensor]()
    for part in torch.arange(sum(sizes)).split(PART):
        x = to_device_of(learner, source.gather(rows[part], turns[part]))
        with alone():
            vectors.append(learner.embed(x).cpu())
        if vectors[0][0].nbytes * sum(sizes) > MOST:
            return given
        progress((int(part[-1]) + 1) / sum(sizes))
    places = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    other = replace(source, inputs=torch.cat(vectors).numpy(), rows=tuple(places), turns=(), format=None, texts=())
    return Head(learner), Episodes(other, way=episodes.way, shot=episodes.shot, query=episodes.query)
