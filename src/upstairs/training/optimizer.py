"""The device and the optimiser of the outer loop."""

from typing import Any

import torch

from upstairs.errors import UpstairsError
from upstairs.settings import Settings


def choose_device(asked: str) -> torch.device:
    """Returns the device of a setting: `auto` is CUDA if available.

    Raises:
        UpstairsError: `cuda` without a CUDA device, or `mps` without Apple's GPU.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(asked, True):
        needs = "install torch with CUDA" if asked == "cuda" else "use a Mac with Apple silicon, whose torch has MPS"
        raise UpstairsError(f"`device` is {asked} and torch finds none: leave it out, or {needs}")
    return torch.device(asked if asked != "auto" else "cuda" if there["cuda"] else "cpu")


def make_optimizer(parameters: Any, settings: Settings) -> torch.optim.Optimizer:
    """Returns the optimiser of the outer loop, for parameters or groups of them."""
    rate, decay = settings.lr, settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    fast = settings.optimizer == "momentum"
    return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=0.9 * fast, nesterov=fast)
