"""Convolutional networks of the few-shot literature."""

from collections import OrderedDict
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.errors import UpstairsError
from upstairs.nets.mlp import with_head
from upstairs.nets.norm import Norm, make_norm

Net = TypeVar("Net", bound=nn.Module)


def conv4(
    shape: tuple[int, ...], *, width: int = 64, norm: Norm = "population", steps: int = 1, out: int | None = None,
    dropout: float = 0.0,
) -> nn.Sequential:  # fmt: skip
    """Returns four blocks of 3x3 convolution, norm, 2x2 max-pool, ReLU (Vinyals et al. 2016, appendix A.1).

    Pooling before the ReLU gives the same values (both are monotone) for a quarter of the work. Weights are stored
    channels-last, where pooling is 9 times faster on a CPU.

    Args:
        shape: shape of one input, (channels, height, width), of 16 pixels or more.
        width: channels of each block.
        steps: number of inner steps, used where `norm` is `per_step`.
        out: outputs of a last linear layer named `head`; None returns the flattened features.
        dropout: share of each block's channels that are dropped whole in training (Tompson et al. 2015).
    """
    layers = _blocks(shape, width, norm, "pppp", steps=steps, dropout=dropout)
    layers["flatten"] = nn.Flatten()
    return channels_last(with_head(layers, width * (shape[1] // 16) * (shape[2] // 16), out))


def sound_conv(
    shape: tuple[int, ...], *, width: int = 64, norm: Norm = "population", steps: int = 1, out: int | None = None,
    dropout: float = 0.0,
) -> nn.Sequential:  # fmt: skip
    """Returns a `conv4` for log-mel pictures of sounds, which are large and smooth.

    The first block has half the width and stride 2, the last one does not pool. This is a seventh of conv4's work, and
    seven times as many meta-steps help more than the lost detail.

    Args:
        shape, width, norm, steps, out, dropout: as for `conv4`.
    """
    layers = _blocks(shape, width, norm, "spp.", steps=steps, dropout=dropout)
    layers["flatten"] = nn.Flatten()
    height, length = (-(-side // 2) // 8 for side in shape[1:])
    return channels_last(with_head(layers, width * height * length, out))


def relation_conv(
    shape: tuple[int, ...], *, width: int = 64, norm: Norm = "population"
) -> tuple[nn.Sequential, nn.Sequential]:
    """Returns the encoder and the relation module of RelationNet (Sung et al. 2018, figure 2).

    The encoder has conv4's blocks, of which only the first two pool: it returns maps [n, width, h/4, w/4]. The relation
    module reads two such maps, concatenated in channels: two blocks that pool, and linear layers of 8 units and 1.
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
    """Returns an encoder of pictures to maps [n, width, h/4, w/4]: conv4's blocks, of which only the first two pool.

    The first block has half the width and the third twice the width, so that the cost stays that of conv4.

    Args:
        shape, width, norm, dropout: as for `conv4`.
    """
    return channels_last(nn.Sequential(_blocks(shape, width, norm, "hpd.", dropout=dropout)))


def sound_maps(
    shape: tuple[int, ...], *, width: int = 64, norm: Norm = "population", dropout: float = 0.0
) -> nn.Sequential:
    """Returns a `sound_conv` that keeps time: maps [n, width, 1, frames / 4], one vector per 40 ms of a sound.

    The later blocks pool along the frequency bands only, and a convolution merges the remaining bands. The input is
    read twice: as it is, and with the mean of each band subtracted (see `BesideLevel`).

    Args:
        shape, width, norm, dropout: as for `conv4`.
    """
    layers = _blocks((2 * shape[0], *shape[1:]), width, norm, "sff.", dropout=dropout)
    layers["level"] = BesideLevel()
    layers.move_to_end("level", last=False)
    layers["bands"] = nn.Conv2d(width, width, (-(-shape[1] // 2) // 8, 1))
    return channels_last(nn.Sequential(layers))


class BesideLevel(nn.Module):
    """Concatenates log-mel pictures with the same pictures minus each band's mean over time.

    Subtracting the mean removes what voice, microphone and room add to a band at every moment (cepstral mean
    normalisation: Atal 1974). Frames are weighted by loudness, in the mean and in the result: silence stays silence.
    """

    def forward(self, x: Float[Tensor, "n c b t"]) -> Float[Tensor, "n c2 b t"]:
        loud = x.amax(2, keepdim=True)
        mean = (loud * x).sum(3, keepdim=True) / loud.sum(3, keepdim=True).clamp(min=1e-3)
        return torch.cat([x, loud * (x - mean)], 1)


def _blocks(
    shape: tuple[int, ...], width: int, norm: Norm, pools: str, *, steps: int = 0, dropout: float = 0.0
) -> OrderedDict[str, nn.Module]:
    """Returns one block per letter of `pools`.

    p: 2x2 max-pool. h: the same with half the width. s: as h, with a convolution of stride 2. f: 2x1 max-pool.
    d: no pool, twice the width. A dot: no pool.
    """
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
    """Stores the kernels of `net` channels-last, in place; returns `net`."""
    for p in net.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
    return net
