"""Encoders in ONNX files, computed by onnxruntime."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from upstairs.encoders.base import Encoder, batches_of_one_shape, check_pooling, digest_of, over_positions
from upstairs.encoders.pictures import Preprocessing, from_config
from upstairs.errors import UpstairsError, reason

# what is read from the file's own metadata, each as JSON, under the names of preprocessor_config.json
KEYS = ("size", "crop_size", "do_center_crop", "image_mean", "image_std", "do_normalize", "rescale_factor",
        "do_rescale", "resample")  # fmt: skip
NEEDED = "one input of pictures, float [n, 3, h, w] or [n, h, w, 3]"


def onnx_encoder(path: Path, *, pooling: str | None = None, preprocessing: Preprocessing | None = None) -> Encoder:
    """Returns the encoder in an ONNX file.

    Args:
        preprocessing: None is that of preprocessor_config.json beside the file, else of the file's metadata, else
            ImageNet's mean and standard deviation at the file's input size.

    Raises:
        UpstairsError: onnxruntime is not installed, no ONNX file, or its input is no picture.
    """
    session = _session(path)
    check_pooling(pooling, ("mean",), str(path))
    layout = _layout(session, path)
    note = ""
    if preprocessing is None:
        config = _config(session, path)
        preprocessing = from_config(config, layout.sides)
        if not config:
            height, width = preprocessing.size
            note = (f"{path.name} does not say how pictures are prepared: they are cropped to {width} x {height} and "
                    "normalised as for ImageNet; if that is wrong, put preprocessor_config.json beside it")  # fmt: skip
    preprocessing = layout.arranged(preprocessing)
    if layout.sides not in (None, preprocessing.size):
        raise UpstairsError(
            f"`encoder` {path} takes pictures of {layout.sides} and its preprocessing makes {preprocessing.size}: "
            "change `size` in preprocessor_config.json"
        )

    def embed(prepared: Sequence[np.ndarray]) -> Float32[np.ndarray, "n size"]:
        rows: list[Any] = [None] * len(prepared)
        for places in batches_of_one_shape(prepared):
            most = layout.batch or len(places)
            for start in range(0, len(places), most):
                here = places[start : start + most]
                x = np.stack([prepared[place] for place in here]).astype(layout.dtype)
                x = np.concatenate([x, np.repeat(x[-1:], most - len(here), 0)]) if layout.batch else x
                for place, row in zip(here, _run(session, layout.name, x, path), strict=False):
                    rows[place] = row
        return np.stack(rows)

    size = embed([np.zeros((*preprocessing.size, 3) if layout.last else (3, *preprocessing.size), np.float32)]).shape[1]
    files = path.parent.glob(f"{path.name}*")  # larger ones keep their weights in a file beside them
    digest = digest_of(files, preprocessing.to_json())
    return Encoder(str(path), "image", size, pooling or "own", digest, preprocessing, embed, 0,
                   2 * preprocessing.side, note)  # fmt: skip


class PictureInput:
    """The input of an ONNX file.

    Attributes:
        name: of the input.
        dtype: of its numbers.
        last: channels last.
        sides: height and width; None where they are free.
        batch: the number of pictures in a run; None where it is free.
    """

    def __init__(self, name: str, dtype: type, shape: Sequence[Any]) -> None:
        fixed = [length if isinstance(length, int) and length > 0 else None for length in shape]
        self.name, self.dtype = name, dtype
        self.last = fixed[3] == 3 and fixed[1] != 3
        height, width = fixed[1:3] if self.last else fixed[2:4]
        self.sides = (height, width) if height and width else None
        self.batch = fixed[0]

    def arranged(self, preprocessing: Preprocessing) -> Preprocessing:
        """Returns the preprocessing with the channels where the file has them."""
        return replace(preprocessing, last=self.last)


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UpstairsError(f"`encoder` {path} needs onnxruntime: pip install 'upstairs[onnx]'") from error
    if not path.is_file():
        raise UpstairsError(f"`encoder` {path} does not exist: check the path")
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no class of their own
        raise UpstairsError(
            f"`encoder` {path} is no ONNX file that can be loaded ({reason(error)}): export it again, with its weights "
            "in the same folder"
        ) from error


def _layout(session: Any, path: Path) -> PictureInput:
    """Returns the input of the file; raises UpstairsError if it is not one of pictures."""
    inputs = session.get_inputs()
    had = ", ".join(f"{one.name} ({one.type.removeprefix('tensor(').rstrip(')')} {one.shape})" for one in inputs)
    dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    shape = inputs[0].shape if inputs else []
    channels = {shape[1], shape[3]} if len(shape) == 4 else set()
    wrong = len(inputs) != 1 or inputs[0].type not in dtypes or len(shape) != 4
    if wrong or (3 not in channels and all(isinstance(one, int) for one in channels)):
        raise UpstairsError(f"`encoder` {path} takes {had or 'no input'} and needs {NEEDED}: export the part of the "
                            "network that reads pictures, or give package.module:function")  # fmt: skip
    return PictureInput(inputs[0].name, dtypes[inputs[0].type], shape)


def _config(session: Any, path: Path) -> dict[str, Any]:
    """Returns the preprocessing that stands beside the file or in its metadata; empty where there is none."""
    beside = path.parent / "preprocessor_config.json"
    if beside.is_file():
        try:
            return dict(json.loads(beside.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UpstairsError(f"{beside} is no JSON object ({reason(error)}): fix or remove it") from error
    found = {}
    for key, value in session.get_modelmeta().custom_metadata_map.items():
        with suppress(ValueError):
            found |= {key: json.loads(value)} if key in KEYS else {}
    return found


def _run(session: Any, name: str, x: np.ndarray, path: Path) -> Float32[np.ndarray, "n size"]:
    try:
        found = session.run([session.get_outputs()[0].name], {name: x})[0]
    except Exception as error:
        raise UpstairsError(f"`encoder` {path} cannot read pictures {list(x.shape)} ({reason(error)}): give the size "
                            "in preprocessor_config.json beside it") from error  # fmt: skip
    found = torch.from_numpy(np.asarray(found, np.float32))
    return over_positions(found, str(path)).numpy()
