"""The pictures of an episode, as data URIs."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from upstairs.errors import UpstairsError

LARGEST = 112  # pixels: the size at which the page shows a support picture


def encode_picture(pixels: Any) -> str:
    """A picture as a `data:image/...;base64,` address: PNG, or WebP for a photograph, which is a tenth of the size.

    Bright ink on a dark ground is turned to dark ink on white. Nothing is kept larger than it can be shown.

    Args:
        pixels: [channel, height, width] or [height, width], an array or nested lists; uint8, or floats from 0 to 1.

    Raises:
        UpstairsError: another shape.
    """
    if not is_picture(pixels):
        raise UpstairsError(
            f"a picture of the report's episode has shape {list(np.shape(pixels))}: give [channel, height, width]"
        )
    image = to_image(pixels)
    image.thumbnail((LARGEST, LARGEST))
    kind = "webp" if image.mode == "RGB" and image.width * image.height > 48 * 48 else "png"
    buffer = io.BytesIO()
    image.save(buffer, format=kind, optimize=True)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def to_image(pixels: Any) -> Image.Image:
    """A picture as it is looked at: bright ink on a dark ground is turned to dark ink on white."""
    array = np.asarray(pixels)
    array = array[None] if array.ndim == 2 else array
    if array.dtype.kind == "f":
        array = np.nan_to_num(array) * 255
    array = array.clip(0, 255).round().astype(np.uint8)
    if len(array) >= 3:
        return Image.fromarray(np.ascontiguousarray(array[:3].transpose(1, 2, 0)))
    return Image.fromarray(255 - array[0] if array[0].mean() < 128 else array[0])


def to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def is_picture(pixels: Any) -> bool:
    """Whether it can be looked at: [height, width], or [channel, height, width] with at most 4 channels."""
    shape = np.shape(pixels)
    return 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and shape[0] <= 4))
