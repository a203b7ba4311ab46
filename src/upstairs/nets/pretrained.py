"""A pretrained text transformer as an encoder whose last layers are trained further."""

import copy
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.encoders.texts import load_encoder
from upstairs.errors import UpstairsError
from upstairs.functional.differentiate import raw_of

TRAINED = 2  # number of last layers that are trained
PART = 32  # texts in one forward pass


class PretrainedTransformer(nn.Module):
    """Embeds a text as the mean over its last hidden states (or the first one), scaled to length sqrt(size).

    Only the last layers are trained: the earlier ones know the language and cost most of the computation.

    Args:
        model: a folder, or a model name of `transformers`.
        trained: number of last layers that are trained; 0 is the frozen transformer.

    Raises:
        UpstairsError: the model has fewer layers than `trained`.
    """

    def __init__(self, model: str, *, trained: int = TRAINED) -> None:
        super().__init__()
        encoder = load_encoder(model)
        self.network, self.by_first = copy.deepcopy(encoder.network), encoder.by_first
        layers = layers_of(self.network)
        if trained > len(layers):
            raise UpstairsError(f"{model} has {len(layers)} layers: train as many of them or fewer, not {trained}")
        for p in self.network.parameters():
            p.requires_grad_(False)
        for layer in layers[len(layers) - trained :]:
            for p in layer.parameters():
                p.requires_grad_(True)

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


def layers_of(network: nn.Module) -> nn.ModuleList:
    """Returns the stack of a transformer's layers: the longest list of modules of one class."""
    stacks = [m for m in network.modules() if isinstance(m, nn.ModuleList) and len({type(c) for c in m}) == 1]
    if not stacks:
        raise UpstairsError(
            f"{type(network).__name__} has no stack of layers: use its frozen features (`net` projection)"
        )
    return max(stacks, key=len)


def pretrained_transformer(model: str | None, *, out: int | None = None) -> nn.Sequential:
    """Returns a `PretrainedTransformer`, with a last linear layer named `head` where `out` is given."""
    if not model:
        raise UpstairsError("`net` pretrained needs `encoder`: the folder or the name of a transformer to start from")
    body = PretrainedTransformer(model)
    layers: OrderedDict[str, Any] = OrderedDict(pretrained=body)
    if out is not None:
        layers["head"] = nn.Linear(body.network.config.hidden_size, out)
    return nn.Sequential(layers)
