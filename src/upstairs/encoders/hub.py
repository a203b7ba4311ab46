"""Models of `transformers`: found on the disk first, and loaded without its notes."""

import logging
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from upstairs.errors import UpstairsError, reason

WEIGHTS = ("*.safetensors", "*.bin")
CONFIGURED = ("config.json", "preprocessor_config.json", "processor_config.json")


@contextmanager
def quietly() -> Iterator[None]:
    """Silences the notes and the progress bars of `transformers`, and puts its settings back."""
    from transformers.utils import logging as own

    level, bars = own.get_verbosity(), own.is_progress_bar_enabled()
    own.set_verbosity(logging.CRITICAL)
    own.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        own.set_verbosity(level)
        if bars:
            own.enable_progress_bar()


def cannot_load(name: str, error: BaseException) -> UpstairsError:
    """Returns the error for a model that `transformers` cannot load."""
    return UpstairsError(
        f"`encoder` {name} is no model that can be loaded ({reason(error)}): give a folder with config.json, or a name "
        "on the Hugging Face hub while there is a connection"
    )


def folder_of(name: str) -> Path:
    """Returns the folder with the files of a model: the given one, else the local copy of a name on the hub.

    A name that has no local copy is fetched.

    Raises:
        UpstairsError: `transformers` is not installed, no such model, or no connection.
    """
    try:
        from huggingface_hub import snapshot_download
        from transformers.utils import cached_file
    except ImportError as error:
        raise UpstairsError(f"`encoder` {name} needs transformers: pip install 'upstairs[vision]'") from error
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise cannot_load(name, FileNotFoundError("the folder has no config.json"))
        return path.resolve()
    if path.exists() or name.count("/") > 1 or name.startswith(("/", ".", "~")):
        what = "a file of another kind" if path.exists() else "a path that does not exist"
        raise UpstairsError(
            f"`encoder` {name} is {what}: give a folder with config.json, a FILE.onnx, a name on the Hugging Face hub, "
            "timm:NAME, or package.module:function"
        )
    with quietly():
        try:
            with suppress(OSError, ValueError):
                folder = Path(str(cached_file(name, "config.json", local_files_only=True))).parent
                if any(any(folder.glob(kind)) for kind in WEIGHTS):
                    return folder
            _connect()  # without a connection the hub would be tried for half a minute
            folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.model", "model*.safetensors"]))
            if not any(folder.glob(WEIGHTS[0])):
                snapshot_download(name, allow_patterns=["pytorch_model*.bin"])
            return folder
        except (OSError, ValueError) as error:
            raise UpstairsError(
                f"`encoder` {name} is not on this machine and could not be fetched from the Hugging Face hub "
                f"({reason(error)}): check the name, or download its config.json, preprocessor_config.json and "
                "model.safetensors into a folder and give that"
            ) from error


def _connect() -> None:
    """Raises OSError if the hub cannot be reached."""
    from huggingface_hub.constants import ENDPOINT

    if not getproxies():
        socket.create_connection((str(urlsplit(ENDPOINT).hostname), urlsplit(ENDPOINT).port or 443), 10).close()


def files_of(folder: Path) -> list[Path]:
    """Returns the files of a model that its features depend on: weights and configurations."""
    weights = next((found for kind in WEIGHTS if (found := sorted(folder.glob(kind)))), [])
    return [*weights, *(folder / name for name in CONFIGURED if (folder / name).is_file())]
