"""Finds a run's checkpoint and loads its weights into a learner."""

from pathlib import Path

from torch import Tensor

from upstairs.core import Learner
from upstairs.errors import UpstairsError


def checkpoint_in(folder: Path) -> Path | None:
    """Returns the checkpoint that was best on the validation tasks, or else the last one; None if there is none."""
    return next((folder / n for n in ("best.safetensors", "last.safetensors") if (folder / n).is_file()), None)


def load_weights(learner: Learner, tensors: dict[str, Tensor], where: Path) -> None:
    """Copies a checkpoint's weights into a learner of the same shape."""
    weights = {k.removeprefix("learner."): v for k, v in tensors.items() if k.startswith("learner.")}
    try:
        learner.load_state_dict(weights)
    except RuntimeError as error:
        raise UpstairsError(f"the weights in {where} do not fit their own settings ({error}): train again") from error
