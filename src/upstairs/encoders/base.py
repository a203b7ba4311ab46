"""An encoder: a frozen pretrained network and its preprocessing, as functions; and how its weights are identified."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor, nn

from upstairs.errors import UpstairsError

Modality = Literal["image", "audio", "text"]
INPUTS: dict[Modality, str] = {"image": "pictures", "audio": "sounds", "text": "texts"}
POOLINGS = ("class token", "mean", "both")


class Pixels(NamedTuple):
    """The preprocessing of pictures in two parts: prepare(picture) = factor * read(picture) / 255 + shift.

    Attributes:
        read: a PIL picture in RGB -> bytes at the network's size, which take a quarter of the room of numbers.
        factor, shift: of each channel.
    """

    read: Callable[[Image.Image], UInt8[np.ndarray, "3 h w"]]
    factor: tuple[float, ...]
    shift: tuple[float, ...]


@dataclass(frozen=True)
class Encoder:
    """A frozen pretrained network: `embed([prepare(item), ...])` returns a row of features for each item.

    Attributes:
        name: what opens it again: an absolute path, or a name.
        modality: its inputs: image (pictures), audio (sounds) or text.
        size: the number of features.
        pooling: how positions become one vector: class token, mean, both, or own (the network's own last layers).
        digest: changes with the weights, the preprocessing and the pooling.
        prepare: a PIL picture in RGB, samples [n] from -1 to 1 at `rate`, or a text -> the network's input as an array.
        embed: prepared inputs -> float32 [n, size], without gradients.
        rate: samples per second of sounds.
        side: pictures: a side that is at least this long loses nothing by `prepare`.
        note: what was assumed about the preprocessing; empty where the encoder itself says all of it.
        network: the torch module inside, for those who train it further; None where there is none.
        forward: (a copy of `network`, prepared inputs of one shape [n, ...]) -> features [n, size], with gradients;
            None where it cannot be trained.
        pixels: `prepare` in two parts; None where it has none.
    """

    name: str
    modality: Modality
    size: int
    pooling: str
    digest: str
    prepare: Callable[[Any], np.ndarray]
    embed: Callable[[Sequence[np.ndarray]], Float32[np.ndarray, "n size"]]
    rate: int = 16_000
    side: int = 224
    note: str = ""
    network: nn.Module | None = field(default=None, compare=False, repr=False)
    forward: Callable[[Any, Tensor], Tensor] | None = field(default=None, compare=False, repr=False)
    pixels: Pixels | None = field(default=None, compare=False, repr=False)

    def __call__(self, items: Sequence[Any]) -> Float32[np.ndarray, "n size"]:
        """Returns the features of PIL pictures in RGB, samples or texts: [n, size]."""
        return self.embed([self.prepare(item) for item in items])


def digest_of(files: Iterable[Path], *more: Any) -> str:
    """Returns a digest of the content of files and of any values that JSON can hold."""
    parts = [[file.name, _content(str(file), *_stamp(file))] for file in sorted(files)]
    return hashlib.sha256(json.dumps([parts, *more], sort_keys=True, default=str).encode()).hexdigest()[:32]


def _stamp(file: Path) -> tuple[int, int]:
    return (found := file.stat()).st_size, found.st_mtime_ns


@lru_cache(maxsize=256)
def _content(file: str, size: int, changed: int) -> str:
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of_module(module: nn.Module, *more: Any) -> str:
    """Returns a digest of a module's tensors and of any values that JSON can hold."""
    found = hashlib.sha256(json.dumps([type(module).__name__, *more], sort_keys=True, default=str).encode())
    for name, tensor in module.state_dict().items():
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:32]


def batches_of_one_shape(prepared: Sequence[np.ndarray]) -> list[list[int]]:
    """Returns the places of inputs that have the same shape, which can be computed together without padding."""
    found: dict[tuple[int, ...], list[int]] = {}
    for place, one in enumerate(prepared):
        found.setdefault(one.shape, []).append(place)
    return list(found.values())


def by_shape(
    compute: Callable[[Tensor], Tensor],
) -> Callable[[Sequence[np.ndarray]], Float32[np.ndarray, "n size"]]:
    """Returns `embed` of an encoder: `compute` receives inputs of one shape [n, ...], in inference mode."""

    def embed(prepared: Sequence[np.ndarray]) -> Float32[np.ndarray, "n size"]:
        rows: list[Any] = [None] * len(prepared)
        with torch.inference_mode():
            for places in batches_of_one_shape(prepared):
                found = compute(torch.from_numpy(np.stack([prepared[place] for place in places])))
                for place, row in zip(places, found.float().numpy(), strict=True):
                    rows[place] = row
        return np.stack(rows)

    return embed


def over_positions(x: Float[Tensor, "n *axes"], name: str) -> Float[Tensor, "n size"]:
    """Returns one vector for each input: the mean over positions of [n, size, h, w] or of [n, length, size].

    Raises:
        UpstairsError: an output that is no such tensor.
    """
    if x.ndim == 4:
        return x.mean((2, 3))
    if x.ndim == 3:
        return x.mean(1)
    if x.ndim != 2:
        raise UpstairsError(f"`encoder` {name} returns {list(x.shape)}: give one that returns [n, size]")
    return x


def check_pooling(pooling: str | None, has: Iterable[str], name: str) -> None:
    """Raises UpstairsError for a pooling that this encoder does not have."""
    has = [*has]
    if pooling is not None and pooling not in has:
        choice = f"choose {', '.join(has)}, or leave it out" if has else "leave it out"
        raise UpstairsError(f"`pooling` is '{pooling}', which `encoder` {name} does not have: {choice}")


def forward_of(encoder: Encoder) -> Callable[[Any, Tensor], Tensor]:
    """Returns `forward` of an encoder; raises UpstairsError for one whose network cannot be trained."""
    if encoder.network is None or encoder.forward is None:
        raise UpstairsError(
            f"`encoder` {encoder.name} has no network that could be trained (an ONNX file has none, and an Encoder of "
            "your own needs `network` and `forward`): leave out `net` pretrained to learn from its features"
        )
    return encoder.forward


def check_modality(encoder: Encoder, modality: Modality | None) -> None:
    """Raises UpstairsError for an encoder of another modality than the data; None accepts all."""
    if modality is not None and modality != encoder.modality:
        raise UpstairsError(
            f"`encoder` {encoder.name} reads {INPUTS[encoder.modality]} and the data is {INPUTS[modality]}: give an "
            f"encoder of {INPUTS[modality]}"
        )
