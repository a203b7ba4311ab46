"""The usual preprocessing of pictures: resize, crop, scale, normalise."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from upstairs.encoders.base import Pixels

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # pillow's numbers


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a network's input.

    Attributes:
        size: height and width of the input.
        shorter: the shorter side is resized to this and the middle is cropped; None resizes both sides to `size`.
        mean, std: of each channel, of values from 0 to 1.
        resample: pillow's number of the interpolation.
        scale: by which bytes are multiplied first.
        last: channels last, [h, w, 3].
    """

    size: tuple[int, int]
    shorter: int | None = None
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    resample: int = RESAMPLING["bilinear"]
    scale: float = 1 / 255
    last: bool = False

    def __call__(self, picture: Image.Image) -> Float32[np.ndarray, "*shape"]:
        x = np.asarray(self.resized(picture), np.float32) * np.float32(self.scale)
        x = (x - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(x if self.last else x.transpose(2, 0, 1))

    def resized(self, picture: Image.Image) -> Image.Image:
        height, width = self.size
        if self.shorter is not None:
            side = min(picture.size)
            wide, tall = (max(round(self.shorter * length / side), wanted)
                          for length, wanted in zip(picture.size, (width, height), strict=True))  # fmt: skip
            left, top = (wide - width) / 2 * picture.width / wide, (tall - height) / 2 * picture.height / tall
            box = (left, top, picture.width - left, picture.height - top)  # resizes only what the crop keeps
            return picture.resize((width, height), self.resample, box=box)
        return picture.resize((width, height), self.resample)

    def bytes_of(self, picture: Image.Image) -> UInt8[np.ndarray, "3 h w"]:
        return np.ascontiguousarray(np.asarray(self.resized(picture)).transpose(2, 0, 1))

    @property
    def pixels(self) -> Pixels:
        """The same in two parts."""
        return Pixels(self.bytes_of, *normalisation(self.scale, self.mean, self.std))

    @property
    def side(self) -> int:
        """A picture with this side or more loses nothing."""
        return max(*self.size, self.shorter or 0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def normalisation(
    scale: float, mean: Sequence[float], std: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns `factor` and `shift` of `Pixels`, for bytes that are scaled and normalised."""
    return tuple(255 * scale / s for s in std), tuple(-m / s for m, s in zip(mean, std, strict=True))


def from_config(config: Mapping[str, Any], size: tuple[int, int] | None = None) -> Preprocessing:
    """Returns the preprocessing of a preprocessor_config.json.

    Args:
        size: height and width of the network's input, where the network fixes them.
    """
    wanted = config.get("size", min(size) if size else 224)
    wanted = {"shortest_edge": wanted} if isinstance(wanted, int) else wanted
    shorter = int(wanted["shortest_edge"]) if wanted.get("shortest_edge") else None
    own = (int(wanted["height"]), int(wanted["width"])) if "height" in wanted else None
    crop = config.get("crop_size", shorter)
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    if crop and config.get("do_center_crop", True):
        own = int(crop["height"]), int(crop["width"])
    normalised = config.get("do_normalize", True)
    return Preprocessing(
        size or own or (shorter or 224, shorter or 224),
        shorter,
        tuple(config.get("image_mean") or IMAGENET[0]) if normalised else (0.0,) * 3,
        tuple(config.get("image_std") or IMAGENET[1]) if normalised else (1.0,) * 3,
        int(config.get("resample", RESAMPLING["bilinear"])),
        float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
    )


def within_ratio(picture: Image.Image, most: int = 16) -> Image.Image:
    """Returns the middle of a picture whose sides differ more, which would be huge once its shorter side is resized."""
    width, height = picture.size
    side = most * min(width, height)
    left, top = max(width - side, 0) // 2, max(height - side, 0) // 2
    return picture.crop((left, top, width - left, height - top)) if left or top else picture
