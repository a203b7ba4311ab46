"""ResNet-12 of the few-shot literature."""

from collections import OrderedDict

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.errors import UpstairsError
from upstairs.nets.conv import channels_last
from upstairs.nets.mlp import with_head
from upstairs.nets.norm import Norm, make_norm

GROWTH = (1.0, 2.5, 5.0, 10.0)  # channels of the four blocks: 64, 160, 320 and 640
SLOPE = 0.1  # slope of the leaky ReLU below 0


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions plus a 1x1 shortcut, 2x2 max-pool, leaky ReLU; a norm follows each convolution.

    Pooling before the last leaky ReLU gives the same values (both are monotone) for less work.
    """

    def __init__(self, before: int, own: int, norm: Norm, *, steps: int) -> None:
        super().__init__()
        sizes = [(before, own, 3), (own, own, 3), (own, own, 3), (before, own, 1)]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, side, padding=side // 2, bias=norm == "none") for a, b, side in sizes
        )
        self.norms = nn.ModuleList(make_norm(norm, own, steps=steps) for _ in sizes)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        layers = list(zip(self.convs, self.norms, strict=True))
        conv, norm = layers.pop()
        shortcut = norm(conv(x))
        for place, (conv, norm) in enumerate(layers):
            x = norm(conv(x))
            if place + 1 < len(layers):
                x = F.leaky_relu(x, SLOPE)
        return F.leaky_relu(F.max_pool2d(x + shortcut, 2), SLOPE)


def resnet12(
    shape: tuple[int, ...], *, width: int = 64, norm: Norm = "population", steps: int = 1, out: int | None = None,
    dropout: float = 0.0,
) -> nn.Sequential:  # fmt: skip
    """Returns four residual blocks of 64, 160, 320 and 640 channels (Lee et al. 2019, section 4.1), without DropBlock.

    As in the paper the last maps are flattened, not averaged: 2,560 features of a picture of 32 pixels.

    Args:
        shape: shape of one input, (channels, height, width), of 16 pixels or more.
        width: channels of the first block; the others have 2.5, 5 and 10 times as many.
        norm, steps, out, dropout: as for `conv4`.
    """
    if len(shape) != 3 or min(shape[1:]) < 16:
        raise UpstairsError(f"resnet12 takes images of 16x16 pixels or more and was given {shape}: use `net` mlp")
    channels = [shape[0], *(max(1, round(width * factor)) for factor in GROWTH)]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(4):
        layers[f"block{i}"] = ResidualBlock(channels[i], channels[i + 1], norm, steps=steps)
        if dropout:
            layers[f"dropout{i}"] = nn.Dropout2d(dropout)
    layers["flatten"] = nn.Flatten()
    return channels_last(with_head(layers, channels[-1] * (shape[1] // 16) * (shape[2] // 16), out))
