"""`vectorize` runs a function of one task on all tasks: stacked, else under vmap, else one task after another."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import tree_map

from upstairs.errors import UpstairsError
from upstairs.functional.batching import kernels
from upstairs.functional.batching.norms import GATHERING, gather, tracks_statistics
from upstairs.functional.batching.tensor import stack, unstack
from upstairs.functional.exclusive import exclusive
from upstairs.functional.purity import check_unchanged, put_back, snapshot
from upstairs.tree import first_tensor, index, map_tensors, modules_of


class Explanation(NamedTuple):
    """How a learner's function runs (`stacked`, `vmap` or `loop`), and why the faster ways failed."""

    how: str
    why: str


_CHOSEN: WeakKeyDictionary[nn.Module, dict[str, Explanation]] = WeakKeyDictionary()
_NORMED: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # whether it has torch's batch norm
_SIMPLE = (nn.Linear, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Identity, nn.Flatten, nn.Dropout, nn.LayerNorm)
_SIMPLE += (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Embedding)


@exclusive
def vectorize(function: Callable[..., Any], tasks: Any, *, owner: nn.Module, name: str = "") -> Any:
    """Runs `function` on every task; each leaf of `tasks` (a tuple of arguments) and of the result has a task axis.

    Args:
        owner: the learner of the function, for which the way that works is remembered.
        name: the name of the function.
    """
    count = len(first_tensor(tasks))
    with untracked(owner):
        if count == 1 and all(type(m) in _SIMPLE for m in modules_of(owner)[1:]):
            return map_tensors(lambda t: t[None], function(*index(tasks, 0)))
        chosen = _CHOSEN.setdefault(owner, {})
        if name in chosen:
            return _WAYS[chosen[name].how](function, tasks, count)
        whys: list[str] = []
        traced = _get_current_dispatch_mode() is not None  # by a plan or a compiler, which check for themselves
        before = [] if traced else snapshot(owner)
        for how, way in _WAYS.items():
            if how == "vmap" and tracks_statistics(owner):
                whys.append("vmap: batch norm with running statistics")
                continue
            try:
                result = way(function, tasks, count)
                check_unchanged(before)
            except BaseException as error:
                put_back(before)
                if how == "loop" or out_of_memory(error) or not isinstance(error, Exception):
                    raise
                if isinstance(error, UpstairsError):
                    raise
                whys.append(f"{how}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
                continue
            chosen[name] = Explanation(how, "; ".join(whys))
            return result
    raise AssertionError("the loop returns or raises")


def chosen(owner: nn.Module, name: str) -> Explanation | None:
    """Returns how the owner's function ran; None if it has not."""
    return _CHOSEN.get(owner, {}).get(name)


def forget(owner: nn.Module) -> None:
    """Forgets how the owner's functions ran."""
    _CHOSEN.pop(owner, None)


def out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _stacked(function: Callable[..., Any], tasks: Any, count: int) -> Any:
    return unstack(function(*stack(tasks)), count)


def _vmap(function: Callable[..., Any], tasks: Any, count: int) -> Any:
    with _ExactBatchNorm(), sdpa_kernel(SDPBackend.MATH):
        return torch.vmap(function, randomness="different")(*tasks)


def _loop(function: Callable[..., Any], tasks: Any, count: int) -> Any:
    with _ExactBatchNorm(), sdpa_kernel(SDPBackend.MATH):
        each = [function(*index(tasks, i)) for i in range(count)]
    return tree_map(lambda *leaves: torch.stack(leaves), each[0], *each[1:])


_WAYS: dict[str, Callable[..., Any]] = {"stacked": _stacked, "vmap": _vmap, "loop": _loop}


class _ExactBatchNorm(TorchFunctionMode):
    """A mode that replaces torch's batch norm, which is silently wrong in vmap(grad(grad(...)))."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return _batch_norm(*args, **kwargs)
        return func(*args, **kwargs)


def _batch_norm(
    x: Tensor, mean: Any, variance: Any, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    one = x.new_ones(x.shape[1])
    weight, bias = one if weight is None else weight, torch.zeros_like(one) if bias is None else bias
    if not training:
        scale = weight * torch.rsqrt(variance + eps)
        return kernels.affine(x, scale, bias - mean * scale)
    if mean is not None and GATHERING:
        axes = [a for a in range(x.ndim) if a != 1]
        seen_variance, seen = torch.var_mean(x.detach(), axes, correction=0)
        gather(mean, seen, seen_variance, x.numel() // x.shape[1], momentum)
    return kernels.batch_norm(x, weight, bias, eps)


def untracked(owner: nn.Module) -> AbstractContextManager[None]:
    """A context in which torch's batch norms do not count their batches, a write while tasks adapt."""
    if owner not in _NORMED:
        _NORMED[owner] = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in owner.modules())
    return _uncounted(owner) if _NORMED[owner] else nullcontext()


@contextmanager
def _uncounted(owner: nn.Module) -> Iterator[None]:
    norms = [
        m for m in owner.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training and m.num_batches_tracked is not None
    ]  # fmt: skip
    counts = [m._buffers["num_batches_tracked"] for m in norms]
    for m in norms:
        m._buffers["num_batches_tracked"] = None
    try:
        yield
    finally:
        for m, number in zip(norms, counts, strict=True):
            m._buffers["num_batches_tracked"] = number
