"""Finds a run's checkpoint and loads its weights into a learner."""

from pathlib import Path

from torch import Tensor

from upstairs.core import Learner
from upstairs.errors import UpstairsError


def checkpoint_in(folder: Path) -> Path | None:
    """Returns the checkpoint that was best on the validation tasks, or else the last one; None if there is none."""
    return next((folder / n for n in ("best.safetensors", "last.safetensors") if (folder / n).is_file()), None)


def load_weights(learner: Learner, tensors: dict[str, Tensor], where: Path) -> None:
    """Copies a checkpoint's weights into a learner of the same shape.

    Raises:
        UpstairsError: a weight of another name or shape.
    """
    weights = {k.removeprefix("learner."): v for k, v in tensors.items() if k.startswith("learner.")}
    own = learner.state_dict()
    shapes = [{name: tuple(value.shape) for name, value in one.items()} for one in (weights, own)]
    wrong = sorted(name for name in weights.keys() | own.keys() if shapes[0].get(name) != shapes[1].get(name))
    if wrong:
        there, here = (one.get(wrong[0], "missing") for one in shapes)
        more = f" ({len(wrong) - 1} more differ)" * (len(wrong) > 1)
        raise UpstairsError(
            f"the weights in {where} do not fit the learner: '{wrong[0]}' is {there} there and {here} here{more}; make "
            "the learner and its network as in that training, or train again in another folder"
        )
    learner.load_state_dict(weights)
