"""Errors about operations without a second derivative, with advice on what to use instead."""

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from upstairs.errors import UpstairsError

ONCE = (
    "a custom autograd function is marked once_differentiable, and this learner differentiates twice: write its "
    "backward with differentiable operations, or take differentiate=FirstOrder()"
)
REMEDIES = {
    "scaled_dot_product|_flash_|_efficient_attention": "torch.nn.attention.sdpa_kernel(SDPBackend.MATH) around it",
    "rnn|lstm|gru": "nn.LSTM, nn.GRU or nn.RNN called on a plain tensor, which the engine computes by their cells",
    "native_batch_norm|cudnn_batch_norm": "upstairs.nets.convert_batch_norm(net)",
    "ctc_loss": "a loss written with log_softmax and logsumexp",
    "grid_sampler|upsample|interpolate": "a strided convolution or avg_pool2d",
    "cdist": "the squared distance by a matrix product",
}


def twice(message: str) -> str | None:
    """Returns the advice for an error about a missing second derivative; None for any other error."""
    if "once_differentiable" in message:
        return ONCE
    found = re.search(r"derivative for '?(?:aten::)?(\w+)'? is not implemented", message)
    if found is None:
        return None
    name = found[1].removesuffix("_backward")
    remedy = next((text for pattern, text in REMEDIES.items() if re.search(pattern, name)), "another operation")
    return (
        f"'{name}' cannot be differentiated twice, and this learner needs it: use {remedy}, or take "
        "differentiate=FirstOrder()"
    )


def check_differentiable(losses: Tensor) -> None:
    """Raises UpstairsError for a graph with the node of `once_differentiable`, which autograd.grad silently ignores."""
    if any(node.name() == "torch::autograd::Error" for node in graph_nodes([losses])):
        raise UpstairsError(ONCE)


def graph_nodes(outputs: list[Tensor]) -> Iterator[Any]:
    """Yields every node of the graph that computed these tensors, once."""
    seen: set[Any] = set()
    todo: list[Any] = [t.grad_fn for t in outputs]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            todo.extend(parent for parent, _ in node.next_functions)
