"""The input shapes and the embedding size of an encoder, found by running it."""

import torch
from torch import Tensor, nn

from upstairs.core import evaluating
from upstairs.errors import UpstairsError

Shape = tuple[int, ...]
SIDES = (64, 96)  # an encoder whose embeddings are equally long for both is assumed to do so for any input size


def example_inputs(net: nn.Module, shape: Shape | None = None) -> list[Tensor]:
    """Returns zeros as inputs of `net`: one of `shape`, or without a shape those that its first layer accepts."""
    first = next((m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)), None)
    like = next(net.parameters(), torch.zeros(()))
    shapes: list[Shape] = [shape] if shape is not None else []
    if shape is None and isinstance(first, nn.Linear):
        shapes = [(first.in_features,)]
    elif shape is None and isinstance(first, nn.Conv1d | nn.Conv2d):
        channels, axes = first.in_channels, 2 if isinstance(first, nn.Conv2d) else 1
        shapes = [(channels, *(side,) * axes) for side in SIDES]
    return [torch.zeros(1, *one, dtype=like.dtype, device=like.device) for one in shapes]


def embedding_size(encoder: nn.Module, shape: Shape | None = None) -> int:
    """Returns the number of values in one embedding, found by embedding zeros.

    Args:
        encoder: any module from inputs to vectors.
        shape: shape of one input, such as (1, 28, 28). It may be None where the first layer is linear, or where the
            length of an embedding does not depend on the size of the inputs.

    Raises:
        UpstairsError: the shape is needed or does not fit, or the embeddings are not vectors.
    """
    sizes: set[Shape] = set()
    with evaluating(encoder):
        for x in example_inputs(encoder, shape):
            try:
                sizes.add(tuple(encoder(x).shape[1:]))
            except RuntimeError as error:
                if shape is not None:
                    raise UpstairsError(f"the encoder does not take inputs of shape {shape}: {error}") from error
                sizes.clear()
                break
    if len(sizes) != 1:
        raise UpstairsError(
            f"the length of the embeddings of {type(encoder).__name__} depends on its inputs: give the `shape` of one "
            "input, such as shape=(1, 28, 28)"
        )
    (found,) = sizes
    if len(found) != 1:
        raise UpstairsError(
            f"{type(encoder).__name__} gives embeddings of shape {found} and vectors are needed: let it end with "
            "nn.Flatten()"
        )
    return found[0]
