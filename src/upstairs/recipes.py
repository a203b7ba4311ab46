"""Named experiments, and the kinds of data there are."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Settings worth a name; `upstairs train` takes each of them as an option."""

    summary: str
    settings: dict[str, Any]


DATA: dict[str, str] = {
    "glyphs": "characters of many scripts drawn from installed fonts; always there, split by script",
    "folder": "class/picture or group/class/picture; with train, val and test folders on top if you have them",
    "zip": "the same in a zip, read without unpacking",
    "omniglot": "the folder with images_background.zip, images_evaluation.zip and splits/vinyals, or one zip alone",
    "cifar": "the folder with sheets/ and splits/: --split cifar-fs or fc100",
    "arrays": "in Python: Source.from_arrays(x, y)",
}

RECIPES: dict[str, Recipe] = {
    "demo_protonet": Recipe(
        "the demo's metric learner: 60-way training on glyphs", {"learner": "protonet", "data": "glyphs", "way": 60}
    ),
    "demo_maml": Recipe("the demo's gradient learner on glyphs", {"learner": "maml", "data": "glyphs"}),
    "omniglot_protonet": Recipe(
        "60-way training on Omniglot's Vinyals split (Snell 2017), 15 minutes",
        {"learner": "protonet", "way": 60, "minutes": 15.0},
    ),
    "omniglot_maml": Recipe(
        "5-way training on Omniglot, one inner step (Finn 2017)", {"learner": "maml", "minutes": 20.0}
    ),
}
