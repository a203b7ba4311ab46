"""Torch's errors about the tensors of tasks, as sentences."""

import re

import torch
from torch import Tensor, nn

from upstairs.errors import UpstairsError
from upstairs.functional.derivatives import twice

Batch = tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]  # x, y and mask of support set and queries
_OUT_OF_RANGE = re.compile(r"out of bounds|smaller than num_classes|out of range|non-negative|Assertion", re.I)
_SHAPE = re.compile(r"mat1 and mat2|expected input|channels|Kernel size|padded input|normalized_shape|size mismatch")


class explained:
    """A context in which torch's error about a task's tensors, or a missing derivative, becomes a sentence.

    Args:
        learner: the learner that runs; its `task_kind` and `way` tell what its labels must be.
        tasks: the batch that it receives, support sets and queries.
    """

    def __init__(self, learner: nn.Module, tasks: Batch) -> None:
        self.learner, self.tasks = learner, tasks

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, RuntimeError | IndexError | ValueError | TypeError | AssertionError):
            problem = twice(str(error)) or _mismatch(self.learner, self.tasks, str(error))
            if problem and not isinstance(error, UpstairsError):
                raise UpstairsError(problem) from error


def _mismatch(learner: nn.Module, tasks: Batch, message: str) -> str:
    """Returns what does not fit in the tensors of tasks, for an error with this message; '' if nothing is found."""
    weight = next((p for p in learner.parameters() if p.is_floating_point()), None)
    for name, examples in zip(("support", "query"), tasks, strict=True):
        x, y, mask = examples
        if "Inference tensors" in message and (x.is_inference() or y.is_inference()):
            return f"`{name}` was made under torch.inference_mode, without gradients: make it outside"
        if x.shape[:2] != mask.shape or y.shape[:2] != mask.shape:
            return (
                f"`{name}.x` is {list(x.shape)}, `{name}.y` {list(y.shape)} and the mask {list(mask.shape)}: all start "
                "with [tasks, examples]"
            )
        if weight is not None and x.device != weight.device:
            return f"`{name}.x` is on {x.device} and the learner on {weight.device}: write learner.to('{x.device}')"
        own = x.dtype if weight is None else weight.dtype
        if x.dtype != own and re.search("dtype|scalar type|input type", message, re.I):
            scaled = " / 255" * (x.dtype == torch.uint8)
            return f"`{name}.x` is {x.dtype} and the network's weights {own}: write x.to({own}){scaled}"
        if learner.task_kind == "classification" and y.is_floating_point() and y.ndim == 2:
            return f"`{name}.y` is {y.dtype} and class numbers are integers: write y.long()"
        if learner.task_kind == "classification" and y.is_floating_point() and y.shape[2:] != (learner.way,):
            return f"`{name}.y` holds numbers {list(y.shape[2:])} and the learner names classes: leave `way` out"
        if not y.is_floating_point() and y.numel() and _OUT_OF_RANGE.search(message):
            return (
                f"`{name}.y` has classes from {int(y.min())} to {int(y.max())}: classes count from 0, and a learner "
                f"(`way` {learner.way}) and its network need an output for each"
            )
    a, b = (x.shape[2:] for x, _, _ in tasks)
    if a != b and learner.task_kind != "regression":
        return f"inputs of the support set are {list(a)} and those of the queries {list(b)}: give both one shape"
    if _SHAPE.search(message):
        return f"the network does not take inputs of shape {list(a)}: {message.splitlines()[0]}"
    return ""
