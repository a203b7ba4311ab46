"""The data of `intents.py` and `intents_setfit.py`: CLINC150 with the same examples and the official test set."""

import json
from pathlib import Path

import numpy as np

Pairs = list[tuple[str, str]]  # text and intent


def read(data: Path, part: str) -> Pairs:
    """A list of `data_full.json`: train, test, oos_test."""
    return [(text, intent) for text, intent in json.loads((data / "data_full.json").read_text())[part]]


def chosen_examples(data: Path, shot: int, seed: int) -> Pairs:
    """`shot` training examples of each intent, drawn at random."""
    pairs, generator = read(data, "train"), np.random.default_rng(seed)
    by_intent: dict[str, Pairs] = {}
    for pair in pairs:
        by_intent.setdefault(pair[1], []).append(pair)
    return [own[i] for _, own in sorted(by_intent.items()) for i in generator.permutation(len(own))[:shot]]


def test_set(data: Path) -> Pairs:
    """The official one: 30 texts of each intent."""
    return read(data, "test")
