"""What generates: from a few examples of a class, more of it."""

from math import prod

from torch import nn

from upstairs.core import Learner
from upstairs.errors import UpstairsError
from upstairs.learners.likelihood import likelihood_for
from upstairs.learners.redrawing import Redrawing
from upstairs.learners.statistician import NeuralStatistician
from upstairs.learners.table.building import Entry, Shape
from upstairs.nets import mlp
from upstairs.nets.drawing import PictureWriter, picture_reader
from upstairs.settings import Settings


def _statistician(settings: Settings, shape: Shape, way: int) -> Learner:
    likelihood, width, size = likelihood_for(shape), settings.width, 4 * settings.width
    read: nn.Module
    write: nn.Module
    latent, values = 2 * width, prod(shape)
    if len(shape) == 3 and min(shape[1:]) >= 16:
        read = picture_reader(shape, width=width, out=size)
        write = PictureWriter(2 * latent, (likelihood.parameters * shape[0], *shape[1:]), width=width)
    else:
        read = mlp(shape, widths=(size, size), out=size)
        write = mlp((2 * latent,), widths=(size, size), out=likelihood.parameters * values)
        if len(shape) > 1:
            write = nn.Sequential(write, nn.Unflatten(1, (likelihood.parameters * shape[0], *shape[1:])))
    return NeuralStatistician(read, write, size, latent=latent, values=values, likelihood=likelihood)


def _redrawing(settings: Settings, shape: Shape, way: int) -> Learner:
    if len(shape) != 3 or shape[0] != 1 or min(shape[1:]) < 16:
        raise UpstairsError(
            f"redrawing takes pictures of one channel and 16x16 pixels or more and was given inputs of shape {shape}: "
            "use neural_statistician"
        )
    return Redrawing(shape, width=settings.width, latent=4 * settings.width)


_SETS = {
    "way": 1, "shot": "1", "query": 5, "tasks": 16, "norm": "none", "rate": 1e-3, "validations": 5,
    "validation_tasks": 30,
}  # fmt: skip

GENERATIVE: dict[str, Entry] = {
    "neural_statistician": Entry(
        _statistician, _SETS | {"shot": "1-10", "width": 32},
        "Neural Statistician: a variational autoencoder of sets, makes more of a class (Edwards 2017)",
    ),
    "redrawing": Entry(
        _redrawing, _SETS | {"width": 16}, "a variational autoencoder that bends and redraws the support pictures"
    ),
}  # fmt: skip
