"""Tasks of embeddings, where each example is in many tasks and an encoder that does not adapt is slow."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upstairs.core import Examples, Learner
from upstairs.learners.metric import MetricLearner
from upstairs.tasks.episodes import Episodes
from upstairs.tasks.pieces import PieceFormat
from upstairs.tasks.text import TextFormat
from upstairs.tree import beside

PART = 256  # examples that are embedded at a time
MOST = 2**28


class Head(Learner[Any]):
    """A metric learner whose inputs are embedded already."""

    def __init__(self, learner: MetricLearner[Any]) -> None:
        super().__init__()
        self.learner, self.way = learner, learner.way

    def adapt(self, support: Examples, /) -> Any:
        return self.learner.fit(support.x, support)

    def predict(self, state: Any, x: Tensor, /) -> Tensor:
        return self.learner.logits(state, x)


def embedded(learner: Learner, episodes: Episodes, tasks: int) -> tuple[Learner, Episodes]:
    """The same tasks, each example embedded once, where that is less work: else what was given.

    That is for texts as tokens, and for learners whose encoder does not adapt and sees each example alone; and where
    all embeddings fit into `MOST` bytes.

    Args:
        learner: in evaluation mode; nothing is differentiated.
        tasks: how many will be solved.
    """
    source, given = episodes.source, (learner, episodes)
    count = sum(len(rows) for rows in source.rows)
    drawn = tasks * episodes.way[1] * (episodes.shot[1] + episodes.query)
    if not isinstance(source.format, PieceFormat | TextFormat) or source.augment or drawn <= count:
        return given
    if not isinstance(learner, MetricLearner) or type(learner).adapt is not MetricLearner.adapt or learner.transductive:
        return given
    vectors: list[Tensor] = []
    for rows in torch.from_numpy(np.concatenate(source.rows)).split(PART):
        vectors.append(learner.embed(beside(learner, source.gather(rows))).cpu())
        if vectors[0][0].nbytes * count > MOST:
            return given
    places = np.split(np.arange(count), np.cumsum([len(rows) for rows in source.rows])[:-1])
    other = replace(source, inputs=torch.cat(vectors).numpy(), rows=tuple(places), format=None, texts=())
    return Head(learner), Episodes(other, way=episodes.way, shot=episodes.shot, query=episodes.query)
