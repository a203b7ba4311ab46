"""A run says when inputs are unlike what it was trained on; new classes of the same kind are no reason to."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import upstairs as up
from helpers.runs import Call, draw_folder
from upstairs.data.images.format import ImageFormat
from upstairs.data.images.glyphs import glyphs
from upstairs.data.source import Source
from upstairs.errors import UnfamiliarWarning
from upstairs.learners.familiar import familiar_inputs, is_unlike

ENGLISH = "the quick brown fox jumps over a lazy dog while many people walk along this old road and talk about rain"
CZECH = "příliš žluťoučký kůň úpěl ďábelské ódy proto vesele běží dnešní ráno zase domů kde čeká teplá večeře"


def sentences(words: str, count: int, seed: int) -> tuple[str, ...]:
    rng = np.random.default_rng(seed)
    return tuple(" ".join(rng.choice(words.split(), 6)) for _ in range(count))


def test_texts_in_another_language_are_unlike() -> None:
    texts = sentences(ENGLISH, 200, 0)
    source = Source(
        "talk", np.zeros((200, 1), np.float32), ("a", "b"), tuple(np.arange(200).reshape(2, 100)), texts=texts
    )
    known = familiar_inputs(source)
    assert is_unlike(known, sentences(CZECH, 8, 1))
    assert not any(is_unlike(known, sentences(ENGLISH, 8, seed)) for seed in range(2, 102))
    assert not is_unlike(known, sentences(CZECH, 4, 1))  # too few to judge
    assert not is_unlike(None, sentences(CZECH, 8, 1))


def test_photos_are_unlike_letters_and_unseen_scripts_are_not() -> None:
    """100 tasks of unseen scripts: with the 1 in 500 that were measured, more than 3 alarms come once in 1,000 runs."""
    splits, rng = glyphs(), np.random.default_rng(0)
    known = familiar_inputs(splits.train)
    alarms = 0
    for _ in range(100):
        rows = [int(rng.choice(splits.test.rows[k])) for k in rng.choice(len(splits.test), 5, replace=False)]
        alarms += is_unlike(known, splits.test.gather(torch.tensor(rows)))
    assert alarms <= 3
    grid = np.indices((64, 64)).sum(0)[..., None]
    photos = [(rng.uniform(0, 99, 3) + grid + rng.normal(0, 20, (64, 64, 3))).clip(0, 255) for _ in range(6)]
    read = [ImageFormat(28, 1, True).read(Image.fromarray(photo.astype(np.uint8))) for photo in photos]
    assert is_unlike(known, torch.from_numpy(np.stack(read)).float() / 255)


def test_a_run_warns_once_and_the_command_says_it(call: Call, tmp_path: Path) -> None:
    draw_folder(tmp_path / "letters", classes=12, examples=5, size=20)
    call("train", "protonet", "--data", tmp_path / "letters", "--out", tmp_path / "run", "--steps", 2, "--width", 4,
         "--way", 3, "--query", 2, "--validation-tasks", 4, "--quiet")  # fmt: skip
    rng = np.random.default_rng(0)
    for k in range(3):
        (tmp_path / f"noise/{k}").mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 2, (20, 20, 3), dtype=np.uint8) * 255).save(tmp_path / f"noise/{k}/{i}.png")
    run = up.load(tmp_path / "run")
    with pytest.warns(UnfamiliarWarning, match=r"unlike those that .*run was trained on \(letters\)"):
        run.adapt(tmp_path / "noise")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.adapt(tmp_path / "letters")
    status, _, err = call("adapt", tmp_path / "run", "--support", tmp_path / "noise", "--out", tmp_path / "m")
    assert status == 0 and err.count("unlike those that") == 1 and "--encoder" in err
