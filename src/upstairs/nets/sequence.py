"""Networks that read a set or a stream: attention, causal convolution, a recurrent cell, a memory.

Networks of a whole task take `tokens` [m + n, d]: the first m are the support set (`mask` marks the real ones; padding
comes first), the rest are queries. Every query has the position after the support set, and sees no other query.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


def sees(mask: Bool[Tensor, " m"], queries: int, *, causal: bool) -> Bool[Tensor, "t t"]:
    """Returns the attention mask: all see the real support examples (`causal`: those before them) and themselves."""
    m = len(mask)
    own = torch.eye(m + queries, dtype=torch.bool, device=mask.device)
    before = torch.ones(m, m, dtype=torch.bool, device=mask.device).tril() if causal else own.new_ones(m, m)
    before = torch.cat([before, own.new_ones(queries, m)])
    return own | F.pad(before & mask, (0, queries))


def attend(
    query: Float[Tensor, "*b n k"], key: Float[Tensor, "*b m k"], value: Float[Tensor, "*b m v"],
    see: Bool[Tensor, "*c m"], *, heads: int, bias: Float[Tensor, "*h n m"] | float = 0.0,
) -> Float[Tensor, "*b n v"]:  # fmt: skip
    """Computes multi-head scaled dot-product attention (Vaswani et al. 2017), unfused: twice differentiable.

    a = softmax over the visible keys of (q k^T / sqrt(d) + bias),   output = a v
    """
    q, k, v = (r.reshape(*r.shape[:-1], heads, -1).transpose(-3, -2) for r in (query, key, value))
    score = q @ k.transpose(-2, -1) / math.sqrt(k.shape[-1]) + bias
    see = see[..., None, :, :] if see.ndim > 2 else see  # the same for all heads
    weight = torch.where(see, score, torch.finfo(score.dtype).min).softmax(-1)
    return (weight @ v).transpose(-3, -2).reshape(*query.shape[:-1], -1)


class Attention(nn.Module):
    """Self-attention of a set. Query and key maps start equal, so that similar elements attend to each other."""

    def __init__(self, size: int, key: int, value: int, *, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(size, key, bias=False), nn.Linear(size, key, bias=False)
        self.value = nn.Linear(size, value)
        nn.init.orthogonal_(self.key.weight, gain=1.5)  # sharp enough to separate support examples at the start
        self.query.load_state_dict(self.key.state_dict())

    def forward(self, z: Float[Tensor, "*b t d"], see: Bool[Tensor, "*c t"]) -> Float[Tensor, "*b t v"]:
        return attend(self.query(z), self.key(z), self.value(z), see, heads=self.heads)


class Transformer(nn.Module):
    """A pre-norm transformer: residual blocks of attention and of a two-layer network."""

    def __init__(self, tokens: int, *, width: int, layers: int, heads: int, out: int) -> None:
        super().__init__()
        self.enter = nn.Linear(tokens, width)
        self.attention = nn.ModuleList(Attention(width, width, width, heads=heads) for _ in range(layers))
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers + 1))
        self.forth = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(layers))
        self.back = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(layers))
        self.head = nn.Linear(width, out)

    def forward(self, tokens: Float[Tensor, "t d"], mask: Bool[Tensor, " m"]) -> Float[Tensor, "t out"]:
        return self.read(tokens, sees(mask, len(tokens) - len(mask), causal=False))

    def read(self, tokens: Float[Tensor, "*b t d"], see: Bool[Tensor, "*c t"]) -> Float[Tensor, "*b t out"]:
        """Reads one set or several, with an attention mask `see`."""
        z = self.enter(tokens)
        for i, attention in enumerate(self.attention):
            z = z + attention(self.norm[2 * i](z), see)
            z = z + self.back[i](F.gelu(self.forth[i](self.norm[2 * i + 1](z))))
        return self.head(self.norm[-1](z))


class Dense(nn.Module):
    """SNAIL's dense block: [x, tanh(a) * sigmoid(b)], a and b causal convolutions of kernel 2 (Mishra et al. 2018)."""

    def __init__(self, size: int, filters: int, *, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.now, self.past = nn.Linear(size, 2 * filters), nn.Linear(size, 2 * filters, bias=False)

    def forward(self, z: Float[Tensor, "t d"], mask: Bool[Tensor, " m"]) -> Float[Tensor, "t e"]:
        m = len(mask)
        real = torch.where(mask[:, None], z[:m], 0.0)
        zeros = torch.zeros_like(real[:1]).expand(self.dilation, -1)
        before = torch.cat([zeros, real])[: m + 1]  # row i: the token `dilation` before position i
        before = torch.cat([before[:m], before[m:].expand(len(z) - m, -1)])
        a, b = (self.now(z) + self.past(before)).chunk(2, -1)
        return torch.cat([z, a.tanh() * b.sigmoid()], -1)


class Snail(nn.Module):
    """Attention and temporal convolution in turn, outputs concatenated to inputs (Mishra et al. 2018, section 3).

    Attention(64, 32), TC(128), Attention(256, 128), TC(128), Attention(512, 256), a linear layer, as in the paper's
    appendix for Omniglot. A TC is dense blocks of dilation 1, 2, 4 ... until they reach back over `length` positions.
    """

    def __init__(self, tokens: int, *, length: int, filters: int = 128, out: int) -> None:
        super().__init__()
        self.blocks, size = nn.ModuleList(), tokens
        for key, value in ((filters // 2, filters // 4), (2 * filters, filters), (4 * filters, 2 * filters)):
            self.blocks.append(Attention(size, key, value))
            size += value
            if key == 4 * filters:
                break
            for i in range(max(1, math.ceil(math.log2(length)))):
                self.blocks.append(Dense(size, filters, dilation=2**i))
                size += filters
        self.head = nn.Linear(size, out)

    def forward(self, tokens: Float[Tensor, "t d"], mask: Bool[Tensor, " m"]) -> Float[Tensor, "t out"]:
        see, z = sees(mask, len(tokens) - len(mask), causal=True), tokens
        for block in self.blocks:
            z = torch.cat([z, block(z, see)], -1) if isinstance(block, Attention) else block(z, mask)
        return self.head(z)


class LSTMCell(nn.Module):
    """One step of an LSTM (Hochreiter and Schmidhuber 1997), built of linear layers so that vmap supports it."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.input, self.hidden = nn.Linear(size, 4 * hidden), nn.Linear(hidden, 4 * hidden, bias=False)

    def forward(
        self, x: Float[Tensor, "*n d"], h: Float[Tensor, "*n e"], c: Float[Tensor, "*n e"]
    ) -> tuple[Float[Tensor, "*n e"], Float[Tensor, "*n e"]]:
        i, f, g, o = (self.input(x) + self.hidden(h)).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class Slots(NamedTuple):
    """The rows of a memory, the usage of each, and the read weights of the last step."""

    rows: Float[Tensor, "slot d"]
    usage: Float[Tensor, " slot"]
    read: Float[Tensor, " slot"]


def write(
    slots: Slots, row: Float[Tensor, " d"], gate: Float[Tensor, ""], told: Float[Tensor, ""], *, decay: float = 0.99
) -> Slots:
    """Least recently used access (Santoro et al. 2016, equations 5 to 8).

    w = gate * (last read weights) + (1 - gate) * (1 at the least used row, which is cleared first). w times `row` is
    added to every row, and w to its usage. Where `told` is 0 nothing is written.
    """
    least = F.one_hot(slots.usage.argmin(-1), len(slots.usage)).to(row.dtype)
    weight = told * (gate * slots.read + (1 - gate) * least)
    rows = slots.rows * (1 - told * least)[:, None] + weight[:, None] * row
    return Slots(rows, decay * slots.usage + weight, slots.read)


def unit(rows: Float[Tensor, "*n k"]) -> Float[Tensor, "*n k"]:
    """Scales rows to length 1; zeros stay. (F.normalize has no rule for stacked tasks, and every step calls this.)"""
    return rows / (rows.square().sum(-1, keepdim=True) + 1e-12).sqrt()


def read(slots: Slots, key: Float[Tensor, " k"], scale: Float[Tensor, ""]) -> tuple[Float[Tensor, " d"], Slots]:
    """Reads by the softmax of scale * cosine of `key` and the start of each row; the weights are added to the usage."""
    rows = slots.rows[:, : len(key)]
    weight = (scale * unit(rows) @ unit(key)).softmax(-1)
    return weight @ slots.rows, Slots(slots.rows, slots.usage + weight, weight)
