"""Games of two players: a generator, and one who tells what it makes from what is real."""

from dataclasses import replace

from upstairs.core import Learner
from upstairs.learners.metagan import MetaGAN, NearMisses
from upstairs.learners.metric import ProtoNet
from upstairs.learners.table.building import METRIC, Entry, Shape, length, make_net, own_network, scale
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


ADVERSARIAL: dict[str, Entry] = {
    "metagan": Entry(
        _metagan, METRIC | {"way": 20, "critic_steps": 4},
        "MetaGAN: a ProtoNet that learns beside a generator of near-misses (Zhang 2018)",
    ),
}  # fmt: skip
