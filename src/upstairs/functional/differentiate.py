"""Derivatives of an inner loop, and the inner gradients, for one task or for all tasks of a batch.

phi_0 = theta,   phi_{k+1} = phi_k + update(grad L(phi_k)),   d phi_K / d theta by one of

Exact        through every step (second order; Finn 2017)
FirstOrder   inner gradients as constants: d phi_K / d theta = I (Finn 2017, section 5.2)
Implicit     at the minimum of L(phi) + strength / 2 |phi - theta|^2, by conjugate gradients (Rajeswaran 2019)
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from upstairs.errors import UpstairsError
from upstairs.functional.batching.tensor import BatchedTensor, front, wrap
from upstairs.functional.call import Params
from upstairs.tree import detach, map_tensors

Loss = Callable[..., Tensor]  # (params, *args) -> scalar


@dataclass(frozen=True)
class Exact:
    """Differentiation through every inner step."""


@dataclass(frozen=True)
class FirstOrder:
    """Differentiation with inner gradients as constants."""


@dataclass(frozen=True)
class Implicit:
    """Implicit MAML (Rajeswaran et al. 2019): `strength` / 2 |phi - theta|^2 is added to the inner loss.

    The meta-gradient is strength (H + strength I)^-1 grad L_query, by `iterations` of conjugate gradients, with the
    memory of one step.
    """

    strength: float = 1.0
    iterations: int = 5


Differentiation = Exact | FirstOrder | Implicit
EXACT = Exact()


class Execution(threading.local):
    """The engine's settings for inner loops of this thread."""

    recompute: bool = False
    differentiate: Differentiation | None = None
    step: int = 0


NOW = Execution()


# Context managers of a step are classes with names like functions: generators take three times as long, which counts
# in a small network.
class executing:
    """A context that sets whether inner loops are recomputed, and how they are differentiated."""

    def __init__(self, *, recompute: bool = False, differentiate: Differentiation | None = None) -> None:
        self.inside = recompute, differentiate

    def __enter__(self) -> None:
        self.before = NOW.recompute, NOW.differentiate
        NOW.recompute, NOW.differentiate = self.inside

    def __exit__(self, *_: object) -> None:
        NOW.recompute, NOW.differentiate = self.before


def inner_step() -> int:
    """Returns the number of the running inner step, from 0; the number of steps while queries are predicted."""
    return NOW.step


class at_step:
    """A context in which `inner_step()` returns this number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> None:
        self.before, NOW.step = NOW.step, self.number

    def __exit__(self, *_: object) -> None:
        NOW.step = self.before


def gradient(loss: Loss, params: Params, *args: Any, create_graph: bool) -> Params:
    """Computes the gradient of `loss(params, *args)` in `params`, for each task where they are batched.

    The gradient of an unused parameter is zero.
    """
    return gradient_and_value(loss, params, *args, create_graph=create_graph)[0]


def gradient_and_value(loss: Loss, params: Params, *args: Any, create_graph: bool) -> tuple[Params, Tensor]:
    """Returns `gradient` and the loss; both are constants without `create_graph`."""
    if inside_transform():
        found = torch.func.grad_and_value(loss)(params, *args)
        return found if create_graph else detach(found)
    raws, value = _raw_gradients(loss, params, args, create_graph=create_graph)
    pairs = zip(params.items(), raws, strict=True)
    grads = {n: wrap(g) if isinstance(p, BatchedTensor) else g for (n, p), g in pairs}
    return grads, value if create_graph else value.detach()


def descend(loss: Loss, params: Params, *args: Any, lr: float, create_graph: bool) -> Params:
    """Computes params - lr * gradient in fewer operations than `gradient` and `add`.

    The loss is scaled by -lr instead of each gradient, so that the derivative has no product for each parameter.
    """
    if inside_transform():
        grads = gradient(loss, params, *args, create_graph=create_graph)
        return {n: torch.add(p, grads[n], alpha=-lr) for n, p in params.items()}
    raws, _ = _raw_gradients(loss, params, args, create_graph=create_graph, factor=-lr)
    return {n: _add(p, raw) for (n, p), raw in zip(params.items(), raws, strict=True)}


def _raw_gradients(
    loss: Loss, params: Params, args: tuple[Any, ...], *, create_graph: bool, factor: float = 1.0
) -> tuple[list[Tensor], Tensor]:
    """Returns `factor` times the gradient of the loss summed over tasks, in raw tensors, and the loss."""
    with torch.enable_grad():
        # without create_graph always copies: a view made under no_grad has requires_grad but no gradient
        leaves = {n: p if create_graph and p.requires_grad else _leaf(p) for n, p in params.items()}
        raws = [raw_of(p) for p in leaves.values()]
        value = loss(leaves, *args)
        if not isinstance(value, Tensor) or value.ndim:
            raise UpstairsError(f"an inner loss must be one number for a task, and this one is {value!r}")
        if not value.requires_grad:
            return [torch.zeros_like(r) for r in raws], value
        each = raw_of(value)
        exact = each.dtype.itemsize >= 4  # half precision would round the factor
        scale = torch.full_like(each, factor if exact else 1.0)
        grads = torch.autograd.grad(each, raws, scale, create_graph=create_graph, allow_unused=True)
        found = [torch.zeros_like(r) if g is None else g for g, r in zip(grads, raws, strict=True)]
        return found if exact else [g * factor for g in found], value


def _leaf(p: Tensor) -> Tensor:
    """Returns the values as a leaf that requires a gradient."""
    if type(p) is nn.Parameter and p.requires_grad:
        return p
    return wrap(p.raw.detach().requires_grad_()) if isinstance(p, BatchedTensor) else p.detach().requires_grad_()


def vjp(outputs: list[Tensor], inputs: list[list[Tensor]], v: list[Tensor]) -> list[list[Tensor]]:
    """Computes vector-Jacobian products for lists of inputs; zeros for unused inputs. Graphs are kept."""
    flat = [t for group in inputs for t in group]
    live = [(o, w) for o, w in zip(outputs, v, strict=True) if o.requires_grad]
    if live and flat:
        found = torch.autograd.grad(
            [o for o, _ in live], flat, [w for _, w in live], retain_graph=True, allow_unused=True,
            materialize_grads=True,
        )  # fmt: skip
    else:
        found = [torch.zeros_like(t) for t in flat]
    rest = iter(found)
    return [[next(rest) for _ in group] for group in inputs]


def inside_transform() -> bool:
    """Returns whether a transform of torch.func, such as vmap or grad, is active."""
    return torch._C._are_functorch_transforms_active()


def per_task(params: Params, args: Any) -> Params:
    """Returns the parameters repeated for every task if `args` are batched."""
    found: list[Tensor] = []
    map_tensors(found.append, args)
    count = next((leaf.count for leaf in found if isinstance(leaf, BatchedTensor)), None)
    if count is None:
        return dict(params)
    return {n: p if isinstance(p, BatchedTensor) else wrap(p.expand(count, *p.shape)) for n, p in params.items()}


def add(params: Params, updates: Params) -> Params:
    """Computes params + updates.

    It avoids `torch._foreach_add`, whose graph keeps both operands: a first-order loop would grow by two copies of the
    parameters in each step.
    """
    return {n: _add(p, updates[n]) for n, p in params.items()}


def _add(p: Tensor, update: Tensor) -> Tensor:
    if isinstance(p, BatchedTensor) or isinstance(update, BatchedTensor):
        return wrap(torch.add(raw_of(p), raw_of(update)))
    return torch.add(p, update)


def raw_of(tensor: Tensor) -> Tensor:
    """Returns the raw tensor of all tasks, or the tensor itself if it is not batched."""
    return front(tensor) if isinstance(tensor, BatchedTensor) else tensor
