"""DAGAN: a generator redraws one example of a class, and a critic compares the copy with other examples."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.core import Examples, Task
from upstairs.errors import UpstairsError, check_type
from upstairs.learners.generative.adversarial import nearness, zero_slope
from upstairs.learners.generative.base import Exemplars, GenerativeLearner
from upstairs.learners.generative.games import Game, Side
from upstairs.learners.generative.likelihood import scatter
from upstairs.learners.model_based.conditioned import Noise
from upstairs.nets.drawing import Bender, critic, picture_reader

LOOKED_AT = 16  # number of draws in the score of `predict`


class Redrawer(nn.Module):
    """The generator: `read` encodes a picture, `draw` is a `Bender`."""

    def __init__(self, read: nn.Module, draw: Bender) -> None:
        super().__init__()
        self.read, self.draw = read, draw


class DAGAN(Game[Exemplars], GenerativeLearner[Exemplars]):
    """DAGAN: a generator redraws a picture, and a critic tells such a copy from another picture of the class.

    Data augmentation GAN (Antoniou, Storkey and Edwards 2018): the critic reads pairs (s, x), s from the support set, x
    real or generated from s. A generated x must therefore be of the same class as s, but differ from it.

        L_critic    = mean of softplus(D(made) - D(real)) + penalty (R1 + R2),   D(real) = D(s, x_i, x_i+1)
        L_generator = mean of softplus(D(real) - D(made)),                       D(made) = D(s, G(s, z_i), G(s, z_i+1))

    Three changes prevent mode collapse: the critic reads two pictures at a time, which detects a generator that ignores
    z (PacGAN: Lin et al. 2018); the loss is relativistic with zero-centred gradient penalties (R3GAN: Huang et al.
    2024) instead of WGAN-GP; and the generator warps s and redraws its strokes (`Bender`), where the paper's decodes a
    new picture. `predict` returns `nearness`, which is not comparable with the bound of a VAE.

    Args:
        generator: warps a picture and redraws its strokes, given a vector z.
        critic: a module from pictures of three times the channels, [s, x, x'], to one number.
        size: length of z.
        penalty: weight of the gradient penalties.
        turns: critic steps for each generator step.
        truncation: factor of z in `draw`; below 1 drawings vary less and are more typical of their class (the
            truncation trick: Brock, Donahue and Simonyan 2019).
    """

    def __init__(
        self, generator: Redrawer, critic: nn.Module, *, size: int, penalty: float = 1.0, turns: int = 1,
        truncation: float = 0.35,
    ) -> None:  # fmt: skip
        super().__init__()
        self.generator, self.critic, self.penalty, self.truncation = generator, critic, penalty, truncation
        self.noise, self.noise_size = Noise(1 + size, samples=1024, judged=LOOKED_AT), 1 + size
        self.sides = {"critic": Side(turns, betas=(0.0, 0.99)), "generator": Side(betas=(0.0, 0.99))}

    def at(self, progress: float) -> None:
        self.noise.at(progress)

    def adapt(self, support: Examples, /) -> Exemplars:
        return Exemplars(support.x, self.generator.read(support.x), support.mask)

    def draw(self, state: Exemplars, noise: Float[Tensor, "count k"], /) -> Float[Tensor, "count c h w"]:
        return self.redraw(state, noise[:, 0], self.truncation * noise[:, 1:])[1]

    def redraw(
        self, state: Exemplars, which: Float[Tensor, " count"], z: Float[Tensor, "count k"]
    ) -> tuple[Float[Tensor, "count c h w"], Float[Tensor, "count c h w"]]:
        """Returns chosen support pictures, and each of them redrawn."""
        after, read = state.at(state.choose(which))
        return after, self.generator.draw(z, after, read).sigmoid()

    def predict(self, state: Exemplars, x: Tensor, /) -> Float[Tensor, "n 1"]:
        return nearness(self.draw(state, self.noise.fixed.to(x.dtype)), x)

    def player_loss(self, name: str, task: Task) -> tuple[Tensor, Tensor]:
        state, x = self.adapt(task.support), task.query.x
        noise = F.embedding(scatter(x) % len(self.noise.drawn), self.noise.drawn.to(x.dtype))  # differs between tasks
        after, made = self.redraw(state, noise[:, 0], noise[:, 1:])
        packs = [torch.cat([after, each, each.roll(1, 0)], 1) for each in (x, made)]
        real, fake = (self.judged(pack) for pack in packs)
        if name == "generator":
            return task.query.mean(F.softplus(real - fake)), nearness(made, x)
        slope = sum(zero_slope(self.judged, pack) for pack in packs)
        return task.query.mean(F.softplus(fake - real)) + self.penalty * slope, nearness(made, x)

    def judged(self, packs: Float[Tensor, "n c3 h w"]) -> Float[Tensor, " n"]:
        return self.critic(packs)[:, 0]


def dagan(shape: tuple[int, ...], *, width: int = 16, turns: int = 1) -> DAGAN:
    """Data augmentation GAN (Antoniou, Storkey and Edwards 2018): L_critic = mean of softplus(D(made) - D(real)).

    Args:
        shape: shape of one picture, (channels, height, width), of 16 pixels or more.
        width: channels of the drawing network at full size; the critic has twice as many.
        turns: critic steps for each generator step.

    Raises:
        UpstairsError: inputs of another shape.
    """
    check_type("shape", shape, (tuple, list), "the shape of one input, such as (1, 28, 28)")
    if len(shape) != 3 or min(shape[1:]) < 16:
        raise UpstairsError(
            f"dagan takes pictures of 16x16 pixels or more and was given inputs of shape {shape}: resize smaller ones"
        )
    size = 2 * width
    generator = Redrawer(picture_reader(shape, width=width, out=2 * size), Bender(size, 2 * size, shape, width=width))
    return DAGAN(generator, critic((3 * shape[0], *shape[1:]), width=size), size=size, turns=turns)
