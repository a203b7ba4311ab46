"""RNN, GRU and LSTM by their cells: torch's fused kernels have no second derivative and no vmap rule.

LSTM (Hochreiter and Schmidhuber 1997):  i, f, g, o = W x + b + R h + c;   c' = f c + i g;   h' = o tanh(c')
GRU (Cho et al. 2014):                   r, z, n;   n = tanh(W_n x + r * (R_n h));   h' = (1 - z) n + z h
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from upstairs.functional.batching.tensor import batching_rule

Cell = Callable[..., tuple[Tensor, ...]]  # (W x + b, state, R, c) -> next state, its first the output


def _lstm(gates: Tensor, state: tuple[Tensor, ...], recurrent: Tensor, bias: Any) -> tuple[Tensor, ...]:
    h, c = state
    i, f, g, o = (gates + F.linear(h, recurrent, bias)).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(gates: Tensor, state: tuple[Tensor, ...], recurrent: Tensor, bias: Any) -> tuple[Tensor, ...]:
    (h,) = state
    xr, xz, xn = gates.chunk(3, -1)
    hr, hz, hn = F.linear(h, recurrent, bias).chunk(3, -1)
    z = torch.sigmoid(xz + hz)
    n = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
    return ((1 - z) * n + z * h,)


def _plain(activation: Callable[[Tensor], Tensor]) -> Cell:
    def cell(gates: Tensor, state: tuple[Tensor, ...], recurrent: Tensor, bias: Any) -> tuple[Tensor, ...]:
        return (activation(gates + F.linear(state[0], recurrent, bias)),)

    return cell


_CELLS: dict[str, Cell] = {"lstm": _lstm, "gru": _gru, "rnn_tanh": _plain(torch.tanh), "rnn_relu": _plain(torch.relu)}


def _layers(cell: Cell, many: bool) -> Callable[..., Any]:
    def run(
        x: Tensor, hx: Any, weights: Any, biases: bool, layers: int, dropout: float, training: bool,
        bidirectional: bool, batch_first: bool = False,
    ) -> Any:  # fmt: skip
        """x: [time, n, d], or [n, time, d] where batch_first; hx: [layers * directions, n, hidden], twice for LSTM."""
        if isinstance(x, Tensor) and not isinstance(batch_first, bool):
            return NotImplemented  # packed sequences
        x = x.transpose(0, 1) if batch_first else x
        starts = hx if many else (hx,)
        directions, each = 2 if bidirectional else 1, 4 if biases else 2
        ends: list[tuple[Tensor, ...]] = []
        for layer in range(layers):
            outputs = []
            for direction in range(directions):
                k = layer * directions + direction
                w, r, *b = weights[each * k : each * (k + 1)]
                gates = F.linear(x, w, b[0] if b else None)
                state = tuple(s[k] for s in starts)
                steps = range(x.shape[0])
                seen = []
                for t in reversed(steps) if direction else steps:
                    state = cell(gates[t], state, r, b[1] if b else None)
                    seen.append(state[0])
                outputs.append(torch.stack(seen[::-1] if direction else seen))
                ends.append(state)
            x = torch.cat(outputs, -1) if bidirectional else outputs[0]
            if dropout and training and layer < layers - 1:
                x = F.dropout(x, dropout)
        last = tuple(torch.stack(list(column)) for column in zip(*ends, strict=True))
        return (x.transpose(0, 1) if batch_first else x, *last)

    return run


def _one(cell: Cell, many: bool) -> Callable[..., Any]:
    def run(x: Tensor, hx: Any, w: Tensor, r: Tensor, b: Any = None, c: Any = None) -> Any:
        state = cell(F.linear(x, w, b), tuple(hx) if many else (hx,), r, c)
        return state if many else state[0]

    return run


for _name, _cell in _CELLS.items():
    batching_rule(getattr(torch, _name))(_layers(_cell, _name == "lstm"))
    batching_rule(getattr(torch, f"{_name}_cell"))(_one(_cell, _name == "lstm"))
