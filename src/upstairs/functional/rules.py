"""Update rules: the inner optimiser, as two pure functions. A rule with meta-parameters is an nn.Module."""

from math import prod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.functional.differentiate import SGD, Params, Scaled, UpdateRule, inner_step


class Squares(NamedTuple):
    """Running means of squared gradients, and how many there were."""

    mean: Params
    count: Tensor


class Squared:
    """Adam without momentum (Kingma and Ba 2015, beta_1 = 0), as critics are trained: -lr * g / (sqrt(v) + 1e-8).

    v is the running mean of g^2, v <- decay * v + (1 - decay) * g^2, divided by 1 - decay^t.
    """

    def __init__(self, lr: float, *, decay: float = 0.9) -> None:
        self.lr, self.decay = lr, decay

    def init(self, params: Params) -> Squares:
        return Squares({name: torch.zeros_like(p) for name, p in params.items()}, torch.zeros(()))

    def update(self, grads: Params, state: Squares) -> tuple[Params, Squares]:
        mean = {name: self.decay * state.mean[name] + (1 - self.decay) * g.square() for name, g in grads.items()}
        count = state.count + 1
        share = 1 - self.decay**count
        return {n: -self.lr * g / ((mean[n] / share).sqrt() + 1e-8) for n, g in grads.items()}, Squares(mean, count)


class LearnedRates(nn.Module):
    """A learned rate for each weight (Meta-SGD, Li et al. 2017): theta <- theta - alpha * gradient, by elements.

    Args:
        params: the parameters that adapt.
        lr: where every rate starts. A rate may change its sign: it then climbs.
    """

    def __init__(self, params: Params, lr: float) -> None:
        super().__init__()
        self.names = list(params)
        self.rates = nn.ParameterList(torch.full_like(p, lr, requires_grad=False) for p in params.values())

    def init(self, params: Params) -> tuple[()]:
        return ()

    def update(self, grads: Params, state: tuple[()]) -> tuple[Params, tuple[()]]:
        return {n: -rate * grads[n] for n, rate in zip(self.names, self.rates, strict=True)}, state


class StepRates(nn.Module):
    """A learned rate for each tensor of weights and each step (LSLR in MAML++, Antoniou, Edwards and Storkey 2019).

    Steps beyond `steps` take the last one's rates.
    """

    def __init__(self, params: Params, lr: float, *, steps: int) -> None:
        super().__init__()
        self.names = list(params)
        like = next(iter(params.values()))
        self.rates = nn.Parameter(torch.full((len(params), max(1, steps)), lr, dtype=like.dtype, device=like.device))

    def init(self, params: Params) -> tuple[()]:
        return ()

    def update(self, grads: Params, state: tuple[()]) -> tuple[Params, tuple[()]]:
        rates = self.rates[:, min(inner_step(), self.rates.shape[1] - 1)]
        return {n: -rate * grads[n] for n, rate in zip(self.names, rates, strict=True)}, state


class MetaCurvature(nn.Module):
    """A learned preconditioner of the gradient, one matrix for each of its axes (Park and Oliva 2019).

        theta <- theta - lr * (G x_1 M_out x_2 M_in x_3 M_kernel)

    G is a convolution's gradient [out, in, kernel], a linear layer's [out, in] or a vector; x_k multiplies its k-th
    axis by a square matrix, which starts as the identity. Together they are a Kronecker product that is never formed.
    """

    def __init__(self, params: Params, lr: float) -> None:
        super().__init__()
        self.names, self.lr = list(params), lr
        self.factors = nn.ParameterList(
            torch.eye(n, dtype=p.dtype, device=p.device) for p in params.values() for n in self.axes(p)
        )

    @staticmethod
    def axes(p: Tensor) -> tuple[int, ...]:
        """The axes of a gradient; those of a kernel count as one."""
        return (*p.shape[:2], prod(p.shape[2:])) if p.ndim > 2 else tuple(p.shape) or (1,)

    def init(self, params: Params) -> tuple[()]:
        return ()

    def update(self, grads: Params, state: tuple[()]) -> tuple[Scaled, tuple[()]]:
        updates, factors = {}, iter(self.factors)
        for name in self.names:
            g = grads[name]
            shape = self.axes(g)
            curved = g.reshape(shape)
            for axis in range(len(shape)):
                curved = along(curved, next(factors), axis)
            updates[name] = curved.reshape(g.shape)
        return Scaled(updates, -self.lr), state


def along(tensor: Tensor, matrix: Float[Tensor, "n n"], axis: int) -> Tensor:
    """The mode product: `matrix` times every column of `tensor` that runs along `axis`."""
    shape = tensor.shape
    before, n, after = prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])
    if after == 1:  # one product, where the general way would have one for each row
        return (tensor.reshape(before, n) @ matrix.T).reshape(shape)
    return (matrix @ tensor.reshape(before, n, after)).reshape(shape)


__all__ = ["SGD", "LearnedRates", "MetaCurvature", "Params", "StepRates", "UpdateRule"]
