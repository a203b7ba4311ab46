"""A store of features by the content of what they were computed from, so that none is computed twice."""

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image

from upstairs.data.cache import Progress, cache_directory
from upstairs.errors import UpstairsError, reason

BATCH = 64  # inputs that the encoder receives at once
WAIT = 60.0  # seconds for another process to finish writing
TABLES = """
    CREATE TABLE IF NOT EXISTS features (content BLOB PRIMARY KEY, row BLOB) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, changed INTEGER, content BLOB) WITHOUT ROWID;
"""


class FeatureStore:
    """The features that one encoder has computed, in a file of the cache folder; several processes may share it.

    Args:
        reading: any text that changes whenever the features do.
        size: the number of features.

    Raises:
        UpstairsError: the cache folder cannot be written, or is full.
    """

    def __init__(self, reading: str, size: int) -> None:
        self.size = size
        self.path = cache_directory() / f"features-{hashlib.sha256(reading.encode()).hexdigest()[:32]}.sqlite"

    def __enter__(self) -> "FeatureStore":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = self._connect()
        except (sqlite3.Error, OSError) as error:
            raise self._refusal(error) from error
        return self

    def _connect(self) -> sqlite3.Connection:
        try:
            return self._open()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:  # a damaged file: its features are computed again
            self.path.unlink(missing_ok=True)
            return self._open()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=WAIT)
        try:
            connection.executescript(TABLES)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def __exit__(self, *error: object) -> None:
        with suppress(sqlite3.Error):
            self.connection.commit()
        self.connection.close()

    def _refusal(self, error: Exception) -> UpstairsError:
        return UpstairsError(
            f"the cache file {self.path} cannot be used ({reason(error)}): free some disk, remove the file, or set "
            "UPSTAIRS_CACHE to a folder that can be written"
        )

    def content(self, item: Any) -> bytes:
        """Returns a digest of the content of a raw input; that of a file is remembered (see `content_of_file`)."""
        if not isinstance(item, Path) or not item.is_file():
            return content_of_value(item)
        stamp = item.stat()
        return self.content_of_file(str(item.absolute()), (stamp.st_size, stamp.st_mtime_ns), lambda: item)

    def content_of_file(self, path: str, stamp: tuple[int, int], item: Callable[[], Path | bytes]) -> bytes:
        """Returns a digest of the content of a file, which is read only if its stamp has changed.

        Args:
            path: its absolute name; that of a file in an archive begins with the archive's.
            stamp: two numbers that change with the content.
            item: returns its path, or its bytes.
        """
        try:
            known = self.connection.execute("SELECT size, changed, content FROM files WHERE path = ?", (path,))
            if (row := known.fetchone()) and row[:2] == stamp:
                return row[2]
            found = content_of_value(own.read_bytes() if isinstance(own := item(), Path) else own)
            self.connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", (path, *stamp, found))
        except sqlite3.Error as error:
            raise self._refusal(error) from error
        return found

    def rows(
        self, contents: Sequence[bytes], prepare: Callable[[int], np.ndarray | None],
        embed: Callable[[Sequence[np.ndarray]], Float32[np.ndarray, "n size"]], progress: Progress | None = None,
    ) -> Iterator[Float32[np.ndarray, " size"]]:  # fmt: skip
        """Yields the features of each input; what is not kept is prepared in threads and embedded in batches.

        Args:
            contents: a digest of each input.
            prepare: the place of an input -> the encoder's input; None where it cannot be read: its features are zero.
            embed: the encoder's inputs -> their features.
        """
        parts = [range(start, min(start + BATCH, len(contents))) for start in range(0, len(contents), BATCH)]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            ahead = self._begin(parts[0], contents, prepare, pool) if parts else {}
            for place, part in enumerate(parts):
                pending = ahead  # the next part is prepared while this one is embedded
                ahead = self._begin(parts[place + 1], contents, prepare, pool) if place + 1 < len(parts) else {}
                made = {content: one for content, future in pending.items() if (one := future.result()) is not None}
                rows = dict(zip(made, embed([*made.values()]), strict=True)) if made else {}
                self._put(rows)
                found = rows | self._get([contents[i] for i in part if contents[i] not in rows])
                for i in part:
                    yield found.get(contents[i], np.zeros(self.size, np.float32))
                if progress:
                    progress(part.stop, len(contents))

    def _begin(
        self, part: range, contents: Sequence[bytes], prepare: Callable[[int], np.ndarray | None],
        pool: ThreadPoolExecutor,
    ) -> "dict[bytes, Future[np.ndarray | None]]":  # fmt: skip
        """Starts to prepare the inputs of a part whose features are not kept, each content once."""
        own = {contents[i]: i for i in reversed(part)}
        known = self._get([*own])
        return {content: pool.submit(prepare, i) for content, i in own.items() if content not in known}

    def _get(self, contents: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        marks = ",".join("?" * len(contents))
        try:
            found = self.connection.execute(f"SELECT content, row FROM features WHERE content IN ({marks})", contents)
            rows = dict(found)
        except sqlite3.Error as error:
            raise self._refusal(error) from error
        return {content: np.frombuffer(row, np.float32) for content, row in rows.items() if len(row) == 4 * self.size}

    def _put(self, rows: dict[bytes, np.ndarray]) -> None:
        values = [(content, np.ascontiguousarray(row, np.float32).tobytes()) for content, row in rows.items()]
        try:
            with self.connection:  # commits, so that an interrupted run keeps what it has computed
                self.connection.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", values)
        except sqlite3.Error as error:
            raise self._refusal(error) from error


def content_of_value(item: Any) -> bytes:
    """Returns a digest of bytes, a text, an array, a picture, or a pair such as (samples, rate)."""
    found = hashlib.sha256(type(item).__name__.encode() if not isinstance(item, bytes) else b"")
    if isinstance(item, bytes):
        found.update(item)
    elif isinstance(item, Image.Image):
        with suppress(Exception):  # a broken picture is named when it is read
            how = (item.mode, item.size, item.info.get("transparency"), item.getpalette(), dict(item.getexif()))
            found.update(repr(how).encode())
            found.update(item.tobytes())
    elif isinstance(item, tuple | list):
        for one in item:
            found.update(content_of_value(one))
    elif isinstance(item, dict):
        for key, one in item.items():
            found.update(content_of_value((key, one)))
    elif hasattr(item, "__array__"):
        array = np.ascontiguousarray(item)
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    else:
        found.update(str(item).encode("utf-8", "surrogateescape"))
    return found.digest()
