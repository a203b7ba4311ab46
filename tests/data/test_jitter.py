"""Photos mirrored and shifted at random."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from upstairs.data.episodes import Episodes
from upstairs.data.images.augment import SMALL_WARP, Jitter, crops, jittered
from upstairs.data.images.format import ImageFormat
from upstairs.data.source import Source
from upstairs.errors import UpstairsError


def test_pictures_against_a_loop() -> None:
    """numpy's own padding and slicing, one picture after another."""
    generator = torch.Generator().manual_seed(0)
    x, jitter = torch.rand(40, 3, 8, 12, generator=generator), Jitter(shift=0.25)
    drawn = jitter.draw(40, generator)
    found = jitter.apply(x, drawn)
    for picture, (mirrored, down, right), mine in zip(x.numpy(), drawn.tolist(), found.numpy(), strict=True):
        padded = np.pad(picture, ((0, 0), (2, 2), (3, 3)), mode="reflect")
        top, left = int(down * 5), int(right * 7)
        cut = padded[:, top : top + 8, left : left + 12]
        assert np.array_equal(mine, cut[:, :, ::-1] if mirrored < 0.5 else cut)


def test_a_task_is_a_function_of_its_seed_and_other_tasks_have_other_pictures() -> None:
    source = Source.from_arrays(np.arange(4 * 48, dtype=np.uint8).reshape(4, 3, 4, 4), [0, 0, 1, 1])
    episodes = Episodes(jittered(source), way=2, shot=1, query=1)
    first, again = (episodes.batch([7]).support.x for _ in range(2))
    assert torch.equal(first, again)
    assert len({tuple(episodes.batch([s]).support.x.flatten().tolist()) for s in range(40)}) > 8  # 8 without jitter


def test_ink_is_bent_and_photos_are_mirrored_and_what_cannot_be() -> None:
    with pytest.raises(UpstairsError, match="share of the picture's side"):
        Jitter(shift=1.0)
    flat = Source.from_arrays(np.zeros((4, 5), np.float32), [0, 0, 1, 1])
    with pytest.raises(UpstairsError, match="inputs of shape"):
        jittered(flat)
    photos = Source.from_arrays(np.zeros((4, 3, 4, 4), np.uint8), [0, 0, 1, 1])
    ink = Source.from_arrays(np.zeros((4, 1, 8, 8), np.uint8), [0, 0, 1, 1])
    assert jittered(replace(ink, format=ImageFormat(8, 1, ink=True))).augment == SMALL_WARP
    assert jittered(replace(ink, format=ImageFormat(8, 1, ink=False))).augment == Jitter()
    with pytest.raises(UpstairsError, match="at random already"):
        jittered(jittered(photos))


def test_ten_crops_are_the_picture_its_mirror_image_and_four_corners_of_each() -> None:
    x = torch.rand(2, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    found = [view.numpy() for view in crops(x, 10)]
    assert len(found) == 10 and len(crops(x, 1)) == 1
    corners = []
    for one in (x.numpy(), x.numpy()[..., ::-1]):
        padded = np.pad(one, ((0, 0), (0, 0), (2, 2), (1, 1)), mode="reflect")
        corners += [padded[..., d : d + 32, r : r + 16] for d in (0, 4) for r in (0, 2)]
    for mine, theirs in zip(found, [x.numpy(), x.numpy()[..., ::-1], *corners], strict=True):
        assert np.array_equal(mine, theirs)
