"""Upstairs: learning to learn. Train on a distribution of tasks, solve a new one from a handful of examples.

run = upstairs.load("RUN"); model = run.adapt("my_classes/"); model.predict(["picture.png"])
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

__version__ = version("upstairs")

if TYPE_CHECKING:
    from upstairs.core import Examples, Learner, Task
    from upstairs.errors import UpstairsError
    from upstairs.experiments.compare import compare
    from upstairs.training.model import Model, load_adapted
    from upstairs.training.run import Run, load
    from upstairs.training.train import train

_HOME = {
    "Examples": "core",
    "Learner": "core",
    "Task": "core",
    "UpstairsError": "errors",
    "Model": "training.model",
    "Run": "training.run",
    "compare": "experiments.compare",
    "load": "training.run",
    "load_adapted": "training.model",
    "train": "training.train",
}
__all__ = ["Examples", "Learner", "Model", "Run", "Task", "UpstairsError", "compare", "load", "load_adapted", "train"]


def __getattr__(name: str) -> Any:
    """Names are imported when first used, so that `import upstairs` is instant."""
    if name not in _HOME:
        raise AttributeError(f"module 'upstairs' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"upstairs.{_HOME[name]}"), name)
