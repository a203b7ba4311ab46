"""Small folders of pictures and short runs, for tests of the trainer and the command line."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from upstairs.data.source import InputFormat
from upstairs.learners import seeded_learner
from upstairs.learners.registry import entry
from upstairs.settings import COMMON, Settings, options_in
from upstairs.training import trainer
from upstairs.training.inputs import Inputs
from upstairs.training.run import Run


def draw_folder(path: Path, *, classes: int = 12, examples: int = 8, seed: int = 0, size: int = 20) -> Path:
    """Class folders of noisy pictures: each class has its own pattern, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    for c in range(classes):
        folder = path / f"class{c:02d}"
        folder.mkdir(parents=True)
        pattern = rng.uniform(0, 255, (5, 5)).repeat(size // 5, 0).repeat(size // 5, 1)
        for e in range(examples):
            noisy = np.clip(pattern + rng.normal(0, 20, pattern.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"{e}.png")
    return path


def mini_folder(path: Path, *, classes: int = 9, examples: int = 8, side: int = 90) -> Path:
    """A folder in mini-ImageNet's layout, a colour for each class: a third of the classes in each list."""
    (path / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for place, part in enumerate(("train", "val", "test")):
        rows = ["filename,label"]
        for c in range(place, classes, 3):
            colour = rng.uniform(0, 255, 3)
            for e in range(examples):
                picture = np.clip(colour + rng.normal(0, 20, (side, side + 10, 3)), 0, 255).astype(np.uint8)
                name = f"n{c:08d}{e:08d}.jpg"
                Image.fromarray(picture).save(path / "images" / name)
                rows.append(f"{name},n{c:08d}")
        (path / f"{part}.csv").write_text("\n".join(rows) + "\n")
    return path


SMALL = ["--width", "4", "--way", "3", "--query", "2", "--shot", "1", "--validations", "2", "--validation-tasks", "4"]

Call = Callable[..., tuple[int, str, str]]  # the command line in this process: exit status, standard output, error


def settings_of(learner: str, **values: object) -> Settings:
    """Settings with their own defaults in place of the learner's; options that this learner does not have are left out.

    The kind of task is that of `way`: None for regression, 1 for generation.
    """
    kind = entry(learner).options
    kinds = {None: "regression", 1: "generation"}
    own = {name: value for name, value in values.items() if name in options_in(kind)}
    common = {name: value for name, value in values.items() if name in COMMON}
    task_kind = kinds.get(values.get("way", 5), "classification")
    return Settings(learner=learner, own=kind(**own), task_kind=task_kind, **common)


def count_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Each of the two looks that a step takes at the clock lasts this long, so that minutes are a number of steps."""
    looks = count(1)
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: seconds * next(looks)))


def untrained(shape: tuple[int, ...] = (4,), format: InputFormat | None = None, **values: Any) -> Run:
    """A run as it is before its first step, on arrays of this shape or on inputs of a format."""
    shape = format.shape if format else shape
    nets = {"image": "conv4", "text": "bag", "audio": "sound"}
    net = nets[format.kind] if format else "mlp" if len(shape) == 1 else "conv4"
    common = {
        "learner": "protonet",
        "way": 3,
        "net": net,
        "norm": "none" if net in ("mlp", "bag") else "group",
        "width": 8,
    }
    settings = settings_of(**{**common, **values})
    learner = seeded_learner(settings, shape, settings.way).eval()
    return Run(Path("run"), learner, settings, Inputs(shape, format), {})
