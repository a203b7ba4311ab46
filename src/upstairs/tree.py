"""The few operations on pytrees of tensors in use."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


def take(tree: Any, index: int | slice | Tensor) -> Any:
    """Index every leaf's first axis: one task (int) or some tasks (slice, or their places) of a batch."""
    return tree_map(lambda leaf: leaf[index], tree)


def detach(tree: Any) -> Any:
    """The same values without their history."""
    return tree_map(torch.detach, tree)
