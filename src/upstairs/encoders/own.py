"""Encoders from elsewhere: a function in a Python module, or timm."""

import importlib
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.encoders.base import Encoder, by_shape, check_pooling, digest_of_module, over_positions
from upstairs.encoders.pictures import RESAMPLING, Preprocessing
from upstairs.errors import UpstairsError, reason

GIVE = (
    "return an upstairs.encoders.Encoder, or a torch module of pictures with the attributes size (pixels), mean and std"
)


def own_encoder(name: str, *, pooling: str | None = None) -> Encoder:
    """Returns the encoder that `package.module:function` returns; the module may lie in the working directory.

    The function takes no arguments and returns an `Encoder`, or a torch module from pictures [n, 3, h, w] to features,
    with the attributes `size` (pixels, or height and width), `mean` and `std` (of each channel, from 0 to 1).

    Raises:
        UpstairsError: no such function, it fails, or it returns something else.
    """
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function)
        made = found()
    except AttributeError as error:
        if error.name != function:
            raise UpstairsError(f"`encoder` {name} failed ({reason(error)}): correct the function") from error
        raise UpstairsError(f"`encoder` {name}: module {module} has no {function}: check the name") from error
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UpstairsError(f"`encoder` {name} failed ({reason(error)}): install what it needs") from error
        raise UpstairsError(
            f"`encoder` {name}: there is no module {module} in {here} or among the installed packages: check the name"
        ) from error
    except UpstairsError:
        raise
    except Exception as error:
        raise UpstairsError(f"`encoder` {name} failed ({reason(error)}): correct the function") from error
    finally:
        sys.path.remove(here)
    if isinstance(made, Encoder):
        check_pooling(pooling, [made.pooling], name)
        return replace(made, name=name)
    if not isinstance(made, nn.Module):
        raise UpstairsError(f"`encoder` {name} returned a {type(made).__name__}: {GIVE}")
    try:
        size, *values = (getattr(made, attribute) for attribute in ("size", "mean", "std"))
        height, width = map(int, (size, size) if isinstance(size, int) else size)
        mean, std = (tuple(map(float, own)) for own in values)
        if len(mean) != 3 or len(std) != 3:
            raise ValueError("mean and std need three numbers each")
        preprocessing = Preprocessing((height, width), min(height, width), mean, std)
    except (AttributeError, TypeError, ValueError) as error:
        raise UpstairsError(f"`encoder` {name} returned a module that cannot be used ({reason(error)}): {GIVE}") from (
            error
        )
    return module_encoder(name, made, preprocessing, pooling=pooling)


def module_encoder(
    name: str, network: nn.Module, preprocessing: Preprocessing, *, pooling: str | None = None, digest: str = ""
) -> Encoder:
    """Returns the encoder of a torch module from pictures to features.

    Args:
        digest: see `Encoder`; empty: that of the module's tensors and of the preprocessing.

    Raises:
        UpstairsError: the module cannot read a picture of this size.
    """
    check_pooling(pooling, ("mean",), name)
    network.eval().requires_grad_(False)
    forward = partial(_features, name)
    embed = by_shape(partial(forward, network))
    try:
        size = embed([np.zeros((3, *preprocessing.size), np.float32)]).shape[1]
    except UpstairsError:
        raise
    except Exception as error:
        raise UpstairsError(
            f"`encoder` {name} cannot read pictures [n, 3, {', '.join(map(str, preprocessing.size))}] "
            f"({reason(error)}): correct the module or its size"
        ) from error
    digest = digest or digest_of_module(network, preprocessing.to_json())
    return Encoder(name, "image", size, "own", digest, preprocessing, embed, 0, 2 * preprocessing.side,
                   network=network, forward=forward, pixels=preprocessing.pixels)  # fmt: skip


def _features(name: str, network: nn.Module, x: Tensor) -> Float[Tensor, "n size"]:
    return over_positions(network(x), name)


def timm_encoder(name: str, *, pooling: str | None = None) -> Encoder:
    """Returns the encoder `timm:NAME`, with timm's own pooling and preprocessing.

    Raises:
        UpstairsError: timm is not installed, or has no such model.
    """
    try:
        import timm
        from timm.data import resolve_model_data_config
    except (ImportError, RuntimeError) as error:  # torchvision may fail in other ways beside another torch
        raise UpstairsError(
            f"`encoder` {name} needs timm ({reason(error)}): pip install timm, or give a model of transformers"
        ) from error
    try:
        network: Any = timm.create_model(name.removeprefix("timm:"), pretrained=True, num_classes=0)
    except Exception as error:
        raise UpstairsError(
            f"`encoder` {name} cannot be loaded ({reason(error)}): check the name, and the connection if it is not on "
            "this machine yet"
        ) from error
    config = resolve_model_data_config(network)
    height, width = config["input_size"][1:]
    shorter = int(min(height, width) / config.get("crop_pct", 1.0)) if config.get("crop_mode") != "squash" else None
    resample = RESAMPLING.get(config.get("interpolation", "bicubic"), RESAMPLING["bicubic"])
    preprocessing = Preprocessing((height, width), shorter, tuple(config["mean"]), tuple(config["std"]), resample)
    return module_encoder(name, network, preprocessing, pooling=pooling)
