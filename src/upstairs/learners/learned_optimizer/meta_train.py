"""Meta-training of an update rule over long inner loops: the training of whole networks over hundreds of steps.

    phi_{k+1} = phi_k + rule_theta(grad L_k(phi_k)),   J(theta) = mean over windows of score(the losses of its steps)

    truncated    autograd through one window with a constant start: cheap, biased towards short-sighted rules
    ES           antithetic evolution strategies over the whole loop
    PES          persistent evolution strategies (Vicol, Metz and Sohl-Dickstein 2021): one window, without that bias

The initial weights and minibatches of an inner loop are pure functions of its seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from upstairs.core import LossFn, cross_entropy
from upstairs.errors import UpstairsError
from upstairs.functional.batching import vectorize
from upstairs.functional.call import Params, functional_call
from upstairs.functional.differentiate import add, gradient_and_value
from upstairs.functional.evolution import antithetic_gradient, draw_noise, perturb
from upstairs.functional.rules import UpdateRule
from upstairs.tree import detach

LoopState = tuple[Params, Any]  # parameters of the network; state of the rule, () before its `init`
Batch = tuple[Tensor, Tensor]
Score = Callable[[Tensor], Tensor]  # losses [steps] -> the objective that meta-training minimises


@dataclass(frozen=True, eq=False)
class NetworkTraining:
    """A training problem: `make` returns a network with random weights, `x` and `y` are its examples.

    Args:
        make: called with torch's global generator seeded.
        batch: number of examples in a step.
    """

    make: Callable[[], nn.Module]
    x: Tensor
    y: Tensor
    batch: int = 64
    loss_fn: LossFn = cross_entropy
    net: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            object.__setattr__(self, "net", self.make())

    def start(self, seed: int) -> Params:
        """Returns the initial weights of a loop."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return {n: p.detach().clone() for n, p in self.make().named_parameters()}

    def minibatches(self, seed: int, first: int, steps: int) -> list[Batch]:
        """Returns the minibatches of the steps from `first` on, each drawn with replacement."""
        generator = torch.Generator()
        drawn = []
        for step in range(first, first + steps):
            rows = torch.randint(len(self.x), (self.batch,), generator=generator.manual_seed(seed * 1_000_003 + step))
            drawn.append((self.x[rows], self.y[rows]))
        return drawn

    def loss(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        return self.loss_fn(functional_call(self.net, params, x), y).mean()


def unroll(
    rule: UpdateRule, training: NetworkTraining, carry: LoopState, batches: list[Batch]
) -> tuple[LoopState, Tensor]:
    """Runs a step for each minibatch; returns the carry after them, and the loss before each step."""
    params, state = carry
    state = state or rule.init(params)
    losses = []
    for x, y in batches:
        grads, loss = gradient_and_value(training.loss, params, x, y, create_graph=torch.is_grad_enabled())
        updates, state = rule.update(grads, state, params)
        params = add(params, updates)
        losses.append(loss)
    return (params, state), torch.stack(losses)


def mean_log(losses: Tensor) -> Tensor:
    """Returns log(mean loss + 0.001), which weights relative improvements equally; losses are clamped to 1000."""
    return (losses.nan_to_num(1e3, posinf=1e3).clamp(max=1e3).mean() + 1e-3).log()


class Windows:
    """The windows of successive loops, each with the next seed and the next training problem.

    Args:
        trainings: training problems with networks of the same architecture.
        horizon: number of steps of a loop.
        window: number of steps of a window.
        seed: the first loop has the seed after this one.
    """

    def __init__(self, trainings: Sequence[NetworkTraining], *, horizon: int, window: int, seed: int = 0) -> None:
        if window < 1 or horizon % window:
            raise UpstairsError(
                f"a loop of {horizon} steps is no whole number of windows of {window}: give a window that divides it"
            )
        self.trainings, self.horizon, self.window = trainings, horizon, window
        self.seed, self.step = seed, horizon

    def following(self) -> tuple[Params | None, list[Batch]]:
        """Returns the minibatches of the next window, and at the beginning of a loop its initial weights."""
        begins = self.step >= self.horizon
        if begins:
            self.seed, self.step = self.seed + 1, 0
        training = self.trainings[self.seed % len(self.trainings)]
        batches = training.minibatches(self.seed, self.step, self.window)
        self.step += self.window
        return training.start(self.seed) if begins else None, batches


class TruncatedBackpropagation:
    """Truncated backpropagation through time: autograd through a window, then through the next one.

    Args:
        rule: an `UpdateRule` with parameters.
    """

    def __init__(self, rule: Any, windows: Windows, *, score: Score = mean_log) -> None:
        self.rule, self.windows, self.score = rule, windows, score

    def backward(self) -> Tensor:
        """Adds the gradient of one window's score to the `.grad` of the rule's parameters; returns the score."""
        start, batches = self.windows.following()
        if start is not None:
            self.carry: LoopState = start, ()
        carry, losses = unroll(self.rule, self.windows.trainings[0], self.carry, batches)
        value = self.score(losses)
        value.backward()
        self.carry = detach(carry)
        return value.detach()


class PersistentEvolution:
    """PES (Vicol et al. 2021, algorithm 2): every particle perturbs theta anew in each window and sums its noise.

        grad J  ~  mean over pairs of  xi * (score(theta + e) - score(theta - e)) / (2 sigma^2),   xi = sum of its e

    Both particles of a pair have the same initial weights and minibatches. With one window per loop it is ES.

    Args:
        rule: an `UpdateRule` with parameters.
        pairs: number of antithetic pairs.
        sigma: standard deviation of the perturbation of one window.
        seed: seed of the perturbations.
        compile: compile a step with inductor: it takes half a minute and makes steps three times as fast.
    """

    def __init__(
        self, rule: Any, windows: Windows, *, pairs: int = 8, sigma: float = 0.03, seed: int = 0,
        score: Score = mean_log, compile: bool = False,
    ) -> None:  # fmt: skip
        self.rule, self.windows, self.score = rule, windows, score
        self.pairs, self.sigma, self.compile = pairs, sigma, compile
        self.dice, self.loop = torch.Generator().manual_seed(seed), _Loop(rule, windows.trainings[0])
        self.program: Callable[..., Any] | None = None

    @torch.no_grad()
    def backward(self) -> Tensor:
        """Adds the estimate from one window to the `.grad` of the rule's parameters; returns the mean score."""
        theta = dict(self.rule.named_parameters())
        start, batches = self.windows.following()
        noise = draw_noise(theta, self.sigma, self.pairs, self.dice)
        if start is None:
            self.xi = {n: self.xi[n] + e for n, e in noise.items()}
        else:
            self.carry: LoopState = {n: p.expand(2 * self.pairs, *p.shape) for n, p in start.items()}, ()
            self.xi = noise
        sides = zip(perturb(theta, noise, 1).items(), perturb(theta, noise, -1).values(), strict=True)
        particles = {f"rule.{n}": torch.cat([above, below]) for (n, above), below in sides}
        losses = []
        for x, y in batches:
            self.carry, loss = self.advance(particles, self.carry, x, y)
            losses.append(loss)
        scores = torch.stack([self.score(own) for own in torch.stack(losses, 1)])
        above, below = scores.chunk(2)
        for n, grad in antithetic_gradient(self.xi, above - below, self.sigma).items():
            theta[n].grad = grad if theta[n].grad is None else theta[n].grad + grad
        return scores.mean()

    def advance(self, particles: Params, carry: LoopState, x: Tensor, y: Tensor) -> tuple[LoopState, Tensor]:
        """Runs a step of every particle."""
        if self.compile and carry[1]:  # the first step, which creates the rule's state, differs
            self.program = self.program or compiled(self.eagerly, particles, carry, x, y)
            return self.program(particles, carry, x, y)
        return self.eagerly(particles, carry, x, y)

    def eagerly(self, particles: Params, carry: LoopState, x: Tensor, y: Tensor) -> tuple[LoopState, Tensor]:
        def one(own: Params, carry: LoopState) -> tuple[LoopState, Tensor]:
            return functional_call(self.loop, own, carry, x, y)

        name = "step" if carry[1] else "first"
        return vectorize(one, (particles, carry), owner=self.loop, name=name)


class _Loop(nn.Module):
    """A step of `unroll` as a module, so that the rule's parameters can be replaced by `functional_call`."""

    def __init__(self, rule: Any, training: NetworkTraining) -> None:
        super().__init__()
        self.rule, self.of = rule, training

    def forward(self, carry: LoopState, x: Tensor, y: Tensor) -> tuple[LoopState, Tensor]:
        carry, losses = unroll(self.rule, self.of, carry, [(x, y)])
        return carry, losses[0]


def compiled(function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """Compiles `function` for arguments of these shapes, whose leaves are tensors."""
    leaves, given = tree_flatten(args)
    made = tree_flatten(function(*args))[1]

    def flat(*leaves: Tensor) -> list[Tensor]:
        return tree_flatten(function(*tree_unflatten(list(leaves), given)))[0]

    leaves = [t.contiguous() for t in leaves]
    graph = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*leaves)
    graph.graph.eliminate_dead_code()  # views left over from tracing
    graph.recompile()
    from torch import _inductor  # imported late, since it takes a second

    run = _inductor.compile(graph, leaves, options={"cpp_wrapper": True})
    return lambda *args: tree_unflatten(list(run(*(t.contiguous() for t in tree_flatten(args)[0]))), made)
