"""Update rules: inner optimisers as two pure functions. A rule with meta-parameters is an nn.Module.

    updates, state = rule.update(grads, state, params);   params + updates is the next iterate

`SGD`, `Adam`, `AdamW` and `RMSprop` equal torch.optim's up to rounding. Each hyperparameter is a float, a tensor, or a
mapping from names of parameters or modules to them (a learning rate for each layer); updates are differentiable in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from inspect import signature
from math import prod
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.errors import UpstairsError, reason
from upstairs.functional.call import Params
from upstairs.functional.differentiate import inner_step
from upstairs.tree import widest

Number = float | Tensor | Mapping[str, float | Tensor]


@runtime_checkable
class UpdateRule(Protocol):
    """An inner optimiser with the protocol of Optax: two pure functions."""

    def init(self, params: Params) -> Any:
        """Returns the rule's state before the first step: a pytree of tensors."""
        ...

    def update(self, grads: Params, state: Any, params: Params) -> tuple[Params, Any]:
        """Returns updates, which are added to the parameters, and the rule's next state."""
        ...


def check_rule(rule: Any) -> None:
    """Raises UpstairsError for anything but an update rule."""
    if not isinstance(rule, UpdateRule):
        raise UpstairsError(
            f"`rule` is {rule!r}, which has no `init` and `update`: give an update rule, such as SGD(0.1)"
        )
    if problem := _misfit(type(rule)):
        raise UpstairsError(
            f"`update` of {type(rule).__name__} takes other arguments ({problem}): it is called as update(grads, "
            "state, params)"
        )


@cache
def _misfit(kind: Any) -> str:
    """Returns why `update` of a class does not take gradients, a state and parameters; '' if it does."""
    try:
        signature(kind.update).bind(None, {}, None, {})
    except TypeError as error:
        return reason(error)
    return ""


@dataclass(eq=False)
class SGD:
    """Gradient descent, with momentum (Polyak 1964) or Nesterov's (Sutskever et al. 2013) where `momentum` is not 0.

        b <- momentum b + g + decay theta,   theta <- theta - lr b      (Nesterov: - lr (g + momentum b))

    Args:
        decay: half of an L2 penalty: `decay` theta is added to the gradient.
    """

    lr: Number
    momentum: Number = 0.0
    decay: Number = 0.0
    nesterov: bool = False

    @property
    def plain_lr(self) -> float | None:
        """The learning rate of plain descent, which has a faster path; None with momentum or decay, or if learned."""
        lr = self.lr  # a local name, for type checkers
        return lr if isinstance(lr, (float, int)) and _is_zero(self.momentum) and _is_zero(self.decay) else None

    def init(self, params: Params) -> Params:
        return {} if _is_zero(self.momentum) else _zeros(params)

    def update(self, grads: Params, state: Params, params: Params) -> tuple[Params, Params]:
        updates: Params = {}
        buffers: Params = {}
        for name, g in grads.items():
            g = _decayed(g, params[name], self.decay, name)
            if state:
                momentum = _of(self.momentum, name)
                buffers[name] = momentum * state[name] + g
                g = g + momentum * buffers[name] if self.nesterov else buffers[name]
            updates[name] = -_of(self.lr, name) * g
        return updates, buffers


class AdamState(NamedTuple):
    """The number of steps so far, and running means of gradients and of their squares."""

    count: Float[Tensor, ""]
    mean: Params
    square: Params


@dataclass(eq=False)
class _Adam:
    """The common part of Adam and AdamW: bias-corrected running means m of gradients and v of their squares."""

    lr: Number = 1e-3
    betas: tuple[Number, Number] = (0.9, 0.999)
    eps: float = 1e-8

    def init(self, params: Params) -> AdamState:
        like = next(iter(params.values()))
        # float64, since 1 - 0.999 has an error of 6e-5 in float32
        return AdamState(torch.zeros((), dtype=widest(like), device=like.device), _zeros(params), _zeros(params))

    def step(self, grads: Params, state: AdamState) -> tuple[Params, AdamState]:
        """Returns - lr m / (sqrt(v) + eps) and the next state."""
        count = state.count + 1
        updates: Params = {}
        mean: Params = {}
        square: Params = {}
        for name, g in grads.items():
            first, second = (_of(beta, name) for beta in self.betas)
            mean[name] = first * state.mean[name] + (1 - first) * g
            square[name] = second * state.square[name] + (1 - second) * g * g
            unbiased, scale = (1 - first**count).to(g.dtype), (1 - second**count).to(g.dtype).sqrt()
            rate = -_of(self.lr, name) / unbiased
            updates[name] = rate * mean[name] / (_root(square[name]) / scale + self.eps)
        return updates, AdamState(count, mean, square)


@dataclass(eq=False)
class Adam(_Adam):
    """Adam (Kingma and Ba 2015): theta <- theta - lr m / (sqrt(v) + eps), with m and v bias-corrected.

    Args:
        decay: half of an L2 penalty: `decay` theta is added to the gradient.
    """

    decay: Number = 0.0

    def update(self, grads: Params, state: AdamState, params: Params) -> tuple[Params, AdamState]:
        return self.step({n: _decayed(g, params[n], self.decay, n) for n, g in grads.items()}, state)


@dataclass(eq=False)
class AdamW(_Adam):
    """Adam with decoupled decay (Loshchilov and Hutter 2019): theta <- (1 - lr decay) theta, then Adam's step."""

    decay: Number = 1e-2

    def update(self, grads: Params, state: AdamState, params: Params) -> tuple[Params, AdamState]:
        updates, state = self.step(grads, state)
        return {n: u - _of(self.lr, n) * _of(self.decay, n) * params[n] for n, u in updates.items()}, state


class RMSpropState(NamedTuple):
    """Running means of squared gradients, and momentum (empty where there is none)."""

    square: Params
    buffer: Params


@dataclass(eq=False)
class RMSprop:
    """RMSprop (Tieleman and Hinton 2012): v <- alpha v + (1 - alpha) g^2,  theta <- theta - lr g / (sqrt(v) + eps).

    Args:
        momentum: momentum of the scaled gradients.
        decay: half of an L2 penalty: `decay` theta is added to the gradient.
    """

    lr: Number = 1e-2
    alpha: Number = 0.99
    eps: float = 1e-8
    momentum: Number = 0.0
    decay: Number = 0.0

    def init(self, params: Params) -> RMSpropState:
        return RMSpropState(_zeros(params), {} if _is_zero(self.momentum) else _zeros(params))

    def update(self, grads: Params, state: RMSpropState, params: Params) -> tuple[Params, RMSpropState]:
        updates: Params = {}
        squares, buffers = dict(state.square), dict(state.buffer)
        for name, g in grads.items():
            g, alpha = _decayed(g, params[name], self.decay, name), _of(self.alpha, name)
            squares[name] = alpha * squares[name] + (1 - alpha) * g * g
            g = g / (_root(squares[name]) + self.eps)
            if buffers:
                g = buffers[name] = _of(self.momentum, name) * buffers[name] + g
            updates[name] = -_of(self.lr, name) * g
        return updates, RMSpropState(squares, buffers)


def _root(square: Tensor) -> Tensor:
    """Returns the square root, with derivative 0 at 0, for gradients that have always been 0 (a dead unit)."""
    seen = square > 0
    return torch.where(seen, torch.where(seen, square, 1.0).sqrt(), 0.0)


def _of(number: Number, name: str) -> Any:
    """Returns the hyperparameter for one parameter: in a mapping, that of the longest name it starts with.

    Raises:
        UpstairsError: the mapping has none.
    """
    if not isinstance(number, Mapping):
        return number
    fitting = [key for key in number if f"{name}.".startswith(f"{key}.")]
    if not fitting:
        raise UpstairsError(
            f"there is a number for {', '.join(number)} and none for the parameter '{name}': add it, or the name of a "
            "module around it"
        )
    return number[max(fitting, key=len)]


def _decayed(g: Tensor, p: Tensor, decay: Number, name: str) -> Tensor:
    return g if _is_zero(decay) else g + _of(decay, name) * p


def _is_zero(number: Number) -> bool:
    """Returns whether the number is a plain 0, which is not learned."""
    return isinstance(number, (float, int)) and number == 0


def _zeros(params: Params) -> Params:
    return {n: torch.zeros_like(p) for n, p in params.items()}


@dataclass(eq=False)
class Clipped:
    """A rule whose gradient is scaled down to the length `norm` where it is longer, for each task on its own.

    g <- g min(1, norm / |g|),   |g| over all parameters, as in torch.nn.utils.clip_grad_norm_

    GradientLearner(net, Clipped(SGD(0.4), norm=1.0), way=5)
    """

    rule: UpdateRule
    norm: float

    def __post_init__(self) -> None:
        check_rule(self.rule)
        if not self.norm > 0:
            raise UpstairsError(f"`norm` is {self.norm}: give a length above 0")

    def init(self, params: Params) -> Any:
        return self.rule.init(params)

    def update(self, grads: Params, state: Any, params: Params) -> tuple[Params, Any]:
        length = _root(torch.stack([g.square().sum() for g in grads.values()]).sum())
        factor = (self.norm / (length + 1e-6)).clamp(max=1.0)
        return self.rule.update({name: factor * g for name, g in grads.items()}, state, params)


class LearnedRates(nn.Module):
    """A learned learning rate alpha for each weight (Meta-SGD, Li et al. 2017): theta <- theta - alpha * gradient.

    Args:
        params: the parameters that adapt.
        lr: the initial learning rate. A learned one may become negative.
    """

    def __init__(self, params: Params, lr: float) -> None:
        super().__init__()
        self.names = list(params)
        self.rates = nn.ParameterList(torch.full_like(p, lr, requires_grad=False) for p in params.values())

    def init(self, params: Params) -> tuple[()]:
        return ()

    def update(self, grads: Params, state: tuple[()], params: Params) -> tuple[Params, tuple[()]]:
        return {n: -rate * grads[n] for n, rate in zip(self.names, self.rates, strict=True)}, state


class StepRates(nn.Module):
    """A learned learning rate for each tensor and step (LSLR in MAML++, Antoniou, Edwards and Storkey 2019).

    Steps beyond `steps` use the rates of the last one.
    """

    def __init__(self, params: Params, lr: float, *, steps: int) -> None:
        super().__init__()
        self.names = list(params)
        like = next(iter(params.values()))
        self.rates = nn.Parameter(torch.full((len(params), max(1, steps)), lr, dtype=like.dtype, device=like.device))

    def init(self, params: Params) -> tuple[()]:
        return ()

    def update(self, grads: Params, state: tuple[()], params: Params) -> tuple[Params, tuple[()]]:
        rates = self.rates[:, min(inner_step(), self.rates.shape[1] - 1)]
        return {n: -rate * grads[n] for n, rate in zip(self.names, rates, strict=True)}, state


class MetaCurvature(nn.Module):
    """A learned preconditioner of the gradient, with one matrix for each axis (Park and Oliva 2019).

        theta <- theta - lr * (G x_1 M_out x_2 M_in x_3 M_kernel)

    G is the gradient of a convolution [out, in, kernel], of a linear layer [out, in] or of a vector; x_k multiplies its
    k-th axis by a square matrix, initially the identity. The preconditioner is their Kronecker product, never formed.
    """

    def __init__(self, params: Params, lr: float) -> None:
        super().__init__()
        self.names, self.lr = list(params), lr
        self.factors = nn.ParameterList(
            torch.eye(n, dtype=p.dtype, device=p.device) for p in params.values() for n in self.axes(p)
        )

    @staticmethod
    def axes(p: Tensor) -> tuple[int, ...]:
        """Returns the sizes of a gradient's axes; those of a kernel count as one."""
        return (*p.shape[:2], prod(p.shape[2:])) if p.ndim > 2 else tuple(p.shape) or (1,)

    def init(self, params: Params) -> tuple[()]:
        return ()

    def update(self, grads: Params, state: tuple[()], params: Params) -> tuple[Params, tuple[()]]:
        updates, factors = {}, iter(self.factors)
        for name in self.names:
            g = grads[name]
            shape = self.axes(g)
            curved = g.reshape(shape)
            for axis in range(len(shape)):
                curved = along(curved, next(factors), axis)
            updates[name] = -self.lr * curved.reshape(g.shape)
        return updates, state


def along(tensor: Tensor, matrix: Float[Tensor, "n n"], axis: int) -> Tensor:
    """Computes the mode product: `matrix` times every column of `tensor` along `axis`."""
    shape = tensor.shape
    before, n, after = prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])
    if after == 1:  # one product instead of one for each row
        return (tensor.reshape(before, n) @ matrix.T).reshape(shape)
    return (matrix @ tensor.reshape(before, n, after)).reshape(shape)
