"""MobileNetV2 and EfficientNet-Lite0: inverted residuals, for published ImageNet weights."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format, fuse_conv_bn_eval

from upstairs.errors import UpstairsError

STEM, HEAD, CLASSES = 32, 1280, 1000


class MobilePlan(NamedTuple):
    """A network of inverted residuals.

    Attributes:
        stages: (widening, channels, blocks, stride of the first, kernel).
        epsilon: that of batch normalisation.
        same: padded as TensorFlow does: with an even side and stride 2, more at the end than at the start.
    """

    stages: tuple[tuple[int, int, int, int, int], ...]
    epsilon: float
    same: bool


MOBILENET_V2 = MobilePlan(
    ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3), (6, 96, 3, 1, 3), (6, 160, 3, 2, 3),
     (6, 320, 1, 1, 3)), 1e-5, False,
)  # fmt: skip
EFFICIENTNET_LITE0 = MobilePlan(
    ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
     (6, 320, 1, 1, 3)), 1e-3, True,
)  # fmt: skip


class MobileConvolution(nn.Module):
    """A convolution, batch normalisation and, where `bounded`, ReLU6."""

    def __init__(
        self, inside: int, outside: int, kernel: int = 1, *, plan: MobilePlan, stride: int = 1, groups: int = 1,
        bounded: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stride, self.kernel, self.same, self.bounded = stride, kernel, plan.same, bounded
        padding = 0 if plan.same else kernel // 2
        self.conv = nn.Conv2d(inside, outside, kernel, stride, padding, groups=groups, bias=False)
        self.norm: Any = nn.BatchNorm2d(outside, eps=plan.epsilon)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        if self.same:
            total = [
                max((-(-side // self.stride) - 1) * self.stride + self.kernel - side, 0) for side in x.shape[:1:-1]
            ]
            x = F.pad(x, [part for side in total for part in (side // 2, side - side // 2)])
        x = self.norm(self.conv(x))
        return F.relu6(x) if self.bounded else x


class InvertedResidual(nn.Module):
    """Widens, filters each channel, narrows, and adds the input where the shape allows (Sandler et al. 2018)."""

    def __init__(self, inside: int, outside: int, *, widening: int, kernel: int, stride: int, plan: MobilePlan) -> None:
        super().__init__()
        wide = inside * widening
        widen = [MobileConvolution(inside, wide, plan=plan)] if widening > 1 else []
        self.layers = nn.Sequential(
            *widen, MobileConvolution(wide, wide, kernel, stride=stride, groups=wide, plan=plan),
            MobileConvolution(wide, outside, bounded=False, plan=plan),
        )  # fmt: skip
        self.adds = stride == 1 and inside == outside

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        return x + self.layers(x) if self.adds else self.layers(x)


def mobile_network(plan: MobilePlan, weights: Mapping[str, Tensor]) -> nn.Sequential:
    """Returns a network from pictures [n, 3, h, w] to features [n, 1280], with published weights.

    The weights are those of the whole classifier, in the order of its layers; its last layer is left out.

    Raises:
        UpstairsError: the weights are not those of this network.
    """
    layers: list[nn.Module] = [MobileConvolution(3, STEM, 3, stride=2, plan=plan)]
    inside = STEM
    for widening, outside, blocks, stride, kernel in plan.stages:
        for place in range(blocks):
            own = {"widening": widening, "kernel": kernel, "stride": 1 if place else stride}
            layers.append(InvertedResidual(inside, outside, plan=plan, **own))
            inside = outside
    layers += [MobileConvolution(inside, HEAD, plan=plan), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    whole = nn.Sequential(*layers, nn.Linear(HEAD, CLASSES))
    needed = whole.state_dict()
    for (own, tensor), (theirs, given) in zip(needed.items(), weights.items(), strict=False):
        if own.split(".")[-1] != theirs.split(".")[-1] or tensor.shape != given.shape:
            raise UpstairsError(f"the weights have {theirs} of shape {list(given.shape)} in the place of {own}, of "
                                f"shape {list(tensor.shape)}: give those of this network")  # fmt: skip
    if len(needed) != len(weights):
        raise UpstairsError(f"{len(weights)} tensors were given and the network has {len(needed)}: give its own")
    whole.load_state_dict(dict(zip(needed, weights.values(), strict=True)))
    return convert_conv2d_weight_memory_format(nn.Sequential(*layers).eval(), torch.channels_last)


def fuse_frozen(network: nn.Module) -> nn.Module:
    """Joins convolutions that are not trained with their normalisation: a third faster, equal to six digits."""
    for layer in network.modules():
        if isinstance(layer, MobileConvolution) and not any(p.requires_grad for p in layer.parameters()):
            layer.conv, layer.norm = fuse_conv_bn_eval(layer.conv, layer.norm), nn.Identity()
    return network
