"""The layers of sequence learners against loops, torch's own, and finite differences."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from upstairs.nets.sequence import Attention, Dense, LSTMCell, Slots, Snail, Transformer, read, sees, write


def test_attention_is_the_loop() -> None:
    torch.manual_seed(0)
    layer, z = Attention(6, 8, 4, heads=2), torch.randn(7, 6)
    nn.init.normal_(layer.query.weight)
    see = sees(torch.tensor([False, True, True, True]), 3, causal=True)
    q, k, v = (part(z).detach() for part in (layer.query, layer.key, layer.value))
    for i in range(7):
        expected = []
        for head in range(2):
            a, b = slice(4 * head, 4 * head + 4), slice(2 * head, 2 * head + 2)
            seen = [j for j in range(7) if see[i, j]]
            weight = [math.exp(float(q[i, a] @ k[j, a]) / 2) for j in seen]
            expected.append(sum(w * v[j, b] for w, j in zip(weight, seen, strict=True)) / sum(weight))
        torch.testing.assert_close(layer(z, see)[i], torch.cat(expected), rtol=1e-5, atol=1e-5)


def test_dense_is_conv1d() -> None:
    """On a support set and one query: a causal convolution of kernel 2 (the paper's)."""
    torch.manual_seed(0)
    layer, z = Dense(5, 3, dilation=2), torch.randn(9, 5)
    kernel = torch.stack([layer.past.weight, layer.now.weight], -1)
    a, b = F.conv1d(F.pad(z.T[None], (2, 0)), kernel, layer.now.bias, dilation=2)[0].T.chunk(2, -1)
    mask = torch.ones(8, dtype=torch.bool)
    torch.testing.assert_close(layer(z, mask), torch.cat([z, a.tanh() * b.sigmoid()], -1))


def test_snail_is_causal_and_queries_are_apart() -> None:
    torch.manual_seed(0)
    net, z, mask = Snail(5, length=7, filters=8, out=3), torch.randn(9, 5), torch.ones(6, dtype=torch.bool)
    for t in range(9):
        changed = z.clone()
        changed[t] += 1
        differs = (net(changed, mask) != net(z, mask)).any(-1)
        assert differs[t] and not differs[:t].any()
        assert t < 6 or differs.sum() == 1  # no query sees another
    assert (net(z + F.one_hot(torch.tensor(0), 9)[:, None], mask) != net(z, mask))[6:].any(-1).all()


def test_transformer_has_no_order_and_queries_are_apart() -> None:
    torch.manual_seed(0)
    net, mask = Transformer(5, width=8, layers=2, heads=2, out=3), torch.ones(6, dtype=torch.bool)
    z = torch.randn(9, 5)
    shuffled = z[torch.tensor([3, 1, 5, 0, 2, 4, 6, 7, 8])]
    torch.testing.assert_close(net(shuffled, mask)[6:], net(z, mask)[6:])
    changed = z.clone()
    changed[7] += 1
    assert (net(changed, mask) != net(z, mask)).any(-1).tolist() == [False] * 7 + [True, False]


def test_cell_is_torchs() -> None:
    torch.manual_seed(0)
    own, theirs = LSTMCell(5, 4).double(), nn.LSTMCell(5, 4).double()
    with torch.no_grad():
        theirs.weight_ih.copy_(own.input.weight), theirs.weight_hh.copy_(own.hidden.weight)
        theirs.bias_ih.copy_(own.input.bias), theirs.bias_hh.zero_()
    x, h, c = (torch.randn(3, k).double() for k in (5, 4, 4))
    for a, b in zip(own(x, h, c), theirs(x, (h, c)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_memory_is_the_papers() -> None:
    """Equations 2 to 8 of Santoro et al. 2016 in numpy, over a stream longer than the memory."""
    rng = np.random.default_rng(0)
    gate, scale, decay, slots = 0.3, 4.0, 0.99, 4
    memory, usage, last = np.zeros((slots, 5)), np.zeros(slots), np.zeros(slots)
    own = Slots(*(torch.from_numpy(a.copy()) for a in (memory, usage, last)))
    one = torch.tensor(1.0, dtype=torch.double)
    for _ in range(9):
        row, key = rng.normal(size=5), rng.normal(size=3)
        least = int(np.argmin(usage))
        weight = gate * last
        weight[least] += 1 - gate
        memory[least] = 0
        for i in range(slots):
            memory[i] = memory[i] + weight[i] * row
        cosine = [m[:3] @ key / max(np.linalg.norm(m[:3]), 1e-6) / np.linalg.norm(key) for m in memory]
        last = np.exp(scale * np.array(cosine)) / np.exp(scale * np.array(cosine)).sum()
        usage = decay * usage + last + weight
        own = write(own, torch.from_numpy(row), gate * one, one, decay=decay)
        found, own = read(own, torch.from_numpy(key), scale * one)
        np.testing.assert_allclose(found.numpy(), last @ memory, rtol=1e-9)
        np.testing.assert_allclose(own.usage.numpy(), usage, rtol=1e-9)
        np.testing.assert_allclose(own.rows.numpy(), memory, rtol=1e-9)


def test_second_order() -> None:
    torch.manual_seed(0)
    layer, cell = Attention(3, 4, 2, heads=2).double(), LSTMCell(3, 2).double()
    see = sees(torch.tensor([False, True, True]), 2, causal=True)
    z = torch.randn(5, 3, dtype=torch.double, requires_grad=True)

    def unrolled(x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(2)
        for step in x:
            h, c = cell(step, h, c)
        return h

    for function in (lambda x: layer(x, see), unrolled):
        assert torch.autograd.gradcheck(function, (z,))
        assert torch.autograd.gradgradcheck(function, (z,))
