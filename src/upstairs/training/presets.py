"""Named experiments, and the kinds of data there are."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Settings worth a name: `upstairs train NAME` takes them, and options beside it change some."""

    summary: str
    settings: dict[str, Any]


DATA: dict[str, str] = {
    "glyphs": "characters of many scripts drawn from installed fonts; always there, split by script",
    "folder": "class/picture or group/class/picture; with train, val and test folders on top if you have them; "
    "or images/ beside train.csv, val.csv and test.csv (mini-ImageNet)",
    "zip": "the same in a zip, read without unpacking",
    "omniglot": "the folder with images_background.zip, images_evaluation.zip and splits/vinyals, or one zip alone",
    "cifar": "the folder with sheets/ and splits/: --split cifar-fs or fc100",
    "table": "texts: a .csv, .tsv, .jsonl or .parquet with a column of texts and one of labels (--columns TEXT,LABEL)",
    "texts": "a folder with a folder of .txt files for each class, or CLINC150's with data_full.json",
    "languages": "texts: which language is it? names of things in 140 languages (needs Babel, extra [text])",
    "sounds": "recordings as class/file, in a folder or a zip, or named by an index.tsv (needs extra [audio])",
    "sinusoid": "regression: a sinusoid for each task (Finn 2017)",
    "gp": "regression: a function of a Gaussian process for each task, whose best possible answer is known",
    "arrays": "in Python: Source.from_arrays(x, y)",
}

PRESETS: dict[str, Preset] = {
    "demo_protonet": Preset(
        "the demo's metric learner: 60-way training on glyphs, 48 channels",
        {"learner": "protonet", "data": "glyphs", "way": 60, "width": 48, "minutes": 1.9},
    ),
    "demo_maml": Preset(
        "the demo's gradient learner on glyphs, 16 channels",
        {"learner": "maml", "data": "glyphs", "width": 16, "lr": 4e-3, "minutes": 0.6},
    ),
    "demo_texts": Preset(
        "the demo of texts: which language is it? (needs Babel)",
        {"learner": "protonet", "data": "languages", "way": 20, "query": 10, "minutes": 2.5},
    ),
    "demo_sounds": Preset(
        "the demo of sounds: --data with a folder of recordings, or words that eSpeak NG says",
        {"learner": "protonet", "minutes": 2.5},
    ),
    "omniglot_protonet": Preset(
        "60-way training (Snell 2017) in 15 minutes; add --data with the folder of Omniglot",
        {"learner": "protonet", "way": 60, "minutes": 14.3},
    ),
    "omniglot_maml": Preset(
        "5-way training, one inner step (Finn 2017), in an hour; add --data with the folder of Omniglot",
        {
            "learner": "maml",
            "lr": 4e-3,
            "inner_lr": 0.1,
            "mirror_classes": True,
            "train_on_validation": True,
            "minutes": 58,
        },
    ),
}
