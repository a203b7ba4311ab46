"""A disk cache of decoded rows in memory-mapped files, so that a data set may be larger than memory."""

import hashlib
import io
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Shaped

from upstairs.errors import UpstairsError, reason

Progress = Callable[[int, int], None]  # (rows done, rows in all)

VERSION = 1  # raise it when decoding changes: old files are then ignored
BLOCK, BLOCKS = 2**20, 256  # the checksum covers a whole file up to 256 MiB, and about as much of a larger one
ABANDONED = 3600  # seconds without a write after which a partial file is deleted


def cache_directory() -> Path:
    """Returns the cache folder: the environment's UPSTAIRS_CACHE, or 'upstairs' in the user's cache folder."""
    if chosen := os.environ.get("UPSTAIRS_CACHE"):
        return Path(chosen).expanduser().absolute()
    try:
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "upstairs"
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "upstairs"
        chosen = os.environ.get("XDG_CACHE_HOME", "")  # its specification ignores relative paths
        return (Path(chosen) if Path(chosen).is_absolute() else Path.home() / ".cache") / "upstairs"
    except RuntimeError as error:
        raise UpstairsError("this user has no home folder for a cache: set UPSTAIRS_CACHE to a folder") from error


def memory_mapped(
    key: str,
    rows: Callable[[], Iterable[Shaped[np.ndarray, "*feature"]]],
    shape: tuple[int, ...],
    *,
    dtype: type[np.generic] = np.uint8,
    progress: Progress | None = None,
) -> Shaped[np.ndarray, "rows *feature"]:
    """Returns the rows as one memory-mapped array, computed by `rows()` only if the cache does not hold them.

    Rows are written to a partial file that is renamed when complete, so a killed process leaves no broken file, and
    concurrent processes each write their own. A truncated or altered file is written again.

    Args:
        key: any text that changes whenever the rows do.
        rows: yields the rows in order; called only without a valid file.
        shape: [rows, *feature], at least one row.
        dtype: the type of every row.
        progress: called about a hundred times while the file is written.

    Returns:
        A copy-on-write array: writing to it changes neither the file nor another process.

    Raises:
        UpstairsError: the cache folder cannot be written, or is full.
    """
    kind = np.dtype(dtype)
    named = key if kind == np.uint8 else f"{kind.str} {key}"
    digest = hashlib.sha256(f"{VERSION} {shape} {named}".encode("utf-8", "surrogateescape")).hexdigest()
    path = cache_directory() / f"{digest[:32]}.npy"
    if (found := _load(path, shape, kind)) is not None:
        return found
    _build(path, rows, shape, kind, progress)
    if (found := _load(path, shape, kind)) is None:
        raise UpstairsError(f"{path} was written and reads back differently: set UPSTAIRS_CACHE to another disk")
    return found


def _bytes(shape: tuple[int, ...], kind: np.dtype) -> int:
    return int(np.prod(shape, dtype=np.int64)) * kind.itemsize


def _header(shape: tuple[int, ...], kind: np.dtype) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind.str, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _map(path: Path, shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    # a plain view, since np.memmap indexes more slowly
    return np.memmap(path, kind, "c", offset=len(_header(shape, kind)), shape=shape).view(np.ndarray)


def _load(path: Path, shape: tuple[int, ...], kind: np.dtype) -> np.ndarray | None:
    """Returns the file's array, or None if the file is missing, truncated or altered."""
    header, size = _header(shape, kind), _bytes(shape, kind)
    try:
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size != len(header) + size + 4 or stream.read(len(header)) != header:
                return None
            stream.seek(-4, os.SEEK_END)
            expected = stream.read(4)
        array = _map(path, shape, kind)
    except OSError:
        return None
    return array if _checksum(array) == expected else None


def _checksum(array: np.ndarray) -> bytes:
    flat, crc = array.reshape(-1).view(np.uint8), 0
    for start in range(0, len(flat), max(BLOCK, len(flat) // BLOCKS)):
        crc = zlib.crc32(flat[start : start + BLOCK].data, crc)
    return crc.to_bytes(4, "little")


def _build(
    path: Path,
    rows: Callable[[], Iterable[np.ndarray]],
    shape: tuple[int, ...],
    kind: np.dtype,
    progress: Progress | None,
) -> None:
    need = _bytes(shape, kind)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for abandoned in path.parent.glob("*.partial"):
            with suppress(OSError):
                if time.time() - abandoned.stat().st_mtime > ABANDONED:
                    abandoned.unlink()
        if shutil.disk_usage(path.parent).free < need:
            raise OSError("no space left on the disk")
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}.", suffix=".partial")
        partial = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                _write(stream, partial, rows(), shape, kind, progress)
            partial.chmod(0o644)  # temporary files are private, and a cache may be shared
            try:
                partial.replace(path)
            except PermissionError:  # Windows: another process has mapped the file, which is then valid
                if _load(path, shape, kind) is None:
                    raise
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UpstairsError(
            f"the cache folder {path.parent} cannot take {need / 1e6:.0f} MB ({reason(error)}): "
            "free some disk, or set UPSTAIRS_CACHE to a folder that can be written"
        ) from error


def _write(
    stream: BinaryIO,
    path: Path,
    rows: Iterable[np.ndarray],
    shape: tuple[int, ...],
    kind: np.dtype,
    progress: Progress | None,
) -> None:
    # plain writes, since on a full disk a writable map kills the process and a write raises
    done, step = 0, max(1, shape[0] // 100)
    stream.write(_header(shape, kind))
    for done, row in enumerate(rows, 1):
        if row.shape != shape[1:] or row.dtype != kind:
            raise ValueError(f"row {done} is {row.dtype} {row.shape}, not {kind} {shape[1:]}")
        stream.write(row.tobytes())
        if progress and (done % step == 0 or done == shape[0]):
            progress(done, shape[0])
    if done != shape[0]:
        raise ValueError(f"{done} rows were made for {shape}")
    stream.flush()
    stream.write(_checksum(_map(path, shape, kind)))
    stream.flush()
    os.fsync(stream.fileno())  # otherwise a crash after the rename could leave a file of zeros
