"""Calls of a module with some of its parameters replaced, and a cache for modules that do not adapt.

Where few parameters adapt (ANIL: the last layer), the modules before them compute the same in every inner step. Inside
`cache_frozen_modules()` such a module runs once for each input, and later steps reuse its output.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import _disable_current_modes

from upstairs.functional.batching.norms import tracks_statistics
from upstairs.functional.batching.tensor import RECORDS, BatchedTensor
from upstairs.functional.exclusive import alone

Params = dict[str, Tensor]
_TIED: WeakKeyDictionary[nn.Module, list[list[str]]] = WeakKeyDictionary()
_FIXED: WeakKeyDictionary[nn.Module, dict[tuple[str, ...], list[nn.Module]]] = WeakKeyDictionary()
_PATHS: dict[str, list[str]] = {}  # the names of parameters, split once
_GLOBAL_HOOKS = (
    torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks,
    torch_module._global_backward_hooks, torch_module._global_backward_pre_hooks,
)  # fmt: skip
_LINEAR = {"weight", "bias"}


class _Active(threading.local):
    memory: "_Memory | None" = None  # of the loop that runs in this thread


_ACTIVE = _Active()


def functional_call(net: nn.Module, params: Params, *args: Any) -> Any:
    """Returns `net(*args)` with some parameters replaced (tied ones together); `net` is restored afterwards."""
    if (tied := _TIED.get(net)) is None:
        groups: dict[int, list[str]] = {}
        for name, p in net.named_parameters(remove_duplicate=False):
            groups.setdefault(id(p), []).append(name)
        tied = _TIED[net] = [names for names in groups.values() if len(names) > 1]
    if tied:
        params = {**params, **{n: params[names[0]] for names in tied if names[0] in params for n in names}}
    memory = _ACTIVE.memory
    if memory is not None and (fixed := _fixed(net, tuple(params))):
        with memory.of(fixed, args):
            return _call(net, params, args)
    if len(args) == 1 and (layers := _chain(net)) is not None:
        return _run(layers, params, args[0])
    return _call(net, params, args)


_ACTIVATIONS: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.ReLU: torch.relu, nn.Tanh: torch.tanh, nn.Sigmoid: torch.sigmoid,
}  # fmt: skip
_PLAIN = {*_ACTIVATIONS, nn.Flatten}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _chain(net: nn.Module) -> Any:
    """Returns the layers of a network of linear layers and activations; None if it has other modules or hooks.

    Their functions are called directly: torch's calls of modules take a quarter of a small network's pass.
    """
    if type(net) is not nn.Sequential or RECORDS or any(_GLOBAL_HOOKS):
        return None
    layers = net._modules
    for module in (net, *layers.values()):
        own = module.__dict__
        for name in _HOOKS:
            if own[name]:
                return None
        kind = type(module)
        if kind is nn.Linear:
            if own["_parameters"].keys() != _LINEAR or "forward" in own:
                return None
        elif (kind not in _PLAIN or own.get("inplace") or "forward" in own) and module is not net:
            return None
    return layers


def _run(layers: dict[str, nn.Module], params: Params, x: Any) -> Any:
    for name, module in layers.items():
        if (function := _ACTIVATIONS.get(type(module))) is not None:
            x = function(x)
        elif isinstance(module, nn.Flatten):
            x = x.flatten(module.start_dim, module.end_dim)
        else:
            own: dict[str, Any] = module._parameters
            weight, bias = f"{name}.weight", f"{name}.bias"
            x = F.linear(x, params.get(weight, own["weight"]), params.get(bias, own["bias"]))
    return x


def _call(net: nn.Module, params: Params, args: tuple[Any, ...]) -> Any:
    before, flat = [], []
    with alone():
        try:
            for name, value in params.items():
                *path, attribute = _PATHS.get(name) or _PATHS.setdefault(name, name.split("."))
                module: Any = net
                for child in path:  # `get_submodule` takes three times as long
                    module = module._modules[child]
                before.append((module, attribute, module._parameters[attribute]))
                module._parameters[attribute] = value
                if isinstance(module, nn.RNNBase) and not any(module is m for m, _ in flat):
                    flat.append((module, module._flat_weights))
            for module, _ in flat:
                module._flat_weights = [getattr(module, n) for n in module._flat_weights_names]
            return net(*args)
        finally:
            for module, attribute, value in reversed(before):  # a module may be there twice, by two names
                module._parameters[attribute] = value
            for module, weights in flat:
                module._flat_weights = weights


class cache_frozen_modules:
    """A context in which modules whose parameters do not adapt run once for each input.

    Args:
        graph: keep their graph, for a derivative of the whole loop.
        off: no caching, even where an outer loop caches.
    """

    def __init__(self, *, graph: bool, off: bool = False) -> None:
        self.memory = None if off else _Memory(graph)

    def __enter__(self) -> None:
        self.before, _ACTIVE.memory = _ACTIVE.memory, self.memory

    def __exit__(self, *_: object) -> None:
        _ACTIVE.memory = self.before


def _fixed(net: nn.Module, adapting: tuple[str, ...]) -> list[nn.Module]:
    """Returns the largest modules of `net` without adapting parameters; none if none of them has parameters."""
    known = _FIXED.setdefault(net, {})
    if adapting not in known:
        found: list[nn.Module] = []
        _collect(net, "", adapting, found)
        worth = any(next(module.parameters(), None) is not None for module in found)
        known[adapting] = found if worth else []
    return known[adapting]


def _collect(module: nn.Module, prefix: str, adapting: tuple[str, ...], found: list[nn.Module]) -> None:
    for name, child in module.named_children():
        path = f"{prefix}{name}."
        if isinstance(child, nn.ModuleList | nn.ModuleDict) or any(n.startswith(path) for n in adapting):
            _collect(child, path, adapting, found)
        else:
            found.append(child)


class _Memory:
    """Cached outputs of modules, for the inputs of the loop and for other cached outputs."""

    def __init__(self, graph: bool) -> None:
        self.graph = graph
        self.same: dict[int, Any] = {}  # id -> the tensor, which lives as long
        self.given: dict[tuple[int, ...], tuple[Tensor, Tensor, int]] = {}  # module and inputs -> output, raw, version

    @contextmanager
    def of(self, modules: list[nn.Module], args: tuple[Any, ...]) -> Iterator[None]:
        self.same.update({id(a): a for a in args if isinstance(a, Tensor)})
        # a pass through a module that gathers running statistics counts
        able = [m for m in modules if "forward" not in m.__dict__ and not (m.training and tracks_statistics(m))]
        for module in able:
            module.__dict__["forward"] = self._once(module, module.forward)
        try:
            yield
        finally:
            for module in able:
                del module.__dict__["forward"]

    def _once(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if kwargs or not all(id(a) in self.same for a in args):
                return forward(*args, **kwargs)
            key = (id(module), *map(id, args))
            if key in self.given:
                out, raw, version = self.given[key]
                now = out._raw if isinstance(out, BatchedTensor) else out
                if now is raw and raw._version == version:  # it was not changed in place
                    return out
            device = args[0].device if args else torch.device("cpu")
            chance = random_states(device)
            with torch.set_grad_enabled(self.graph):
                out = forward(*args)
            if isinstance(out, Tensor) and _alike(chance, random_states(device)):  # random ones run each time
                raw = out.raw if isinstance(out, BatchedTensor) else out
                self.given[key] = (out, raw, raw._version)
                self.same[id(out)] = out
            return out

        return run


def random_states(device: torch.device) -> list[Tensor]:
    """Returns the state of the CPU's generator, and of the device's."""
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *own, *([torch.mps.get_rng_state()] if device.type == "mps" else [])]


def _set_random_states(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states[1])


def _alike(before: list[Tensor], after: list[Tensor]) -> bool:
    """Returns whether no random numbers were drawn; works also while a plan runs on tensors without storage."""
    with _disable_current_modes():
        return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@contextmanager
def same_chance(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """A context in which the same random numbers are drawn as after `random_states`; generators are restored."""
    before = random_states(device)
    _set_random_states(states, device)
    try:
        yield
    finally:
        _set_random_states(before, device)
