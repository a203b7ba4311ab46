"""FIGR: a generator and a critic from which a few alternating steps make a generator of one class."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.core import Examples, Task
from upstairs.functional.call import functional_call
from upstairs.functional.differentiate import Params, add, gradient, per_task
from upstairs.functional.rules import Adam
from upstairs.learners.generative.adversarial import nearness, unit_slope
from upstairs.learners.generative.base import GenerativeLearner
from upstairs.learners.generative.likelihood import nth
from upstairs.learners.gradient.maml import adapting
from upstairs.learners.model_based.conditioned import Noise
from upstairs.tree import detach

LOOKED_AT = 16  # draws behind the score that `predict` gives


class Pair(NamedTuple):
    """Weights of both players."""

    generator: Params
    critic: Params


class FIGR(GenerativeLearner[Pair]):
    """Few-shot image generation with Reptile (Clouatre and Demers 2019).

    Within a task both are trained on the support set in turn, WGAN-GP (Gulrajani et al. 2017), from (theta_G, theta_D):

        D descends mean D(G(z)) - mean D(x) + penalty * mean (|grad D| - 1)^2,   G descends -mean D(G(z))

    by Adam without momentum. Across tasks both starts move to where the tasks ended, theta <- theta -
    lr * (theta - phi): the meta-loss is |theta - phi|^2 / 2 with phi held fixed, as for `Reptile`.
    The state is phi of both; `draw` is G under it.
    The generator is not told the support set: what it knows of a class it learned in those few steps.
    `predict` gives `nearness`, a bound of its own kind: not to be compared with a VAE's.

    Args:
        generator: from vectors of `size` numbers to inputs.
        critic: from inputs to one number.
        inner_lr: of the inner steps.
        steps: of each player.
        batch: real and made examples in a step; support examples come again where there are fewer.
    """

    def __init__(
        self, generator: nn.Module, critic: nn.Module, *, size: int, inner_lr: float = 1e-3, steps: int = 10,
        batch: int = 8, penalty: float = 10.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.generator, self.critic, self.noise_size = generator, critic, size
        self.rule, self.steps, self.batch, self.penalty = Adam(inner_lr, betas=(0.0, 0.9)), steps, batch, penalty
        rows = 2 * batch * steps + LOOKED_AT
        self.noise = Noise(size, samples=rows, judged=rows)
        self.shares = Noise(batch, samples=steps, judged=steps)

    def at(self, progress: float) -> None:
        self.noise.at(progress)
        self.shares.at(progress)

    def start(self) -> Pair:
        return Pair(adapting(self.generator), adapting(self.critic))

    def adapt(self, support: Examples, /) -> Pair:
        """Each player in turn, the critic first; `steps` of each."""
        phi = Pair(*(per_task(own, support) for own in self.start()))
        memory = [self.rule.init(own) for own in phi]
        numbers = self.noise()[:-LOOKED_AT].to(support.x.dtype).reshape(self.steps, 2, self.batch, -1)
        shares = 0.5 * (1 + torch.erf(self.shares() / 2**0.5)).to(support.x.dtype)
        count = support.mask.sum().clamp(min=1)
        for k in range(self.steps):
            places = nth(support.mask, (k * self.batch + torch.arange(self.batch, device=count.device)) % count)
            real = F.embedding(places, support.x.flatten(1)).reshape(-1, *support.x.shape[1:])
            seen = (self.critic_loss, phi.critic, phi.generator, real, numbers[k, 0], shares[k])
            updates, memory[1] = self.rule.update(gradient(*seen, create_graph=False), memory[1], phi.critic)
            phi = phi._replace(critic=detach(add(phi.critic, updates)))
            seen = (self.generator_loss, phi.generator, phi.critic, numbers[k, 1])
            updates, memory[0] = self.rule.update(gradient(*seen, create_graph=False), memory[0], phi.generator)
            phi = phi._replace(generator=detach(add(phi.generator, updates)))
        return phi

    def critic_loss(self, critic: Params, generator: Params, real: Tensor, z: Tensor, share: Tensor) -> Tensor:
        made = functional_call(self.generator, detach(generator), z)
        slope = unit_slope(lambda x: self.value(critic, x), real, made, share)
        return self.value(critic, made).mean() - self.value(critic, real).mean() + self.penalty * slope

    def generator_loss(self, generator: Params, critic: Params, z: Tensor) -> Tensor:
        return -self.value(detach(critic), functional_call(self.generator, generator, z)).mean()

    def value(self, critic: Params, x: Float[Tensor, "n *feature"]) -> Float[Tensor, " n"]:
        return functional_call(self.critic, critic, x)[:, 0]

    def draw(self, state: Pair, noise: Float[Tensor, "count k"], /) -> Float[Tensor, "count *feature"]:
        return functional_call(self.generator, state.generator, noise)

    def predict(self, state: Pair, x: Tensor, /) -> Float[Tensor, "n 1"]:
        return nearness(self.draw(state, self.noise()[-LOOKED_AT:].to(x.dtype)), x)

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        phi = detach(self.adapt(task.support))
        both = [(p, to[name]) for own, to in zip(self.start(), phi, strict=True) for name, p in own.items()]
        return torch.stack([(p - to).square().sum() for p, to in both]).sum() / 2, self.predict(phi, task.query.x)
