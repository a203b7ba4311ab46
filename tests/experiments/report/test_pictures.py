import base64
import io

import numpy as np
import pytest
from PIL import Image

from upstairs.errors import UpstairsError
from upstairs.experiments.report.figures import encode_picture


def decode(address: str) -> Image.Image:
    kind, _, data = address.partition(";base64,")
    assert kind in ("data:image/png", "data:image/webp")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_bright_ink_becomes_dark_ink_on_white() -> None:
    ink = np.zeros((1, 28, 28), dtype=np.uint8)
    ink[0, 3, 4] = 255
    shown = np.asarray(decode(encode_picture(ink)))
    assert shown[3, 4] == 0 and shown[0, 0] == 255
    assert np.array_equal(np.asarray(decode(encode_picture(255 - ink))), shown)  # dark ink stays as it is


@pytest.mark.parametrize("make", [lambda x: x, lambda x: x / 255, lambda x: x.tolist()], ids=["uint8", "float", "list"])
def test_colours_are_kept(make) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 8, 9), dtype=np.uint8)
    assert np.array_equal(np.asarray(decode(encode_picture(make(colours)))), colours.transpose(1, 2, 0))


def test_floats_outside_their_range_do_not_wrap() -> None:
    shown = np.asarray(decode(encode_picture(np.array([[[-0.5, 1.5, np.nan, 1.0, 1.0]]]))))
    assert shown.tolist() == [[0, 255, 0, 255, 255]]


def test_photographs_are_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 300, 200), dtype=np.uint8)
    address = encode_picture(noise)
    assert max(decode(address).size) == 112
    assert len(address) < 20_000


@pytest.mark.parametrize("shape", [(5,), (7, 8, 8), (1, 1, 8, 8), (1, 0, 8)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UpstairsError, match="give \\[channel, height, width\\]"):
        encode_picture(np.zeros(shape, dtype=np.uint8))
