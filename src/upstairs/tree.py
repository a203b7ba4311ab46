"""The few operations on pytrees of tensors in use."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


def take(tree: Any, index: int | slice) -> Any:
    """Index every leaf's first axis: one task (int) or fewer tasks (slice) of a batch."""
    return tree_map(lambda leaf: leaf[index], tree)


def stack(trees: list[Any]) -> Any:
    """Equal trees of equal shapes into one tree with a new first axis."""
    return tree_map(lambda *leaves: torch.stack(leaves), *trees)


def detach(tree: Any) -> Any:
    return tree_map(torch.detach, tree)


def leaves(tree: Any) -> list[Tensor]:
    return tree_leaves(tree)
