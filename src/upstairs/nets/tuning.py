"""What is trained of a pretrained network: its last layers, normalisation layers, low-rank adapters, or all of it."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.errors import UpstairsError
from upstairs.settings import Tune

LAST = 2  # layers that are trained of `last`
RANK = 8  # of an adapter
FEW = 6  # a stack of fewer layers may be one of stages, each of which is a stack


def tune(network: nn.Module, how: Tune | None, example: Callable[[], Tensor], *, last: int = LAST) -> None:
    """Chooses the weights of a network that are trained; all others are frozen.

    Args:
        how: `last`, the last layers (see `layers_of`); `norms`, scales and shifts of all normalisation layers, whose
            running statistics stay; `lora`, adapters of low rank (Hu et al. 2022) beside all linear layers, or beside
            the convolutions of a network without any, which begin at zero; `all`. None trains nothing.
        example: runs the network on an example; parts that do not contribute to it are never trained.
        last: the number of last layers.

    Raises:
        UpstairsError: the network has no such layers.
    """
    used = _used(network, example)
    network.requires_grad_(False)
    if how == "all":
        chosen = [p for p in network.parameters() if id(p) in used]
    elif how == "last":
        layers = layers_of(network, used)
        if last > len(layers):
            raise UpstairsError(f"the network has {len(layers)} layers: train as many of them or fewer, not {last}")
        chosen = [p for layer in layers[len(layers) - last :] for p in layer.parameters() if id(p) in used]
    elif how == "norms":
        chosen = [p for m in network.modules() if _is_norm(m) for p in m.parameters(recurse=False) if id(p) in used]
    elif how == "lora":
        chosen = [*_adapters(network, used)]
    else:
        return
    if not chosen:
        what = {"norms": "normalisation layers with weights", "lora": "linear layers or convolutions"}.get(
            how, "weights"
        )
        raise UpstairsError(f"`tune` is {how} and {type(network).__name__} has no {what}: choose another")
    for p in chosen:
        p.requires_grad_(True)


@torch.enable_grad()
def _used(network: nn.Module, example: Callable[[], Tensor]) -> set[int]:
    """Returns the ids of the parameters on which the example's features depend."""
    every = [p for p in network.parameters() if p.is_floating_point()]
    for p in every:
        p.requires_grad_(True)
    grads = torch.autograd.grad(example().sum(), every, allow_unused=True)
    return {id(p) for p, grad in zip(every, grads, strict=True) if grad is not None}


def layers_of(network: nn.Module, used: set[int] | None = None) -> list[nn.Module]:
    """Returns the layers of a network, in order.

    They are those of a long `Sequential`; else of its last stack of modules of one class that lies in no other stack;
    where that is one of stages, those of the last stage.

    Args:
        used: the ids of the parameters that count; None: all.

    Raises:
        UpstairsError: it has no stack.
    """

    def parts(module: nn.Module) -> list[nn.Module]:
        return [m for m in module.children() if any(used is None or id(p) in used for p in m.parameters())]

    def stacks(module: nn.Module) -> Iterator[list[nn.Module]]:
        own = parts(module)
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(own) > 1 and len({type(m) for m in own}) == 1:
            yield own
        else:
            for child in module.children():
                yield from stacks(child)

    own = parts(network) if isinstance(network, nn.Sequential) else []
    if len(own) >= FEW:
        return own
    if not (found := [*stacks(network)] or [own] * (len(own) > 1)):
        raise UpstairsError(
            f"{type(network).__name__} has no stack of layers, of which the last could be trained: set `tune` to "
            "norms, lora or all"
        )
    layers = found[-1]
    inside = [*stacks(layers[-1])] if len(layers) < FEW else []
    return inside[-1] if inside else layers


def _is_norm(module: nn.Module) -> bool:
    own = [*module.parameters(recurse=False)]
    return bool(own) and "norm" in type(module).__name__.lower() and all(p.ndim == 1 for p in own)


def _adapters(network: nn.Module, used: set[int]) -> Iterator[nn.Parameter]:
    """Puts an adapter beside each layer that can have one, and yields its weights."""
    kinds: tuple[tuple[type[nn.Module], Any], ...] = (nn.Linear, LowRankLinear), (nn.Conv2d, LowRankConvolution)
    for kind, make in kinds:
        found = [
            (owner, name, layer) for owner in network.modules() for name, layer in owner.named_children()
            if type(layer) is kind and id(layer.weight) in used and _is_plain(layer)
        ]  # fmt: skip
        made: dict[int, Any] = {}
        for owner, name, layer in found:  # a layer that occurs twice has one adapter
            if id(layer) not in made:
                made[id(layer)] = make(layer)
                yield from (made[id(layer)].down, made[id(layer)].up)
            setattr(owner, name, made[id(layer)])
        if found:
            return


def _is_plain(layer: nn.Module) -> bool:
    return not isinstance(layer, nn.Conv2d) or (layer.groups == 1 and layer.padding_mode == "zeros")


class LowRankLinear(nn.Linear):
    """A frozen linear layer with an adapter of low rank (Hu et al. 2022): y = W x + b + B A x.

    A is `down`, random; B is `up`, zero at first, so that the layer begins as it was.
    """

    def __init__(self, layer: nn.Linear, rank: int = RANK) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.down, self.up = _factors(layer.weight, rank)

    def forward(self, input: Float[Tensor, "*n inside"]) -> Float[Tensor, "*n outside"]:
        return super().forward(input) + F.linear(F.linear(input, self.down), self.up)


class LowRankConvolution(nn.Conv2d):
    """A frozen convolution with an adapter of low rank: a convolution to `rank` channels, and one of 1 x 1 to all."""

    def __init__(self, layer: nn.Conv2d, rank: int = RANK) -> None:
        nn.Module.__init__(self)
        self.__dict__.update({name: value for name, value in vars(layer).items() if not name.startswith("_")})
        self._reversed_padding_repeated_twice = layer._reversed_padding_repeated_twice
        self.weight, self.bias = layer.weight, layer.bias
        self.down, self.up = _factors(layer.weight, rank)

    def forward(self, input: Float[Tensor, "n inside h w"]) -> Float[Tensor, "n outside i j"]:
        narrow = F.conv2d(input, self.down, None, self.stride, self.padding, self.dilation)
        return super().forward(input) + F.conv2d(narrow, self.up[..., None, None])


def _factors(weight: Tensor, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Returns A [rank, *inside], uniform as torch draws the weights of such a layer, and B [outside, rank], zero."""
    rank = min(rank, len(weight), weight[0].numel())
    down = weight.new_empty(rank, *weight.shape[1:])
    bound = weight[0].numel() ** -0.5
    return nn.Parameter(down.uniform_(-bound, bound)), nn.Parameter(weight.new_zeros(len(weight), rank))
