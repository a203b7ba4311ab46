"""Builders of the model-based learners from settings."""

from collections.abc import Callable
from dataclasses import replace

from upstairs.core import Learner
from upstairs.errors import UpstairsError
from upstairs.learners.building import make_net, on_encoder, scale
from upstairs.learners.entries import Build, Shape
from upstairs.learners.model_based.conditioned import FilmLearner, Hypernetwork, Versa
from upstairs.learners.model_based.neural_processes import ANP, CNP, LNP
from upstairs.learners.model_based.recurrent import LSTMLearner, MemoryLearner
from upstairs.learners.model_based.snail import in_context, snail
from upstairs.nets import embedding_size
from upstairs.settings import Settings


def build_film(settings: Settings, shape: Shape, way: int) -> Learner:
    encoder = make_net(settings, shape, None)
    summary = make_net(replace(settings, width=max(8, settings.width // 4)), shape, None)
    size = embedding_size(encoder, shape)
    return FilmLearner(encoder, summary, embedding_size(summary, shape), way=way, scale=scale(settings, size))


def process(make: Callable[..., Learner]) -> Build:
    """Returns a builder of a neural process, which reads vectors."""

    def build(settings: Settings, shape: Shape, way: int | None) -> Learner:
        if len(shape) != 1:
            raise UpstairsError(f"{settings.learner} reads vectors and the inputs have shape {shape}: flatten them")
        return make(shape[0], width=settings.width, outputs=settings.outputs)

    return build


def reader(make: Callable[..., Learner]) -> Build:
    """Returns a builder of a learner from an encoder and the length of its embeddings."""
    return on_encoder(lambda net, size, s, way: make(net, size, way=way))


build_hypernetwork, build_versa = reader(Hypernetwork), reader(Versa)
build_cnp, build_lnp, build_anp = process(CNP), process(LNP), process(ANP)
build_snail = on_encoder(lambda net, size, s, way: snail(net, size, way=way, shot=s.shots[1]))
build_in_context, build_lstm, build_memory = reader(in_context), reader(LSTMLearner), reader(MemoryLearner)
