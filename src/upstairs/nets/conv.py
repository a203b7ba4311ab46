"""Convolutional networks of the few-shot literature."""

from collections import OrderedDict
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.errors import UpstairsError
from upstairs.nets.norm import Norm, make_norm

Net = TypeVar("Net", bound=nn.Module)


def conv4(
    shape: tuple[int, ...], *, width: int = 64, norm: Norm = "population", steps: int = 1, out: int | None = None,
    dropout: float = 0.0,
) -> nn.Sequential:  # fmt: skip
    """Four blocks of 3x3 convolution, normalisation, 2x2 max-pool, ReLU (Vinyals et al. 2016, appendix A.1).

    Pooling comes before the ReLU: the same values (both are monotone) for a quarter of the work. Weights are stored
    channels-last, in which pooling is 9 times faster on a CPU.

    Args:
        shape: of one input, (channels, height, width) in pixels; 16 pixels or more.
        width: channels of each block.
        steps: of the inner loop, where `norm` is `per_step`.
        out: outputs of a last linear layer named `head`; None leaves the flattened features.
        dropout: share of each block's channels that training leaves out, as a whole (Tompson et al. 2015).
    """
    layers = _blocks(shape, width, norm, "pppp", steps=steps, dropout=dropout)
    layers["flatten"] = nn.Flatten()
    if out is not None:
        layers["head"] = nn.Linear(width * (shape[1] // 16) * (shape[2] // 16), out)
    return channels_last(nn.Sequential(layers))


def sound_conv(
    shape: tuple[int, ...], *, width: int = 64, norm: Norm = "population", steps: int = 1, out: int | None = None,
    dropout: float = 0.0,
) -> nn.Sequential:  # fmt: skip
    """`conv4` for log-mel pictures of sounds, which are large and smooth.

    The first block has half the width and halves the picture once more (stride 2), the last one does not pool: a
    seventh of conv4's work, and seven steps in place of one learn more than detail does.

    Args:
        shape, width, norm, steps, out, dropout: as for `conv4`.
    """
    layers = _blocks(shape, width, norm, "spp.", steps=steps, dropout=dropout)
    layers["flatten"] = nn.Flatten()
    if out is not None:
        height, length = (-(-side // 2) // 8 for side in shape[1:])
        layers["head"] = nn.Linear(width * height * length, out)
    return channels_last(nn.Sequential(layers))


def relation_conv(
    shape: tuple[int, ...], *, width: int = 64, norm: Norm = "population"
) -> tuple[nn.Sequential, nn.Sequential]:
    """The encoder and the relation module of RelationNet (Sung et al. 2018, figure 2).

    The encoder has conv4's blocks, of which only the first two pool: maps [n, width, h/4, w/4]. The relation module
    takes two of them as one of 2 width channels: two blocks that pool, and layers of 8 units and 1.
    """
    encoder = _blocks(shape, width, norm, "pp..")
    relation = _blocks((2 * width, *shape[1:]), width, norm, "pp")
    relation["flatten"] = nn.Flatten()
    relation["linear"] = nn.Linear(width * (shape[1] // 16) * (shape[2] // 16), 8)
    relation["relu"], relation["head"] = nn.ReLU(), nn.Linear(8, 1)
    return channels_last(nn.Sequential(encoder)), channels_last(nn.Sequential(relation))


def picture_maps(
    shape: tuple[int, ...], *, width: int = 64, norm: Norm = "population", dropout: float = 0.0
) -> nn.Sequential:
    """Maps [n, width, h/4, w/4] of pictures: conv4's blocks, of which only the first two pool.

    The first has half the width, where a picture is large, and the third has twice, where it is small: conv4's work.

    Args:
        shape, width, norm, dropout: as for `conv4`.
    """
    return channels_last(nn.Sequential(_blocks(shape, width, norm, "hpd.", dropout=dropout)))


def sound_maps(
    shape: tuple[int, ...], *, width: int = 64, norm: Norm = "population", dropout: float = 0.0
) -> nn.Sequential:
    """`sound_conv` that keeps time: maps [n, width, 1, frames / 4], a vector every 40 ms of a log-mel picture.

    The later blocks pool along the bands alone, and what is left of the bands becomes one by a convolution. The picture
    is seen twice, as it is and without its level (see `BesideLevel`).

    Args:
        shape, width, norm, dropout: as for `conv4`.
    """
    layers = _blocks((2 * shape[0], *shape[1:]), width, norm, "sff.", dropout=dropout)
    layers["level"] = BesideLevel()
    layers.move_to_end("level", last=False)
    layers["bands"] = nn.Conv2d(width, width, (-(-shape[1] // 2) // 8, 1))
    return channels_last(nn.Sequential(layers))


class BesideLevel(nn.Module):
    """Log-mel pictures, and beside each how far every band is from its own mean over time.

    What a voice, a microphone and a room add to a band at every moment is then gone (mean normalisation, as cepstra
    have it: Atal 1974). A moment counts as it is loud, in the mean and in the picture: silence stays silence.
    """

    def forward(self, x: Float[Tensor, "n c b t"]) -> Float[Tensor, "n c2 b t"]:
        loud = x.amax(2, keepdim=True)
        mean = (loud * x).sum(3, keepdim=True) / loud.sum(3, keepdim=True).clamp(min=1e-3)
        return torch.cat([x, loud * (x - mean)], 1)


def _blocks(
    shape: tuple[int, ...], width: int, norm: Norm, pools: str, *, steps: int = 0, dropout: float = 0.0
) -> OrderedDict[str, nn.Module]:
    """A block for each letter of `pools`: p has a 2x2 max-pool; h too, and half the width; s as h, and a convolution of
    stride 2; f a max-pool of 2x1; d none, and twice the width."""
    if len(shape) != 3 or min(shape[1:]) < 16:
        raise UpstairsError(
            f"conv4 takes images of 16x16 pixels or more and was given inputs of shape {shape}: use `net` mlp"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before = shape[0]
    for i, pool in enumerate(pools):
        own = {"h": max(1, width // 2), "s": max(1, width // 2), "d": 2 * width}.get(pool, width)
        stride = 2 if pool == "s" else 1
        conv = nn.Conv2d(before, own, 3, padding=1, stride=stride, bias=norm == "none")
        pooling = [] if pool in ".d" else [nn.MaxPool2d((2, 1) if pool == "f" else 2)]
        dropping = [nn.Dropout2d(dropout)] if dropout else []
        layers[f"block{i}"] = nn.Sequential(conv, make_norm(norm, own, steps=steps), *pooling, nn.ReLU(), *dropping)
        before = own
    return layers


def channels_last(net: Net) -> Net:
    """`net` itself, its kernels stored channels-last."""
    for p in net.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
    return net
