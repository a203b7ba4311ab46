"""Pretrained networks that are trained further: a transformer of texts, and any encoder of pictures or sounds."""

import copy
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm

from upstairs.encoders.base import Encoder, forward_of
from upstairs.encoders.mobile import fuse_frozen
from upstairs.encoders.open import open_encoder
from upstairs.encoders.texts import load_encoder
from upstairs.errors import UpstairsError
from upstairs.functional.differentiate import raw_of
from upstairs.nets.tuning import LAST, tune
from upstairs.settings import Tune

PART = 32  # inputs in one forward pass


class PretrainedTransformer(nn.Module):
    """Embeds a text as the mean over its last hidden states (or the first one), scaled to length sqrt(size).

    Args:
        model: a folder, or a model name of `transformers`.
        tuned: what is trained, see `tune`; None is the frozen transformer.
        last: the number of last layers that are trained, if those are.

    Raises:
        UpstairsError: the model has fewer layers, or none that could be trained in this way.
    """

    def __init__(self, model: str, *, tuned: Tune | None = "last", last: int = LAST) -> None:
        super().__init__()
        encoder = load_encoder(model)
        self.network, self.by_first = copy.deepcopy(encoder.network), encoder.by_first
        tune(self.network, tuned, lambda: self.read(torch.ones(1, 2)), last=last)

    @property
    def size(self) -> int:
        return self.network.config.hidden_size

    def forward(self, ids: Float[Tensor, "n length"]) -> Float[Tensor, "n size"]:
        if (lengths := lengths_of(ids)) is None:
            return self.read(ids)
        order = lengths.argsort()  # texts of similar length share a part: little padding
        parts = [self.read(ids[rows, : int(lengths[rows].max().clamp(min=1))]) for rows in order.split(PART)]
        return torch.cat(parts)[order.argsort()]

    def read(self, ids: Float[Tensor, "n length"]) -> Float[Tensor, "n size"]:
        """Embeds texts that are padded to one length."""
        real = ids > 0
        outside = torch.zeros_like(ids).masked_fill(~real, torch.finfo(ids.dtype).min)[:, None, None, :]
        words = (ids - 1).clamp(min=0).long()
        hidden = self.network(input_ids=words, attention_mask=outside.expand(-1, 1, ids.shape[1], -1)).last_hidden_state
        mask = real[..., None].to(hidden.dtype)
        pooled = hidden[:, 0] if self.by_first else (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return F.normalize(pooled, dim=-1) * pooled.shape[-1] ** 0.5


def lengths_of(ids: Tensor) -> Tensor | None:
    """Returns the number of tokens of each text; None where values cannot be read (vmap) or there are none."""
    raw = raw_of(ids)
    if type(raw) is not Tensor or torch._C._are_functorch_transforms_active() or raw.numel() == 0:
        return None
    return (raw > 0).sum(-1)


class PretrainedNetwork(nn.Module):
    """Embeds pictures or sounds by the network of an encoder, scaled to length sqrt(size).

    Its inputs are prepared by the encoder: bytes as shares of 1 where it has `pixels`, else the network's own inputs.
    The network always runs as it does for frozen features: running statistics stay, and nothing is dropped at random.

    Args:
        encoder: one with a network.
        shape: the shape of one input.
        tuned: what is trained, see `tune`; None is the frozen network.

    Raises:
        UpstairsError: the network cannot be trained, or has no layers of this kind.
    """

    network: Any
    factor: Tensor
    shift: Tensor

    def __init__(self, encoder: Encoder, shape: tuple[int, ...], *, tuned: Tune | None = "last") -> None:
        super().__init__()
        self.compute, self.size = forward_of(encoder), encoder.size
        network: Any = copy.deepcopy(encoder.network)
        self.network = network
        factor, shift = encoder.pixels[1:] if encoder.pixels else ((), ())
        self.register_buffer("factor", torch.tensor(factor).view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(-1, 1, 1), persistent=False)
        _differentiable_twice(network)
        tune(network, tuned, lambda: self.read(torch.zeros(1, *shape)))
        fuse_frozen(network)

    def train(self, mode: bool = True) -> "PretrainedNetwork":
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, x: Float[Tensor, "n *input"]) -> Float[Tensor, "n size"]:
        if torch.is_grad_enabled() or type(x) is not Tensor or len(x) <= PART:
            return self.read(x)
        return torch.cat([self.read(part) for part in x.split(PART)])  # bounds the memory

    def read(self, x: Float[Tensor, "n *input"]) -> Float[Tensor, "n size"]:
        x = x * self.factor + self.shift if len(self.factor) else x
        return F.normalize(self.compute(self.network, x), dim=-1) * self.size**0.5


class WeightNorm(nn.Module):
    """Weight normalisation, g v / |v|: torch's own has wrong second derivatives."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        axes = [axis for axis in range(v.ndim) if axis != self.dim]
        return v * (g / v.square().sum(axes, keepdim=True).sqrt())


def _differentiable_twice(network: nn.Module) -> None:
    """Makes a network compute attention and weight normalisation by operations that have second derivatives."""
    if callable(choose := getattr(network, "set_attn_implementation", None)):
        choose("eager")
    for module in network.modules():
        if "fused_attn" in vars(module):  # as timm calls it
            vars(module).update(fused_attn=False)
        for name, child in module.named_children():
            if isinstance(child, _WeightNorm):
                setattr(module, name, WeightNorm(child.dim))


def pretrained_body(
    encoder: str | None, shape: tuple[int, ...], *, tuned: Tune | None
) -> PretrainedTransformer | PretrainedNetwork:
    """Returns the network of an encoder, of which a part is trained (see `tune`).

    Args:
        encoder: what `upstairs.encoder` opens.
        shape: the shape of one input.
    """
    if not encoder:
        raise UpstairsError("`net` pretrained needs `encoder`: the folder or the name of a network to start from")
    found = open_encoder(encoder)
    if found.modality == "text":
        return PretrainedTransformer(encoder, tuned=tuned)
    return PretrainedNetwork(found, shape, tuned=tuned)


def pretrained_net(
    encoder: str | None, shape: tuple[int, ...], *, tuned: Tune = "last", out: int | None = None
) -> nn.Sequential:
    """Returns `pretrained_body`, with a last linear layer named `head` where `out` is given."""
    body = pretrained_body(encoder, shape, tuned=tuned)
    layers: OrderedDict[str, Any] = OrderedDict(pretrained=body)
    if out is not None:
        layers["head"] = nn.Linear(body.size, out)
    return nn.Sequential(layers)
