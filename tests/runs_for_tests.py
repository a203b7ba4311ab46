"""Small folders of pictures and short runs, for tests of the trainer and the command line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


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


SMALL = ["--width", "4", "--way", "3", "--query", "2", "--shot", "1", "--validations", "2", "--validation-tasks", "4"]

Call = Callable[..., tuple[int, str, str]]  # the command line in this process: exit status, standard output, error
