"""Games of two players: a generator, and one who tells what it makes from what is real."""

from dataclasses import replace

from upstairs.core import Learner
from upstairs.errors import UpstairsError
from upstairs.learners.dagan import DAGAN, Redrawer
from upstairs.learners.figr import FIGR
from upstairs.learners.metagan import MetaGAN, NearMisses
from upstairs.learners.metric import ProtoNet
from upstairs.learners.table.building import METRIC, Entry, Shape, length, make_net, own_network, scale
from upstairs.nets.critic import critic
from upstairs.nets.drawing import Bender, picture_reader
from upstairs.nets.generator import writer
from upstairs.settings import Settings


def _metagan(settings: Settings, shape: Shape, way: int) -> Learner:
    own_network(settings)
    encoder = make_net(settings, shape, None)
    classifier = ProtoNet(encoder, way=way, scale=scale(settings, length(encoder, shape)))
    small = replace(settings, width=max(8, settings.width // 4))
    context = make_net(small, shape, None)
    size = length(context, shape)
    generator = NearMisses(context, writer(2 * size, shape, width=small.width), size=size)
    return MetaGAN(classifier, generator, turns=settings.critic_steps)


def _dagan(settings: Settings, shape: Shape, way: int) -> Learner:
    if len(shape) != 3 or min(shape[1:]) < 16:
        raise UpstairsError(
            f"dagan takes pictures of 16x16 pixels or more and was given inputs of shape {shape}: use figr"
        )
    size = 2 * settings.width
    read = picture_reader(shape, width=settings.width, out=2 * size)
    generator = Redrawer(read, Bender(size, 2 * size, shape, width=settings.width))
    return DAGAN(
        generator, critic((3 * shape[0], *shape[1:]), width=2 * settings.width), size=size, turns=settings.critic_steps
    )


def _figr(settings: Settings, shape: Shape, way: int) -> Learner:
    own_network(settings)
    size = 2 * settings.width
    return FIGR(
        writer(size, shape, width=settings.width), critic(shape, width=settings.width), size=size,
        rate=settings.inner_rate, steps=settings.inner_steps,
    )  # fmt: skip


_SETS = {"way": 1, "query": 4, "norm": "none", "rate": 1e-3, "validations": 10, "validation_tasks": 60}
ADVERSARIAL: dict[str, Entry] = {
    "metagan": Entry(
        _metagan, METRIC | {"way": 20, "critic_steps": 4},
        "MetaGAN: a ProtoNet that learns beside a generator of near-misses (Zhang 2018)",
    ),
    "dagan": Entry(
        _dagan, _SETS | {"shot": "1", "tasks": 16, "width": 16},
        "DAGAN: redraws one example of a class, against a critic of pairs (Antoniou 2018)",
    ),
    "figr": Entry(
        _figr,
        _SETS | {"shot": "1-5", "tasks": 4, "width": 16, "inner_steps": 10, "inner_rate": 3e-3}
        | {"validations": 5, "validation_tasks": 32},
        "FIGR: a GAN that a few steps adapt to a class, its start by Reptile (Clouatre 2019)",
    ),
}  # fmt: skip
