"""Detection of networks that write to themselves, which are restored to what they were."""

import types
from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from upstairs.errors import UpstairsError

OLD = {  # hooks that write a weight, and what does the same without
    "WeightNorm": "torch.nn.utils.parametrizations.weight_norm",
    "SpectralNorm": "torch.nn.utils.parametrizations.spectral_norm, and net.eval()",
    "BasePruningMethod": "torch.nn.utils.prune.remove, which makes the pruning permanent",
}
TASKS = "while tasks adapt, so that tasks would see each other"
_FIXED = (
    str, bytes, int, float, complex, types.NoneType, type, types.FunctionType, types.BuiltinFunctionType,
    types.ModuleType, torch.jit.ScriptModule, torch.dtype, torch.device, torch.Size,
)  # fmt: skip


class Kept(NamedTuple):
    """A copy of something that a network holds and can change."""

    owner: Any  # a tensor, a generator, a list, dict, set or deque; the attributes of an object are a dict
    copy: Any
    version: int  # of a tensor: torch counts changes in place
    module: str
    attribute: str  # of the module; empty for the module's own dict


def snapshot(root: nn.Module) -> list[Kept]:
    """Copies all that the modules below `root` hold: tensors, containers, and attributes of their objects.

    Raises:
        UpstairsError: a tensor that no learner can use, such as an uninitialised one of a lazy layer.
    """
    kept: list[Kept] = []
    seen: set[int] = set()

    def visit(value: Any, path: str, module: str, attribute: str) -> None:
        if isinstance(value, _FIXED) or id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, Tensor):
            check_usable(value, module, attribute)
            kept.append(Kept(value, value.detach().clone(), _version(value), module, attribute))
        elif isinstance(value, torch.Generator):
            kept.append(Kept(value, value.get_state(), 0, module, attribute))
        elif isinstance(value, nn.Module):
            module, own = f"{type(value).__name__} ({path or 'the learner'})", vars(value)
            for hook in value._forward_pre_hooks.values():
                if remedy := OLD.get(type(hook).__name__) or OLD.get(type(hook).__bases__[0].__name__):
                    raise UpstairsError(
                        f"{module} computes a weight anew in each call, by a hook {type(hook).__name__} of torch, and "
                        f"keeps it: use {remedy}"
                    )
            for home in (own, value._parameters, value._buffers, value._modules):
                kept.append(Kept(home, dict(home), 0, module, ""))
                seen.add(id(home))
            for name, child in value._modules.items():
                visit(child, f"{path}.{name}".removeprefix("."), module, name)
            for name, one in {**own, **value._parameters, **value._buffers}.items():
                visit(one, path, module, name)
        elif isinstance(value, dict | list | set | deque):
            kept.append(Kept(value, value.copy(), 0, module, attribute))
            for one in value.values() if isinstance(value, dict) else value:
                visit(one, path, module, attribute)
        elif isinstance(value, tuple | frozenset):
            for one in value:
                visit(one, path, module, attribute)
        elif hasattr(value, "__dict__"):
            visit(vars(value), path, module, attribute)

    with _disable_current_modes():  # a plan runs on tensors without storage
        visit(root, "", "", "")
    return kept


def check_usable(tensor: Tensor, module: str, attribute: str) -> None:
    """Raises UpstairsError for a tensor without values, or one that no gradient can use."""
    problem = ""
    if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
        problem = "has no values yet, as its layer is lazy: call the network once on a batch of inputs"
    elif tensor.is_meta:
        problem = "is on the device 'meta' and has no values: load the weights, after `net.to_empty(device=...)`"
    elif isinstance(tensor, nn.Parameter) and tensor.is_inference():
        problem = "was made under torch.inference_mode, so that nothing can train it: build the network outside it"
    if problem:
        raise UpstairsError(f"'{attribute}' of {module} {problem} before you build a learner")


def put_back(before: list[Kept]) -> str:
    """Gives a network back all that it held; returns the name of a tensor that was written to, or ''."""
    with _disable_current_modes(), torch.no_grad():
        return _put_back(before)


def _put_back(before: list[Kept]) -> str:
    found = ""
    for was in before:
        if isinstance(was.owner, Tensor):
            if _version(was.owner) != was.version or not _equal(was.owner, was.copy):
                found = found or _name(was, was.attribute)
                was.owner.data.copy_(was.copy)
        elif isinstance(was.owner, torch.Generator):
            was.owner.set_state(was.copy)
        elif different := _difference(was.owner, was.copy, flags=not was.attribute):
            found = found or next((_name(was, was.attribute or key) for key in different if different[key]), "")
            was.owner.clear()
            (was.owner.update if isinstance(was.owner, dict | set) else was.owner.extend)(was.copy)
    return found


def check_unchanged(before: list[Kept], harm: str = TASKS) -> None:
    """Compares with a snapshot, and restores the network if a tensor was written to; other writes stay.

    Raises:
        UpstairsError: a module wrote to a tensor; `harm` is the end of the message.
    """
    with _disable_current_modes():
        if not any(map(_written, before)):
            return
    found = put_back(before)
    remedy = "let `forward` return what it computes and keep nothing, or use a layer of torch.nn"
    if "SpectralNorm" in found:
        remedy = "call `net.eval()` before you build a learner, which holds the vectors of its power iteration"
    raise UpstairsError(
        f"{found} is written to {harm}: {remedy}; a layer that sets itself up at its first call needs one before: "
        "call the network on a batch of inputs"
    )


def _written(was: Kept) -> bool:
    """Returns whether a tensor was written to, or a tensor or flag in a container was replaced."""
    if isinstance(was.owner, Tensor):
        return _version(was.owner) != was.version or not _equal(was.owner, was.copy)
    return not isinstance(was.owner, torch.Generator) and any(
        _difference(was.owner, was.copy, flags=not was.attribute).values()
    )


def _difference(now: Any, before: Any, *, flags: bool) -> dict[Any, bool]:
    """Returns the keys (or places) at which two containers differ, and whether that harms other tasks."""
    if isinstance(now, set):
        return {"": _harms(*(now ^ before))} if now != before else {}
    a, b = (box if isinstance(box, dict) else dict(enumerate(box)) for box in (now, before))
    other = [key for key in {**a, **b} if a.get(key) is not b.get(key) or (key in a) != (key in b)]
    return {key: key != "training" and _harms(a.get(key), b.get(key), flags=flags) for key in other}


def _harms(*values: Any, flags: bool = False) -> bool:
    """Returns whether these are tensors, or flags of a module, such as one that it has set itself up; counters are not.

    Args:
        flags: booleans count too.
    """
    return any(isinstance(leaf, Tensor | bool if flags else Tensor) for leaf in tree_leaves(values))


def _name(was: Kept, attribute: Any) -> str:
    return f"'{attribute}' of {was.module}"


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _equal(a: Tensor, b: Tensor) -> bool:
    """Returns whether the values are the same; writes through `.data` leave the version as it is."""
    if a.layout != torch.strided or a.shape != b.shape:
        return a.layout == b.layout and a.shape == b.shape
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
