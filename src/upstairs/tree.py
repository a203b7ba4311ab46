"""Operations on pytrees of tensors and on trees of modules."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


def map_tensors(function: Callable[[Any], Any], tree: Any) -> Any:
    """Applies a function to every tensor, as `tree_map`, but faster for tuples and dicts."""
    kind: Any = type(tree)
    if isinstance(tree, Tensor):
        return function(tree)
    if kind is dict:
        return {name: map_tensors(function, value) for name, value in tree.items()}
    if kind is tuple or kind is list:
        return kind([map_tensors(function, value) for value in tree])
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return kind._make([map_tensors(function, value) for value in tree])
    return tree_map(function, tree)


def first_tensor(tree: Any) -> Tensor:
    """Returns the first tensor of a tree."""
    while not isinstance(tree, Tensor):
        tree = tree[0] if isinstance(tree, tuple | list) else tree_leaves(tree)[0]
    return tree


def index(tree: Any, index: int | slice | Tensor) -> Any:
    """Indexes every leaf's first axis: one task (int) or some tasks (slice, or their places) of a batch."""
    return map_tensors(lambda leaf: leaf[index], tree)


def to_device_of(module: nn.Module, tree: Any) -> Any:
    """Moves the tree's tensors to the device of the module's parameters, if it has any."""
    first = next(module.parameters(), None)
    if first is None:
        return tree
    ahead = first.device.type == "cuda"
    return map_tensors(lambda t: t.to(first.device, non_blocking=ahead), tree)


def widest(x: Tensor) -> torch.dtype:
    """Returns the widest floating type of the tensor's device: float64, or float32 on Apple's GPU (MPS)."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def detach(tree: Any) -> Any:
    """Detaches every tensor from its graph."""
    return map_tensors(torch.detach, tree)


def modules_of(root: nn.Module) -> list[nn.Module]:
    """Returns every module below `root`, itself first; a shared one appears several times.

    It is faster than `nn.Module.modules`, which matters in every meta-step of a small network.
    """
    found = [root]
    for module in found:  # grows while it is walked
        for child in module._modules.values():
            if child is not None:
                found.append(child)
    return found


def named_parameters_of(root: nn.Module) -> dict[str, Tensor]:
    """Returns `dict(root.named_parameters())`, faster; a shared parameter has its first name."""
    found: dict[str, Tensor] = {}
    _gather(root, "", found, set())
    return found


def _gather(module: nn.Module, prefix: str, found: dict[str, Tensor], seen: set[int]) -> None:
    for name, p in module._parameters.items():
        if p is not None and id(p) not in seen:
            seen.add(id(p))
            found[prefix + name] = p
    for name, child in module._modules.items():
        if child is not None and (child._parameters or child._modules):
            _gather(child, f"{prefix}{name}.", found, seen)


def parameters_of(modules: list[nn.Module]) -> list[nn.Parameter]:
    """Returns the parameters that these modules hold directly."""
    return [p for m in modules for p in m._parameters.values() if p is not None]
