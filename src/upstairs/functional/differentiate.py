"""The inner loop: what it minimises, by which rule, and how it is differentiated.

    phi_0 = theta,   phi_{k+1} = phi_k + update(grad L(phi_k)),   d phi_K / d theta by one of

    Exact        through every step (second order; Finn 2017)
    FirstOrder   inner gradients as constants: d phi_K / d theta = I (Finn 2017, section 5.2)
    Implicit     at the minimum of L(phi) + strength / 2 |phi - theta|^2, by conjugate gradients (Rajeswaran 2019)

The pieces are here, the loop itself is `inner_loop`: written for one task, it runs for all where tensors are batched.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from upstairs.errors import UpstairsError
from upstairs.functional.batching.tensor import BatchedTensor, front, wrap
from upstairs.tree import map_tensors

Params = dict[str, Tensor]
Loss = Callable[..., Tensor]  # (params, *args) -> scalar


@runtime_checkable
class UpdateRule(Protocol):
    """An inner optimiser, as two pure functions: `params + updates` is the next iterate."""

    def init(self, params: Params) -> Any:
        """The rule's own state before the first step: a pytree of tensors."""
        ...

    def update(self, grads: Params, state: Any) -> tuple["Params | Scaled", Any]:
        """Updates to add to the parameters, and the rule's next state."""
        ...


class Scaled(NamedTuple):
    """Updates that are `factor` times some tensors: scaled and added at once."""

    tensors: Params
    factor: float


class SGD:
    """Plain gradient descent: theta <- theta - lr * gradient."""

    def __init__(self, lr: float) -> None:
        self.lr = lr

    def init(self, params: Params) -> tuple[()]:
        return ()

    def update(self, grads: Params, state: tuple[()]) -> tuple[Scaled, tuple[()]]:
        return Scaled(grads, -self.lr), state


@dataclass(frozen=True)
class Exact:
    """Through every inner step."""


@dataclass(frozen=True)
class FirstOrder:
    """Inner gradients as constants."""


@dataclass(frozen=True)
class Implicit:
    """Implicit MAML (Rajeswaran et al. 2019): the inner loss gets `strength` / 2 |phi - theta|^2, and the meta-gradient
    is strength (H + strength I)^-1 grad L_query, by `iterations` of conjugate gradients; its memory is that of a step.
    """

    strength: float = 1.0
    iterations: int = 5


Differentiation = Exact | FirstOrder | Implicit
EXACT = Exact()


@dataclass
class Execution:
    """What the engine decides about inner loops while it runs them."""

    recompute: bool = False
    differentiate: Differentiation | None = None
    step: int = 0


NOW = Execution()


# Context managers of a step are classes, named as the functions that they are used like: a generator takes three times
# as long, which counts in a network of one task.
class executing:
    """Inner loops inside keep only each step's parameters, or are differentiated in another way than they ask for."""

    def __init__(self, *, recompute: bool = False, differentiate: Differentiation | None = None) -> None:
        self.inside = recompute, differentiate

    def __enter__(self) -> None:
        self.before = NOW.recompute, NOW.differentiate
        NOW.recompute, NOW.differentiate = self.inside

    def __exit__(self, *_: object) -> None:
        NOW.recompute, NOW.differentiate = self.before


def inner_step() -> int:
    """Which inner step is running, from 0; the number of steps where the queries are predicted."""
    return NOW.step


class at_step:
    """Inside, `inner_step()` is this."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> None:
        self.before, NOW.step = NOW.step, self.number

    def __exit__(self, *_: object) -> None:
        NOW.step = self.before


def gradient(loss: Loss, params: Params, *args: Any, create_graph: bool) -> Params:
    """The gradient of `loss(params, *args)` in `params`, that of each task where they are stacked.

    A parameter that the loss does not use has gradient zero.
    """
    if transformed():
        grads = torch.func.grad(loss)(params, *args)
        return grads if create_graph else tree_map(torch.detach, grads)
    with torch.enable_grad():
        # without create_graph always copies: a view made under no_grad says that it requires a gradient, and has none
        leaves = {n: p if create_graph and p.requires_grad else _leaf(p) for n, p in params.items()}
        grads = _raw_gradients(loss, leaves, args, create_graph=create_graph)
    return {n: wrap(g) if isinstance(p, BatchedTensor) else g for (n, p), g in zip(params.items(), grads, strict=True)}


def descend(loss: Loss, params: Params, *args: Any, lr: float, create_graph: bool) -> Params:
    """params - lr * gradient, as `gradient` and `add` give it, with less around it.

    The loss is scaled by -rate before its gradient is taken, and not the gradient: its derivative then has no product
    for each parameter.
    """
    if transformed():
        return add(params, Scaled(gradient(loss, params, *args, create_graph=create_graph), -lr))
    with torch.enable_grad():
        leaves = {n: p if create_graph and p.requires_grad else _leaf(p) for n, p in params.items()}
        steps = _raw_gradients(loss, leaves, args, create_graph=create_graph, factor=-lr)
    return {
        n: wrap(torch.add(raw_of(p), s)) if isinstance(p, BatchedTensor) else torch.add(p, s)
        for (n, p), s in zip(params.items(), steps, strict=True)
    }


def _raw_gradients(
    loss: Loss, leaves: Params, args: tuple[Any, ...], *, create_graph: bool, factor: float = 1.0
) -> list[Tensor]:
    """`factor` times the gradient of the sum over tasks, in the tensors of all tasks."""
    raws = [raw_of(p) for p in leaves.values()]
    value = loss(leaves, *args)
    if not isinstance(value, Tensor) or value.ndim:
        raise UpstairsError(f"an inner loss must be one number for a task, and this one is {value!r}")
    if not value.requires_grad:
        return [torch.zeros_like(r) for r in raws]
    each = raw_of(value)
    exact = each.dtype.itemsize >= 4  # half precision would round the factor
    scale = torch.full_like(each, factor if exact else 1.0)
    grads = torch.autograd.grad(each, raws, scale, create_graph=create_graph, allow_unused=True)
    found = [torch.zeros_like(r) if g is None else g for g, r in zip(grads, raws, strict=True)]
    return found if exact else [g * factor for g in found]


def _leaf(p: Tensor) -> Tensor:
    """The same values, of which a gradient can be taken."""
    if type(p) is nn.Parameter and p.requires_grad:
        return p
    return wrap(p.raw.detach().requires_grad_()) if isinstance(p, BatchedTensor) else p.detach().requires_grad_()


def transformed() -> bool:
    """Inside torch.func's vmap or grad?"""
    return torch._C._are_functorch_transforms_active()


def per_task(params: Params, args: Any) -> Params:
    """The same start for every task, where `args` are those of all tasks."""
    found: list[Tensor] = []
    map_tensors(found.append, args)
    count = next((leaf.count for leaf in found if isinstance(leaf, BatchedTensor)), None)
    if count is None:
        return dict(params)
    return {n: p if isinstance(p, BatchedTensor) else wrap(p.expand(count, *p.shape)) for n, p in params.items()}


def detached(params: Params) -> Params:
    return {n: p.detach() for n, p in params.items()}


def add(params: Params, updates: Params | Scaled) -> Params:
    """params + updates.

    Not by `torch._foreach_add`, whose graph keeps both of its operands: a first-order loop would grow by two copies of
    the parameters a step, and not at all with `torch.add`.
    """
    tensors, factor = updates if isinstance(updates, Scaled) else (updates, 1)
    after: Params = {}
    for name, p in params.items():
        update = tensors[name]
        if isinstance(p, BatchedTensor) or isinstance(update, BatchedTensor):
            after[name] = wrap(torch.add(raw_of(p), raw_of(update), alpha=factor))
        else:
            after[name] = torch.add(p, update, alpha=factor)
    return after


def raw_of(tensor: Tensor) -> Tensor:
    """The tensor of all tasks, or the tensor itself."""
    return front(tensor) if isinstance(tensor, BatchedTensor) else tensor
