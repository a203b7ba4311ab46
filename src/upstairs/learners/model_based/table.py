"""Meta transfer by a network that reads the support set: f(x) = g(theta, support)(x)."""

from collections.abc import Callable
from dataclasses import replace

from upstairs.core import Learner
from upstairs.learners.building import FUNCTIONS, METRIC, Build, Entry, Shape, length, make_net, on_encoder, scale
from upstairs.learners.model_based.conditioned import FilmLearner, Hypernetwork, Versa
from upstairs.learners.model_based.neural_processes import ANP, CNP, LNP
from upstairs.learners.model_based.recurrent import LSTMLearner, MemoryLearner
from upstairs.learners.model_based.snail import in_context, snail
from upstairs.settings import Settings


def _film(settings: Settings, shape: Shape, way: int) -> Learner:
    encoder = make_net(settings, shape, None)
    summary = make_net(replace(settings, width=max(8, settings.width // 4)), shape, None)
    size = length(encoder, shape)
    return FilmLearner(encoder, summary, length(summary, shape), way=way, scale=scale(settings, size))


def _process(make: Callable[..., Learner]) -> Build:
    return lambda s, shape, way: make(shape[0], width=s.width)


_HYPERNETWORK = on_encoder(lambda net, size, s, way: Hypernetwork(net, size, way=way))
_VERSA = on_encoder(lambda net, size, s, way: Versa(net, size, way=way))
_PROCESS = FUNCTIONS | {"shot": "3-20", "query": 20, "tasks": 16, "width": 128}


_READER = METRIC | {"way": 5, "tasks": 8}


MODEL_BASED_LEARNERS: dict[str, Entry] = {
    "hypernetwork": Entry(
        _HYPERNETWORK, METRIC | {"way": 20, "tasks": 2}, "a network writes each class's weights (Ha 2017)"
    ),
    "film": Entry(_film, METRIC, "a set encoder scales and shifts the encoder's channels (Requeima 2019, CNAPs)"),
    "versa": Entry(
        _VERSA, METRIC | {"way": 20, "tasks": 2},
        "a network writes a distribution over each class's weights (Gordon 2019)",
    ),
    "cnp": Entry(
        _process(CNP), None, "conditional neural process: a mean over the support set (Garnelo 2018)", _PROCESS
    ),
    "lnp": Entry(
        _process(LNP), None, "neural process with a latent, by maximum likelihood (Garnelo 2018, Foong 2020)", _PROCESS
    ),
    "anp": Entry(
        _process(ANP), None, "attentive neural process: queries attend to the support set (Kim 2019)",
        _PROCESS | {"width": 64},
    ),
    # meta neural networks
    "snail": Entry(
        on_encoder(lambda net, size, s, way: snail(net, size, way=way, shot=s.shots[1])),
        _READER, "SNAIL: temporal convolution and causal attention over the support set (Mishra 2018)",
    ),
    "in_context": Entry(
        on_encoder(lambda net, size, s, way: in_context(net, size, way=way)),
        _READER, "a transformer that reads the support set and answers in one pass (TabPFN, Hollmann 2023)",
    ),
    # meta recurrent networks
    "lstm": Entry(
        on_encoder(lambda net, size, s, way: LSTMLearner(net, size, way=way)),
        _READER, "an LSTM that is told each label one step late (Hochreiter 2001)",
    ),
    "memory": Entry(
        on_encoder(lambda net, size, s, way: MemoryLearner(net, size, way=way)),
        _READER, "memory-augmented LSTM, told each label one step late (Santoro 2016)",
    ),
}  # fmt: skip
