"""Rows decoded once and kept in memory-mapped files: a set larger than memory is read page by page."""

import hashlib
import io
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Shaped

from upstairs.errors import UpstairsError

Progress = Callable[[int, int], None]  # (rows done, rows in all)

VERSION = 1  # raise it when the same inputs are decoded to other values: old files are then never read again
BLOCK, BLOCKS = 2**20, 256  # the checksum reads a whole file up to 256 MiB, and that much of a larger one
ABANDONED = 3600  # seconds without a write after which a partial file belongs to a process that was killed


def cache_directory() -> Path:
    """Where decoded files are kept: the environment's UPSTAIRS_CACHE, or else 'upstairs' in the user's cache folder."""
    if chosen := os.environ.get("UPSTAIRS_CACHE"):
        return Path(chosen).expanduser().absolute()
    try:
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "upstairs"
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "upstairs"
        chosen = os.environ.get("XDG_CACHE_HOME", "")  # relative ones are to be ignored, says its specification
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
    """The rows as one memory-mapped array, made by `rows()` the first time and only opened afterwards.

    Rows are written one by one to a partial file that takes its name when it is whole, so a killed process leaves no
    broken file, and two processes at once each write their own. A file that is short or altered is made again.

    Args:
        key: changes whenever the rows would; any length.
        rows: makes the rows, in order; called only where there is no good file.
        shape: [rows, *feature], at least one row.
        dtype: of every row.
        progress: called about a hundred times while the file is made.

    Returns:
        Copy-on-write: writing to it changes neither the file nor another process.

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
    # a plain view: np.memmap's own indexing is slower, and torch needs no more than the memory
    return np.memmap(path, kind, "c", offset=len(_header(shape, kind)), shape=shape).view(np.ndarray)


def _load(path: Path, shape: tuple[int, ...], kind: np.dtype) -> np.ndarray | None:
    """The file's array, or None where it is absent, short, or not what was written."""
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
    with _clear_errors(path.parent, need):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        if shutil.disk_usage(path.parent).free < need:
            raise OSError("no space left on the disk")
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}.", suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as stream:
                _write(stream, Path(name), rows(), shape, kind, progress)
            Path(name).chmod(0o644)  # temporary files are private, and a cache may be shared
            _rename(Path(name), path, shape, kind)
        finally:
            Path(name).unlink(missing_ok=True)


def _write(
    stream: BinaryIO,
    path: Path,
    rows: Iterable[np.ndarray],
    shape: tuple[int, ...],
    kind: np.dtype,
    progress: Progress | None,
) -> None:
    # plain writes and not a writable map: on a full disk a map kills the process where a write can be refused
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
    os.fsync(stream.fileno())  # or a crash after the rename could leave a whole name on a file of zeros


def _rename(partial: Path, path: Path, shape: tuple[int, ...], kind: np.dtype) -> None:
    try:
        os.replace(partial, path)  # noqa: PTH105 (the one that is named for being atomic)
    except PermissionError:
        if _load(path, shape, kind) is None:  # Windows keeps a file that another process has mapped; it is then as good
            raise


def _sweep(folder: Path) -> None:
    """Remove what killed processes left."""
    for partial in folder.glob("*.partial"):
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime > ABANDONED:
                partial.unlink()


@contextmanager
def _clear_errors(folder: Path, need: int) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise UpstairsError(
            f"the cache folder {folder} cannot take {need / 1e6:.0f} MB ({error}): "
            "free some disk, or set UPSTAIRS_CACHE to a folder that can be written"
        ) from error
