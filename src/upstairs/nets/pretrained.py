"""A pretrained transformer as a network to go on training."""

import copy
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.data.text.embeddings import load_encoder
from upstairs.errors import UpstairsError
from upstairs.functional.differentiate import raw_of

TRAINED = 2  # of the last layers
PART = 32  # texts that go through it together


class PretrainedTransformer(nn.Module):
    """The mean over the tokens of a text (or its first token), as a vector of length sqrt(size).

    Only the last layers are trained: those before them know the language, and hold most of the computing.

    Args:
        model: a folder, or a name that `transformers` knows.
        trained: how many of the last layers change; 0 is the frozen transformer.

    Raises:
        UpstairsError: it has not so many layers.
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
        order = lengths.argsort()  # texts alike in length together: little padding
        parts = [self.read(ids[rows, : int(lengths[rows].max().clamp(min=1))]) for rows in order.split(PART)]
        return torch.cat(parts)[order.argsort()]

    def read(self, ids: Float[Tensor, "n length"]) -> Float[Tensor, "n size"]:
        """Texts padded to one length."""
        real = ids > 0
        outside = torch.zeros_like(ids).masked_fill(~real, torch.finfo(ids.dtype).min)[:, None, None, :]
        words = (ids - 1).clamp(min=0).long()
        hidden = self.network(input_ids=words, attention_mask=outside.expand(-1, 1, ids.shape[1], -1)).last_hidden_state
        mask = real[..., None].to(hidden.dtype)
        pooled = hidden[:, 0] if self.by_first else (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return F.normalize(pooled, dim=-1) * pooled.shape[-1] ** 0.5


def lengths_of(ids: Tensor) -> Tensor | None:
    """Tokens of each text, where values can be read and there are any."""
    raw = raw_of(ids)
    if type(raw) is not Tensor or torch._C._are_functorch_transforms_active() or raw.numel() == 0:
        return None
    return (raw > 0).sum(-1)


def layers_of(network: nn.Module) -> nn.ModuleList:
    """The stack of a transformer's layers: the longest list of modules that are of one kind."""
    stacks = [m for m in network.modules() if isinstance(m, nn.ModuleList) and len({type(c) for c in m}) == 1]
    if not stacks:
        raise UpstairsError(
            f"{type(network).__name__} has no stack of layers: use its frozen features (`net` projection)"
        )
    return max(stacks, key=len)


def pretrained_transformer(model: str | None, *, out: int | None = None) -> nn.Sequential:
    """`PretrainedTransformer`, with a last linear layer named `head` where `out` is given."""
    if not model:
        raise UpstairsError("`net` pretrained needs `encoder`: the folder or the name of a transformer to start from")
    body = PretrainedTransformer(model)
    layers: OrderedDict[str, Any] = OrderedDict(pretrained=body)
    if out is not None:
        layers["head"] = nn.Linear(body.network.config.hidden_size, out)
    return nn.Sequential(layers)
