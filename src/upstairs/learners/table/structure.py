"""Learning of structure: which parameters adapt and in which geometry, what the network is, how deep it is."""

import torch

from upstairs.core import Learner, evaluating
from upstairs.learners.depth import EarlyExit, costs_of
from upstairs.learners.search import MetaNAS
from upstairs.learners.structure import sparse_maml, t_net, transformed
from upstairs.learners.table.building import (
    FUNCTIONS,
    INNER_LOOP,
    METRIC,
    Entry,
    Shape,
    length,
    on_net,
    own_network,
    scale,
)
from upstairs.nets.cells import Exit, cells, chain
from upstairs.settings import Settings


def _early_exit(settings: Settings, shape: Shape, way: int) -> Learner:
    own_network(settings)
    stages = chain(shape, width=settings.width, norm=settings.norm)
    x, end, sizes = torch.zeros(1, *shape), Exit(), []
    with evaluating(stages):
        for stage in stages:
            x = stage(x)
            sizes.append(end(x).shape[1])
    return EarlyExit(stages, sizes=sizes, costs=costs_of(stages, shape), way=way, scale=settings.scale)


def _metanas(settings: Settings, shape: Shape, way: int) -> Learner:
    own_network(settings)
    encoder = cells(shape, width=settings.width, norm=settings.norm)
    return MetaNAS(encoder, way=way, scale=scale(settings, length(encoder, shape)))


STRUCTURE: dict[str, Entry] = {
    "sparse_maml": Entry(
        on_net(sparse_maml), INNER_LOOP,
        "sparse-MAML: MAML that learns which weights adapt (von Oswald 2021)", FUNCTIONS,
    ),
    "t_net": Entry(
        on_net(t_net, transformed), INNER_LOOP,
        "T-Net: MAML with learned layers, which do not adapt, after those that do (Lee and Choi 2018)", FUNCTIONS,
    ),
    "metanas": Entry(
        _metanas, METRIC | {"way": 20, "width": 32},
        "MetaNAS: a search for the network across tasks, then that network as a ProtoNet (Elsken 2020)",
    ),
    "early_exit": Entry(
        _early_exit, METRIC | {"way": 20, "tasks": 3},
        "a ProtoNet of which each query reads only as many stages as it needs (Graves 2016, Teerapittayanon 2016)",
    ),
}  # fmt: skip
