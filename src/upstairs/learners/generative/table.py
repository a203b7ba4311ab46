"""The table of generative learners."""

from math import prod

from torch import nn

from upstairs.core import Learner
from upstairs.errors import UpstairsError
from upstairs.learners.building import Entry, Shape
from upstairs.learners.generative.dagan import DAGAN, Redrawer
from upstairs.learners.generative.likelihood import bernoulli_log_p, gaussian_log_p
from upstairs.learners.generative.neural_statistician import NeuralStatistician
from upstairs.learners.generative.redrawing import Redrawing
from upstairs.nets import mlp
from upstairs.nets.drawing import Bender, PictureWriter, critic, picture_reader
from upstairs.settings import Settings


def _statistician(settings: Settings, shape: Shape, way: int) -> Learner:
    drawings = len(shape) == 3 and shape[0] == 1  # ink or paper; all else has a mean and a scale for each value
    likelihood, parameters = (bernoulli_log_p, 1) if drawings else (gaussian_log_p, 2)
    width, size = settings.width, 4 * settings.width
    read: nn.Module
    write: nn.Module
    latent = 2 * width
    if len(shape) == 3 and min(shape[1:]) >= 16:
        read = picture_reader(shape, width=width, out=size)
        write = PictureWriter(2 * latent, (parameters * shape[0], *shape[1:]), width=width)
    else:
        read = mlp(shape, widths=(size, size), out=size)
        write = mlp((2 * latent,), widths=(size, size), out=parameters * prod(shape))
        if len(shape) > 1:
            write = nn.Sequential(write, nn.Unflatten(1, (parameters * shape[0], *shape[1:])))
    return NeuralStatistician(read, write, size, latent=latent, likelihood=likelihood)


def _redrawing(settings: Settings, shape: Shape, way: int) -> Learner:
    if len(shape) != 3 or shape[0] != 1 or min(shape[1:]) < 16:
        raise UpstairsError(
            f"redrawing takes pictures of one channel and 16x16 pixels or more and was given inputs of shape {shape}: "
            "use dagan for pictures of several channels, or resize smaller ones"
        )
    return Redrawing(shape, width=settings.width, latent=4 * settings.width)


def _dagan(settings: Settings, shape: Shape, way: int) -> Learner:
    if len(shape) != 3 or min(shape[1:]) < 16:
        raise UpstairsError(
            f"dagan takes pictures of 16x16 pixels or more and was given inputs of shape {shape}: resize smaller ones"
        )
    size = 2 * settings.width
    read = picture_reader(shape, width=settings.width, out=2 * size)
    generator = Redrawer(read, Bender(size, 2 * size, shape, width=settings.width))
    return DAGAN(
        generator, critic((3 * shape[0], *shape[1:]), width=2 * settings.width), size=size, turns=settings.critic_steps
    )


_SETS = {"way": 1, "query": 4, "norm": "none", "lr": 1e-3, "validations": 10, "validation_tasks": 60}

# what was measured, did not help and is no longer here: docs/generation.md has the numbers
REMOVED = {
    "metagan": "it was 3 points worse than its own classifier, so train protonet",
    "figr": "its drawings were recognised no more often than by guessing, so train dagan or redrawing",
}
GENERATIVE_LEARNERS: dict[str, Entry] = {
    "dagan": Entry(
        _dagan, _SETS | {"shot": "1", "tasks": 16, "width": 16},
        "DAGAN: redraws one example of a class, against a critic of pairs (Antoniou 2018)",
    ),
    "neural_statistician": Entry(
        _statistician, _SETS | {"shot": "1-10", "width": 32},
        "Neural Statistician: a variational autoencoder of sets (Edwards 2017)",
    ),
    "redrawing": Entry(
        _redrawing, _SETS | {"width": 16}, "a variational autoencoder that bends and redraws the support pictures"
    ),
}  # fmt: skip
