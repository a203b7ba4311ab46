"""Presets: named settings. Their budgets are steps, so that results do not depend on what else a machine does."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Named settings for `upstairs train NAME`; further options override them."""

    summary: str
    settings: dict[str, Any]


PRESETS: dict[str, Preset] = {
    "demo_protonet": Preset(
        "the demo's metric learner: 60-way training on glyphs, 48 channels",
        {"learner": "protonet", "data": "glyphs", "way": 60, "width": 48, "steps": 600},
    ),
    "demo_maml": Preset(
        "the demo's gradient learner on glyphs, 16 channels",
        {"learner": "maml", "data": "glyphs", "width": 16, "lr": 4e-3, "steps": 900},
    ),
    "demo_texts": Preset(
        "the demo of texts: which language is it? (needs Babel)",
        {"learner": "protonet", "data": "languages", "way": 20, "query": 10, "steps": 1200},
    ),
    "demo_sounds": Preset(
        "the demo of sounds: --data with a folder of recordings, or words spoken by eSpeak NG",
        {"learner": "protonet", "steps": 800},
    ),
    "omniglot_protonet": Preset(
        "60-way training (Snell 2017), in 15 minutes; add --data with the folder of Omniglot",
        {"learner": "protonet", "way": 60, "steps": 3400},
    ),
    "omniglot_maml": Preset(
        "5-way training, one inner step (Finn 2017), in an hour; add --data with the folder of Omniglot",
        {
            "learner": "maml",
            "lr": 4e-3,
            "inner_lr": 0.1,
            "mirror_classes": True,
            "train_on_validation": True,
            "steps": 43_500,
        },
    ),
}
