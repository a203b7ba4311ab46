"""Atomic files of tensors with a JSON header (safetensors)."""

import contextlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import upstairs
from upstairs.errors import UpstairsError, reason
from upstairs.stops import stop_requests

KINDS = {
    "run": "a run's checkpoint", "adapted": "an adapted model", "rule": "a learned rule", "bilevel": "meta-parameters"
}  # fmt: skip
FORMAT = 1  # version of the JSON header; raise it when old readers would misread a file


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces the file at `path` atomically.

    Raises:
        UpstairsError: the disk is full or the folder cannot be written; the old file stays unchanged.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise UpstairsError(
            f"{path} could not be written ({error.strerror or error}): choose another path, or free some room; what "
            "was saved there before is untouched"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes the value as JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False).encode())


def save_tensors(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any], *, kind: str) -> None:
    """Writes tensors and a JSON header of `kind` ("run", "adapted", "rule" or "bilevel") in one atomic file."""
    header = {"upstairs": json.dumps({"format": FORMAT, "kind": kind, **meta}, allow_nan=True)}
    content = save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, header)
    write_atomically(path, content)


def kind_of(path: Path) -> str | None:
    """Returns the kind of a file that `save_tensors` wrote; None for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get("upstairs", "{}")).get("kind")
    except (SafetensorError, OSError, ValueError):
        return None


def load_tensors(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the tensors and the header that `save_tensors` wrote.

    Raises:
        UpstairsError: the file is missing, damaged, of another library, or of another format or kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UpstairsError(f"there is no file {path}: check the path")
    try:
        # an interruption within torch or safetensors would be swallowed, and look like a damaged file
        with stop_requests(), safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("upstairs")
            tensors = {name: file.get_tensor(name) for name in file.keys()} if header else {}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise UpstairsError(
            f"{path} is damaged or no safetensors file ({reason(error)}): take an older copy, or train again"
        ) from error
    if header is None:
        raise UpstairsError(f"{path} is a safetensors file, but not one that upstairs wrote: give a file from a run")
    with whole(path):
        meta = dict(json.loads(header))
    if meta.get("format") != FORMAT:
        raise UpstairsError(
            f"{path} has format {meta.get('format')} and this version of upstairs reads format {FORMAT}: "
            f"it was written by upstairs {meta.get('versions', {}).get('upstairs', '(unknown)')}; "
            "use that version, or train again"
        )
    if meta.get("kind") != kind:
        raise UpstairsError(
            f"{path} holds {KINDS.get(meta.get('kind'), 'something else')}: {KINDS[kind]} is needed here"
        )
    return tensors, meta


@contextlib.contextmanager
def whole(path: Path) -> Iterator[None]:
    """A context that reads what a file of `save_tensors` held; an error in it says that the file is damaged."""
    try:
        yield
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise UpstairsError(f"{path} is damaged ({reason(error)}): take an older copy, or make it again") from error


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns an optimiser's state as named tensors and JSON."""
    state = optimizer.state_dict()
    tensors, rest = {}, {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                rest[f"{index}.{name}"] = value
    return tensors, {"groups": state["param_groups"], "rest": rest}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Loads the state that `pack_optimizer` returned into an optimiser."""
    state: dict[int, dict[str, Any]] = {}
    own = {k.removeprefix("optimizer."): t for k, t in tensors.items() if k.startswith("optimizer.")}
    for key, value in {**own, **meta["rest"]}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": meta["groups"]})


def versions() -> dict[str, str]:
    return {
        "upstairs": upstairs.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
