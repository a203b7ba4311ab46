"""Converts pictures (paths, bytes, PIL images, arrays) to uint8 arrays of one size."""

import io
import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile, ImageOps, features
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from upstairs.data.files import content_of
from upstairs.data.source import InputFormat, refuse_masked
from upstairs.errors import UpstairsError, reason

# pillow's own list also holds EPS, which runs programs
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MORE = ("AVIF",) if features.check("avif") else ()
LARGEST = 64_000_000  # pixels; larger pictures are refused before they are decoded, unless a JPEG decodes smaller
Tones = tuple[float, float]
FAINTEST = 48  # grey levels between ink and background; a fainter page is blank and not stretched to full contrast
_QUIET = threading.Lock()  # warning filters are global, so one thread at a time changes them


@dataclass(frozen=True)
class ImageFormat(InputFormat):
    """Reads a picture as a row: uint8 [channels, size, size].

    Attributes:
        size: pixels along each side of the result.
        channels: 1 (grey) or 3 (red, green, blue).
        ink: True for line drawings: the background (the median of the border) becomes 0, the ink 255, whichever is
            darker, and the picture is padded to a square. False for photos: tones stay, and the longer side is cropped
            at both ends.
        tones: the values that black and white have in pictures of more than 8 bits; None is 0 and 65535, or 0 and 1
            (255 where a value is above 1) for floats.

    Raises:
        UpstairsError: a size or a number of channels out of range.
    """

    kind = modality = "image"
    in_frames = ("gif", "webp", "png", "tif", "tiff", "avif")

    size: int
    channels: int
    ink: bool
    tones: Tones | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096:
            raise UpstairsError(f"`size` is {self.size}: give the side of a picture in pixels, from 1 to 4096")
        if self.channels not in (1, 3):
            raise UpstairsError(f"`channels` is {self.channels}: give 1 (grey) or 3 (colour)")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.channels, self.size, self.size

    def read(self, item: Any, *, name: str | None = None) -> UInt8[np.ndarray, "channels size size"]:
        """Reads one picture as a row.

        Args:
            item: a path, the bytes of a file, a PIL image, or an array or tensor [h, w], [h, w, 3] or [3, h, w], uint8
                or floating from 0 to 1.
            name: its name in errors; by default the path.

        Raises:
            UpstairsError: a missing, broken or too large picture, or an array of another shape.
        """
        picture = read_picture(item, name=name, least=2 * self.size, tones=self.tones)
        if self.ink:
            grey = _pad(_ink(_in_mode(picture, "L")), self.size)
            return np.repeat(np.asarray(grey)[None], self.channels, axis=0)
        picture = _crop(_in_mode(picture, "L" if self.channels == 1 else "RGB"), self.size)
        return np.ascontiguousarray(np.asarray(picture).reshape(self.size, self.size, -1).transpose(2, 0, 1))

    def has_frames(self, item: Any) -> bool:
        try:
            with io.BytesIO(item) if isinstance(item, bytes) else Path(item).open("rb") as stream:
                return bool(getattr(_open(stream, ""), "is_animated", False))
        except Exception:  # on hostile bytes a plug-in may raise anything; reading the picture says what is wrong
            return False

    def to_json(self) -> dict[str, Any]:
        value = {"kind": self.kind, **asdict(self)}
        return value if self.tones else {k: v for k, v in value.items() if k != "tones"}  # as older versions wrote it


def read_picture(item: Any, *, name: str | None = None, least: int = 0, tones: Tones | None = None) -> Image.Image:
    """Decodes the first frame of a picture: upright, on white where it is transparent, in mode L or RGB.

    Args:
        item, name: as for `ImageFormat.read`.
        least: a JPEG may be decoded at a smaller size with no side below this; 0 keeps its size.
        tones: see `ImageFormat`.
    """
    picture, name = _loaded(item, name, least)
    try:
        return _plain(picture, tones, name)
    except ValueError as error:  # a mode that pillow cannot convert
        raise UpstairsError(
            f"{name} is a picture of mode {picture.mode}, which is not read ({reason(error)}): save it as RGB"
        ) from error


def deep_values(item: Any, *, name: str | None = None) -> np.ndarray | None:
    """Returns the values of a picture of one channel of more than 8 bits; None for any other picture.

    Raises:
        UpstairsError: as `read_picture`.
    """
    picture, _ = _loaded(item, name, 128)
    return np.asarray(picture) if picture.mode.startswith(("I", "F")) else None


def high_byte(item: Any) -> int | None:
    """Returns the largest value of a colour picture of 16 bits, of which the high byte is read; None for others."""
    stream = io.BytesIO(item) if isinstance(item, bytes) else io.BytesIO(Path(item).read_bytes())
    picture = _open(stream, str(item)[:80])
    tiles = str(picture.tile) if isinstance(picture, ImageFile.ImageFile) else ""
    if picture.mode not in ("RGB", "RGBA") or ";16" not in tiles:
        return None
    return int(np.asarray(picture)[..., :3].max())


def _loaded(item: Any, name: str | None, least: int) -> tuple[Image.Image, str]:
    """Returns the decoded picture, upright and in its own mode, and its name in errors."""
    name = name or (str(item) if isinstance(item, str | Path) else "the picture")
    if isinstance(item, str | Path):
        path = Path(item)
        _refuse_missing(path, name)
        try:
            with path.open("rb") as stream:
                return _decode(_open(stream, name), name, least), name
        except OSError as error:
            raise UpstairsError(f"{name} cannot be read ({error.strerror or error}): check its permissions") from error
    if isinstance(item, bytes):
        if not item:
            raise UpstairsError(f"{name} is empty (0 bytes): replace or remove it")
        return _decode(_open(io.BytesIO(item), name), name, least), name
    if isinstance(item, Tensor):
        item = item.detach().cpu().numpy()
    if isinstance(item, np.ndarray):
        refuse_masked(item, f"{name} has")
        return _decode(Image.fromarray(_as_bytes(item, name)), name, 0), name
    if isinstance(item, Image.Image):
        return _decode(item, name, 0), name
    raise UpstairsError(f"{name} is a {type(item).__name__}: give a path, bytes, a PIL image or an array")


def _refuse_missing(path: Path, name: str) -> None:
    try:
        problem = (
            "does not exist: check the path" if not path.exists()
            else "is a folder: give a picture file" if path.is_dir()
            else "is not a regular file: give a picture file" if not path.is_file()
            else "is empty (0 bytes): replace or remove it" if path.stat().st_size == 0
            else None
        )  # fmt: skip
    except (OSError, ValueError) as error:  # a name with a null character, a folder that may not be entered
        raise UpstairsError(f"{name!r} cannot be read ({reason(error)}): check the path") from error
    if problem:
        raise UpstairsError(f"{name} {problem}")


@contextmanager
def _quiet() -> Generator[None]:
    """Silences pillow's warnings of odd metadata, which is harmless, and of large pictures, which are refused here."""
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open(stream: Any, name: str) -> Image.Image:
    try:
        with _quiet():
            return Image.open(stream, formats=(*FORMATS, *MORE, *_heif()))
    except Image.DecompressionBombError as error:
        stream.seek(0)
        with suppress(Exception), _quiet():
            return JpegImageFile(stream)  # may be decoded smaller; pillow refuses it by the size of its header
        raise _too_large(name) from error
    except Exception as error:  # on a hostile header a plug-in may raise anything
        stream.seek(0)
        why = content_of(stream.read(64))
        why = "" if why.endswith("picture") else f" ({why})" * bool(why)  # a picture that is cut short has its start
        raise UpstairsError(
            f"{name} is no picture that can be read{why}: give a whole {', '.join(FORMATS)} file, or remove it"
        ) from error


@cache
def _heif() -> tuple[str, ...]:
    """Returns the name of the HEIC format in pillow, if pillow-heif is installed."""
    if find_spec("pillow_heif") is None:
        return ()
    from pillow_heif import register_heif_opener

    register_heif_opener()
    return ("HEIF",)


def _too_large(name: str) -> UpstairsError:
    return UpstairsError(
        f"{name} has more than {LARGEST // 10**6} million pixels, more than is decoded (a JPEG may have more): "
        "save it as a JPEG, or make it smaller"
    )


def _decode(picture: Image.Image, name: str, least: int) -> Image.Image:
    try:
        if least:
            picture.draft(None, (least, least))  # a JPEG is decoded at a half, a quarter or an eighth
        width, height = picture.size
        if width * height > LARGEST:
            raise _too_large(name)
        if width * height == 0:
            raise UpstairsError(f"{name} is {width} x {height} pixels: give a picture that has some")
        picture.load()
        with _quiet():
            return ImageOps.exif_transpose(picture)
    except UpstairsError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise UpstairsError(
            f"{name} is a broken or truncated picture ({reason(error)}): replace or remove it"
        ) from error


def _plain(picture: Image.Image, tones: Tones | None, name: str) -> Image.Image:
    """Converts any mode to L or RGB."""
    if picture.mode.startswith(("I", "F")):
        values = np.array(picture, np.float32)  # changed in place: a large picture takes 256 MB
        if not np.isfinite(values).all():
            raise UpstairsError(f"{name} has values that are no finite numbers: replace or remove it")
        usual = (0, 65535) if picture.mode.startswith("I") else (0, 1) if values.max() <= 1 else (0, 255)
        black, white = tones or usual
        if values.min() < black or values.max() > white:
            raise UpstairsError(
                f"{name} holds values from {values.min():g} to {values.max():g}, and black is {black:g} and white "
                f"{white:g}: scale it to that range, or save it with 8 bits"
            )
        values -= black
        values *= 255 / (white - black)
        return Image.fromarray(np.rint(values, out=values).astype(np.uint8))
    if picture.mode == "La":  # is converted to nothing else
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        on_white = _on(picture, "white")
        if _is_flat(on_white) and not _is_flat(on_black := _on(picture, "black")):
            return on_black  # white ink on a transparent background
        return on_white
    return _in_mode(picture, "L" if picture.mode in ("1", "L") else "RGB")


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    return picture if picture.mode == mode else picture.convert(mode)


def _on(picture: Image.Image, colour: str) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", picture.size, colour), picture).convert("RGB")


def _is_flat(picture: Image.Image) -> bool:
    darkest, lightest = picture.convert("L").getextrema()
    return darkest == lightest


def _as_bytes(x: np.ndarray, name: str) -> np.ndarray:
    """Converts an array [h, w], [h, w, c] or [c, h, w] to uint8 [h, w] or [h, w, c]."""
    if x.ndim == 3 and x.shape[0] in (1, 3) and x.shape[2] not in (1, 3):
        x = x.transpose(1, 2, 0)
    if x.size == 0 or not (x.ndim == 2 or (x.ndim == 3 and x.shape[2] in (1, 3, 4))):
        raise UpstairsError(f"{name} is an array of shape {list(x.shape)}: give [h, w], [h, w, 3] or [3, h, w]")
    highest = 1 if x.dtype.kind in "fb" else 255
    if x.dtype.kind not in "fbiu" or not (x.min() >= 0 and x.max() <= highest + 1e-4):
        raise UpstairsError(
            f"{name} is an array of {x.dtype} with values outside 0 to {highest}: give uint8, or floats from 0 to 1"
        )
    x = (x * 255.0).clip(0, 255).round() if highest == 1 else x
    return np.ascontiguousarray((x[:, :, 0] if x.shape[2:] == (1,) else x).astype(np.uint8))


def background_of(pixels: np.ndarray) -> float:
    """Returns the median of the border."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return float(np.sort(border)[len(border) // 2])  # five times as fast as np.median


def _ink(grey: Image.Image) -> Image.Image:
    """Maps the background to 0 and the ink to 255. Ink is the side of the background with the larger contrast."""
    pixels = np.asarray(grey)
    background = background_of(pixels)
    below, above = background - pixels.min(), pixels.max() - background
    strength = (background - np.arange(256)) * (1 if below >= above else -1)
    contrast = max(below, above)
    scale = 255 / contrast if contrast >= FAINTEST else 1
    return Image.fromarray((strength * scale).clip(0, 255).round().astype(np.uint8).take(pixels))


def _pad(grey: Image.Image, size: int) -> Image.Image:
    """Fits the whole picture into a square. HAMMING averages pixels, so thin strokes survive."""
    scale = size / max(grey.size)
    width, height = (max(1, round(side * scale)) for side in grey.size)
    small = grey.resize((width, height), Image.Resampling.HAMMING if scale < 1 else Image.Resampling.BILINEAR)
    if width == height:
        return small
    square = Image.new("L", (size, size), 0)
    square.paste(small, ((size - width) // 2, (size - height) // 2))
    return square


def _crop(picture: Image.Image, size: int) -> Image.Image:
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    return picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
