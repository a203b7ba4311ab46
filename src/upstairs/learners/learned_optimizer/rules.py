"""Learned optimisers: update rules that apply one small network to every coordinate.

With the last layer at zero the LSTM rule is gradient descent, the MLP rule is Adam or momentum; both start near that.
A tensor's update depends on that tensor alone, so a rule that was meta-trained on one network can train any other.
"""

from collections.abc import Callable
from math import exp, log
from typing import Any, NamedTuple, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.errors import UpstairsError
from upstairs.functional.call import Params
from upstairs.functional.differentiate import FirstOrder
from upstairs.learners.gradient.maml import GradientLearner, Options

SMALL = 1e-3  # initial standard deviation of a last layer: at zero the layers before it would have no gradient
TINY = 1e-24  # keeps a root differentiable at zero


def log_and_sign(g: Float[Tensor, " n"], p: float = 10.0) -> Float[Tensor, "2 n"]:
    """Encodes a gradient of any magnitude as two numbers of order 1 (Andrychowicz et al. 2016, appendix A).

    (log|g| / p, sign g)  where |g| >= exp(-p),   else  (-1, exp(p) g)
    """
    large = g.abs() >= exp(-p)
    size = torch.where(large, g.abs(), 1.0).log() / p  # no logarithm of zero, whose gradient would spoil `where`
    return torch.stack([torch.where(large, size, -1.0), torch.where(large, g.sign(), exp(p) * g)])


class LSTMState(NamedTuple):
    """The state of the LSTM rule, a column for each coordinate."""

    h: Float[Tensor, "hidden n"]
    c: Float[Tensor, "hidden n"]


class LSTMRule(nn.Module):
    """An update rule by an LSTM that reads the gradients of each coordinate (Andrychowicz et al. 2016).

        h, c <- LSTM([log|g| / p, sign g], h, c),   (d, e) = W h + b,   update = lr * (d - exp(e) * g)

    The paper's update is d alone. Here the gradient is added, scaled by a gate, so that the rule starts as gradient
    descent. The gate and the learned initial state are those of Ravi and Larochelle 2017.

    Args:
        lr: initial learning rate; it is learned.
        hidden: length of each coordinate's hidden state.
    """

    State = LSTMState

    def __init__(self, *, lr: float = 0.1, hidden: int = 4) -> None:
        super().__init__()
        self.hidden = hidden
        self.log_rate = nn.Parameter(torch.tensor(log(lr)))
        self.input, self.recurrent = nn.Linear(2, 4 * hidden), nn.Linear(hidden, 4 * hidden, bias=False)
        self.head = small(nn.Linear(hidden, 2))
        self.h, self.c = (nn.Parameter(0.1 * torch.randn(hidden)) for _ in range(2))

    @property
    def made(self) -> dict[str, Any]:
        """The constructor arguments that `save_rule` stores."""
        return {"hidden": self.hidden}

    def init(self, params: Params) -> LSTMState:
        zero = torch.cat([torch.zeros_like(p).detach().reshape(-1) for p in params.values()])
        return LSTMState(self.h[:, None] + zero, self.c[:, None] + zero)

    def update(self, grads: Params, state: LSTMState, params: Params) -> tuple[Params, LSTMState]:
        g = torch.cat([t.reshape(-1) for t in grads.values()])
        after = self.cell(log_and_sign(g), state)
        direction, gate = (self.head.weight @ after.h + self.head.bias[:, None]).unbind(0)
        return split_like(grads, self.log_rate.exp() * (direction - gate.exp() * g)), after

    def cell(self, x: Float[Tensor, "2 n"], state: LSTMState) -> LSTMState:
        """Computes a step of an LSTM (Hochreiter and Schmidhuber 1997), its gates in the order of nn.LSTMCell.

        With coordinates as columns a gate is one block of memory, which is several times as fast.
        """
        gates = self.input.weight @ x + self.recurrent.weight @ state.h + self.input.bias[:, None]
        i, f, g, o = gates.chunk(4, 0)
        c = torch.sigmoid(f) * state.c + torch.sigmoid(i) * torch.tanh(g)
        return LSTMState(torch.sigmoid(o) * torch.tanh(c), c)


class MLPState(NamedTuple):
    """The state of the MLP rule, a column for each coordinate: the step, mean gradients at each timescale, mean
    squares, and two constants (the size of the tensor's initial weights, whether it is a vector).
    """

    step: Float[Tensor, ""]
    mean: Float[Tensor, "timescale n"]
    square: Float[Tensor, " n"]
    fixed: Float[Tensor, "2 n"]


BETA, SQUARE_BETA, EPS = 0.9, 0.999, 1e-8  # Adam's
BETAS = (0.5, BETA, 0.99)  # timescales of 2, 10 and 100 steps


def adam(mean: Tensor, scale: Tensor, step: Tensor) -> Tensor:
    """Returns minus Adam's step with learning rate 1 (Kingma and Ba 2015)."""
    return mean / (1 - BETA**step) / scale


def momentum(mean: Tensor, scale: Tensor, step: Tensor) -> Tensor:
    """Returns minus the step of heavy-ball momentum 0.9 with learning rate 1 (Polyak 1964)."""
    return mean / (1 - BETA)


BASES: dict[str, Callable[..., Tensor]] = {"adam": adam, "momentum": momentum}


class MLPRule(nn.Module):
    """An update rule by a small MLP on Adam's statistics at several timescales (Metz et al. 2019, 2020, 2022).

        (d, e) = MLP(features),   update = -lr * exp(e) * (base + d)

    Features of a coordinate: its mean gradients over 2, 10 and 100 steps and the last gradient, each divided by the
    root mean square; that root relative to the tensor's. Features of its tensor: the consistency of gradients, the size
    of its initial weights, whether it is a vector. Features of time: the share of `horizon` that is over,
    exp(-step / 20).
    They do not change when the loss is multiplied by a number (except for Adam's epsilon).

    Args:
        lr: initial learning rate; it is learned.
        horizon: total number of steps, which the rule's schedule spans.
        base: the step that the rule starts as, "adam" or "momentum".
    """

    State = MLPState
    FEATURES = len(BETAS) + 7

    def __init__(self, *, lr: float = 1e-3, horizon: int = 500, hidden: int = 16, base: str = "adam") -> None:
        super().__init__()
        if base not in BASES:
            raise UpstairsError(f"base is '{base}': it takes one of {', '.join(BASES)}")
        self.horizon, self.base, self.hidden = horizon, base, hidden
        self.log_rate = nn.Parameter(torch.tensor(log(lr)))
        self.layer, self.head = nn.Linear(self.FEATURES, hidden), small(nn.Linear(hidden, 2))
        self.register_buffer("betas", torch.tensor(BETAS)[:, None], persistent=False)

    @property
    def made(self) -> dict[str, Any]:
        """The constructor arguments that `save_rule` stores."""
        return {"hidden": self.hidden, "horizon": self.horizon, "base": self.base}

    def init(self, params: Params) -> MLPState:
        flat = torch.cat([p.detach().reshape(-1) for p in params.values()])
        sizes = [p.detach().square().mean().clamp(min=1e-6).log() / 4 for p in params.values()]
        vectors = [flat.new_tensor(p.ndim < 2) for p in params.values()]
        fixed = torch.stack([per_tensor(sizes, params), per_tensor(vectors, params)])
        zero = torch.zeros_like(flat)
        return MLPState(zero.sum(), torch.stack([zero] * len(BETAS)), zero, fixed)

    def update(self, grads: Params, state: MLPState, params: Params) -> tuple[Params, MLPState]:
        step, lengths = state.step + 1, [g.numel() for g in grads.values()]
        g = torch.cat([t.reshape(-1) for t in grads.values()])
        mean = self.betas * state.mean + (1 - self.betas) * g
        square = SQUARE_BETA * state.square + (1 - SQUARE_BETA) * g.square()
        scale = (square / (1 - SQUARE_BETA**step) + TINY).sqrt() + EPS
        steps = mean / (1 - self.betas**step) / scale
        spread = per_tensor([s.mean() for s in square.split(lengths)], grads)
        steady = per_tensor([s.square().mean() for s in steps[BETAS.index(BETA)].split(lengths)], grads)
        features = [
            g / scale,
            (((square + TINY) / (spread + TINY)).log() / 4).clamp(-2, 2),
            (steady + 1e-6).log() / 4,
            (step / self.horizon).clamp(max=1.0).expand_as(g),
            (-step / 20).exp().expand_as(g),
        ]
        seen = torch.cat([steps, torch.stack(features), state.fixed])
        hidden = F.relu(self.layer.weight @ seen + self.layer.bias[:, None])
        direction, size = (self.head.weight @ hidden + self.head.bias[:, None]).unbind(0)
        base = BASES[self.base](mean[BETAS.index(BETA)], scale, step)
        updates = split_like(grads, -(self.log_rate + size).exp() * (base + direction))
        return updates, MLPState(step, mean, square, state.fixed)


def split_like(grads: Params, flat: Float[Tensor, " n"]) -> Params:
    """Splits one row of all coordinates into the tensors that they belong to."""
    parts = flat.split([g.numel() for g in grads.values()])
    return {n: part.reshape(g.shape) for (n, g), part in zip(grads.items(), parts, strict=True)}


def per_tensor(values: list[Tensor], params: Params) -> Float[Tensor, " n"]:
    """Repeats one value per tensor for all its coordinates."""
    return torch.cat([v.expand(t.numel()) for v, t in zip(values, params.values(), strict=True)])


def learned_optimizer(
    net: nn.Module, *, way: int | None = None, inner_lr: float = 0.1, **options: Unpack[Options]
) -> GradientLearner:
    """A learner whose inner loop is an LSTM rule, meta-learned with the initial weights (Ravi and Larochelle 2017).

    As published, the meta-gradient treats inner gradients as constants, but passes through the rule in all steps.
    """
    return GradientLearner(net, LSTMRule(lr=inner_lr), way=way, differentiate=FirstOrder(), **options)


def small(layer: nn.Linear) -> nn.Linear:
    """Initialises a layer near zero and returns it."""
    nn.init.normal_(layer.weight, std=SMALL), nn.init.zeros_(layer.bias)
    return layer
