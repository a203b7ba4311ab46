"""Inner rules: torch.optim's steps as pure functions, differentiable in every number of theirs.

A number (a rate, a decay) is a float, a tensor, or a tensor for each parameter by its name: what is learned for each
layer. All are equal to torch.optim's to rounding. `Updates` makes one of the library's other update rules
(`upstairs.functional.rules`: a rate for each weight, a learned curvature; and learned optimisers).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from upstairs.functional.differentiate import Params, UpdateRule, add

Number = float | Tensor | Mapping[str, Tensor]


@runtime_checkable
class InnerRule(Protocol):
    """An optimiser of the inner loop, as two pure functions."""

    def init(self, params: Params) -> Any:
        """What it remembers before the first step: a pytree of tensors."""
        ...

    def step(self, params: Params, grads: Params, state: Any) -> tuple[Params, Any]:
        """The parameters after a step, and what it remembers then."""
        ...


@dataclass(frozen=True, eq=False)
class Updates:
    """An `UpdateRule` of `upstairs.learners`, which sees the gradient alone."""

    rule: UpdateRule

    def init(self, params: Params) -> Any:
        return self.rule.init(params)

    def step(self, params: Params, grads: Params, state: Any) -> tuple[Params, Any]:
        updates, state = self.rule.update(grads, state)
        return add(params, updates), state


@dataclass(frozen=True, eq=False)
class SGD:
    """Gradient descent, with momentum where it is not 0 (Polyak 1964; Nesterov's: Sutskever et al. 2013).

        b <- momentum b + g + decay theta,   theta <- theta - lr b      (Nesterov: - lr (g + momentum b))

    Args:
        decay: L2 penalty / 2, added to the gradient.
    """

    lr: Number
    momentum: Number = 0.0
    decay: Number = 0.0
    nesterov: bool = False

    def init(self, params: Params) -> Params:
        return {} if _is_zero(self.momentum) else _zeros(params)

    def step(self, params: Params, grads: Params, state: Params) -> tuple[Params, Params]:
        after: Params = {}
        buffers: Params = {}
        for name, p in params.items():
            g = _decayed(grads[name], p, self.decay, name)
            if state:
                momentum = _of(self.momentum, name)
                buffers[name] = momentum * state[name] + g
                g = g + momentum * buffers[name] if self.nesterov else buffers[name]
            after[name] = p - _of(self.lr, name) * g
        return after, buffers


class Moments(NamedTuple):
    """The steps there were, and running means of gradients and of their squares."""

    count: Float[Tensor, ""]
    mean: Params
    square: Params


@dataclass(frozen=True, eq=False)
class Adam:
    """Adam (Kingma and Ba 2015): theta <- theta - lr m / (sqrt(v) + eps), m and v without bias.

    Args:
        decay: L2 penalty / 2, added to the gradient.
    """

    lr: Number = 1e-3
    betas: tuple[Number, Number] = (0.9, 0.999)
    eps: float = 1e-8
    decay: Number = 0.0

    def init(self, params: Params) -> Moments:
        return _no_moments(params)

    def step(self, params: Params, grads: Params, state: Moments) -> tuple[Params, Moments]:
        grads = {n: _decayed(g, params[n], self.decay, n) for n, g in grads.items()}
        return _adam(params, grads, state, lr=self.lr, betas=self.betas, eps=self.eps)


@dataclass(frozen=True, eq=False)
class AdamW:
    """Adam with decoupled decay (Loshchilov and Hutter 2019): theta <- (1 - lr decay) theta, then Adam's step."""

    lr: Number = 1e-3
    betas: tuple[Number, Number] = (0.9, 0.999)
    eps: float = 1e-8
    decay: Number = 1e-2

    def init(self, params: Params) -> Moments:
        return _no_moments(params)

    def step(self, params: Params, grads: Params, state: Moments) -> tuple[Params, Moments]:
        params = {n: p * (1 - _of(self.lr, n) * _of(self.decay, n)) for n, p in params.items()}
        return _adam(params, grads, state, lr=self.lr, betas=self.betas, eps=self.eps)


class Squares(NamedTuple):
    """Running means of squared gradients, and momentum (empty where there is none)."""

    square: Params
    buffer: Params


@dataclass(frozen=True, eq=False)
class RMSprop:
    """RMSprop (Tieleman and Hinton 2012): v <- alpha v + (1 - alpha) g^2,  theta <- theta - lr g / (sqrt(v) + eps).

    Args:
        momentum: of the scaled gradients.
        decay: L2 penalty / 2, added to the gradient.
    """

    lr: Number = 1e-2
    alpha: Number = 0.99
    eps: float = 1e-8
    momentum: Number = 0.0
    decay: Number = 0.0

    def init(self, params: Params) -> Squares:
        return Squares(_zeros(params), {} if _is_zero(self.momentum) else _zeros(params))

    def step(self, params: Params, grads: Params, state: Squares) -> tuple[Params, Squares]:
        after: Params = {}
        squares, buffers = dict(state.square), dict(state.buffer)
        for name, p in params.items():
            g, alpha = _decayed(grads[name], p, self.decay, name), _of(self.alpha, name)
            squares[name] = alpha * squares[name] + (1 - alpha) * g * g
            g = g / (_root(squares[name]) + self.eps)
            if buffers:
                g = buffers[name] = _of(self.momentum, name) * buffers[name] + g
            after[name] = p - _of(self.lr, name) * g
        return after, Squares(squares, buffers)


RULES: dict[str, type] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}


def _adam(
    params: Params, grads: Params, state: Moments, *, lr: Number, betas: tuple[Number, Number], eps: float
) -> tuple[Params, Moments]:
    count = state.count + 1
    after: Params = {}
    mean: Params = {}
    square: Params = {}
    for name, p in params.items():
        g, first, second = grads[name], _of(betas[0], name), _of(betas[1], name)
        mean[name] = first * state.mean[name] + (1 - first) * g
        square[name] = second * state.square[name] + (1 - second) * g * g
        unbiased, scale = (1 - first**count).to(p.dtype), (1 - second**count).to(p.dtype).sqrt()
        after[name] = p - _of(lr, name) / unbiased * mean[name] / (_root(square[name]) / scale + eps)
    return after, Moments(count, mean, square)


def _no_moments(params: Params) -> Moments:
    like = next(iter(params.values()))
    # in float32 1 - 0.999 has an error of 6e-5
    return Moments(torch.zeros((), dtype=torch.float64, device=like.device), _zeros(params), _zeros(params))


def _root(square: Tensor) -> Tensor:
    """The square root, whose derivative at 0 is 0: a gradient that has always been 0 (a dead unit) passes nothing."""
    seen = square > 0
    return torch.where(seen, torch.where(seen, square, 1.0).sqrt(), 0.0)


def _of(number: Number, name: str) -> Any:
    """The number of one parameter."""
    return number[name] if isinstance(number, Mapping) else number


def _decayed(g: Tensor, p: Tensor, decay: Number, name: str) -> Tensor:
    return g if _is_zero(decay) else g + _of(decay, name) * p


def _is_zero(number: Number) -> bool:
    """Is it a plain 0, and so nothing that is learned?"""
    return isinstance(number, int | float) and number == 0


def _zeros(params: Params) -> Params:
    return {n: torch.zeros_like(p) for n, p in params.items()}
