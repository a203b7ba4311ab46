"""Convolutional networks of the few-shot literature."""

from collections import OrderedDict

import torch
from torch import nn

from upstairs.errors import UpstairsError
from upstairs.nets.norm import Norm, make_norm


def conv4(
    shape: tuple[int, ...], *, width: int = 64, norm: Norm = "population", steps: int = 1, out: int | None = None
) -> nn.Sequential:
    """Four blocks of 3x3 convolution, normalisation, 2x2 max-pool, ReLU (Vinyals et al. 2016, appendix A.1).

    Pooling comes before the ReLU: the same values (both are monotone) for a quarter of the work. Weights are stored
    channels-last, in which pooling is 9 times faster on a CPU.

    Args:
        shape: of one input, (channels, height, width) in pixels; 16 pixels or more.
        width: channels of each block.
        steps: of the inner loop, where `norm` is `per_step`.
        out: outputs of a last linear layer named `head`; None leaves the flattened features.
    """
    if len(shape) != 3 or min(shape[1:]) < 16:
        raise UpstairsError(
            f"conv4 takes images of 16x16 pixels or more and was given inputs of shape {shape}: use --net mlp"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, height, wide = shape
    for i in range(4):
        layers[f"block{i}"] = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=norm == "none"),
            make_norm(norm, width, steps=steps),
            nn.MaxPool2d(2),
            nn.ReLU(),
        )
        channels, height, wide = width, height // 2, wide // 2
    layers["flatten"] = nn.Flatten()
    if out is not None:
        layers["head"] = nn.Linear(width * height * wide, out)
    net = nn.Sequential(layers)
    for p in net.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
    return net
