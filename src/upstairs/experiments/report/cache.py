"""A cache of task scores in a run's folder, so that a stopped evaluation can be resumed."""

import contextlib
import json
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

import upstairs
from upstairs.core import Learner, Task
from upstairs.data.episodes import Episodes
from upstairs.data.source import Source
from upstairs.engine.evaluate import Progress, chunk_size, score_tasks
from upstairs.engine.metrics import ScoreKind, score_kind
from upstairs.errors import UpstairsError

BLOCK = 96  # the approximate number of tasks in one line of the cache


class Remembered:
    """`score_tasks` with a cache, one line of a file for each block of tasks; it is called like `score_tasks`.

    The key of a line holds all that decides a score: the learner's type, options and weights, the examples of the
    source, the tasks (two of each block are drawn and compared), and the version of the library. A damaged last line is
    ignored.

    Args:
        path: the file; None: memory alone.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self.known = path, dict[str, list[float]]()
        self.sources: dict[int, tuple[Source, str]] = {}
        for line in path.read_bytes().splitlines() if path and path.is_file() else ():
            with contextlib.suppress(ValueError, KeyError):  # the line that was being written at the stop
                row = json.loads(line)
                self.known[row["key"]] = row["scores"]

    def __call__(
        self, learner: Learner, episodes: Episodes, seeds: Sequence[int], *, inductive: bool = False,
        kind: ScoreKind | None = None, chunk: int | None = None, progress: Progress | None = None,
    ) -> Float[np.ndarray, " task"]:  # fmt: skip
        """Returns the score of each task, from the cache where it is there."""
        kind, chunk = kind or score_kind(episodes), chunk or chunk_size(episodes)
        size = chunk * max(1, BLOCK // chunk)  # whole chunks: bit-identical to one call
        tasks = [episodes.way, episodes.shot, episodes.query, episodes.global_labels, inductive, kind.name, chunk]
        head = [upstairs.__version__, fingerprint(learner), self.name_source(episodes.source), *tasks]
        scores: list[float] = []
        for start in range(0, len(seeds), size):
            part = list(seeds[start : start + size])
            words = [*head, part, digest(episodes.batch([part[0], part[-1]]))]
            key = sha256(json.dumps(words).encode()).hexdigest()[:24]
            if key not in self.known:
                own = score_tasks(learner, episodes, part, inductive=inductive, kind=kind, chunk=chunk)
                self.keep(key, own.tolist())
            scores += self.known[key]
            if progress:
                progress(len(scores), len(seeds))
        return np.array(scores)

    def name_source(self, source: Source) -> str:
        """Returns a fingerprint of the source; the source is kept too, so that its id stays unique."""
        if id(source) not in self.sources:
            self.sources[id(source)] = source, _name(source)
        return self.sources[id(source)][1]

    def keep(self, key: str, scores: list[float]) -> None:
        """Appends a line and flushes it to disk.

        Raises:
            UpstairsError: the file cannot be written.
        """
        self.known[key] = scores
        if self.path is None:
            return
        try:
            with self.path.open("ab") as file:
                # the newline ends a damaged line of an earlier stop
                file.write(b"\n" * (file.tell() > 0) + json.dumps({"key": key, "scores": scores}).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UpstairsError(f"{self.path} cannot be written ({error.strerror}): free some room") from error


def fingerprint(learner: Learner) -> str:
    """Returns a hash of all that a learner's scores depend on: its modules, their options, its weights."""
    found = sha256()
    for name, module in learner.named_modules():
        own = {k: v for k, v in vars(module).items() if not k.startswith("_") and k != "training"}
        words = json.dumps([name, type(module).__qualname__, own], sort_keys=True, skipkeys=True, default=_plain)
        found.update(words.encode())
    for name, tensor in learner.state_dict().items():
        found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _plain(value: Any) -> Any:
    """Describes an object, such as an update rule, by its type, numbers and strings."""
    own = {k: v for k, v in getattr(value, "__dict__", {}).items() if isinstance(v, bool | int | float | str)}
    return [type(value).__qualname__, own]


def digest(tasks: Task) -> str:
    """Returns a hash of tasks."""
    found = sha256()
    for leaf in (*tasks.support, *tasks.query):
        found.update(leaf.contiguous().numpy().tobytes())
    return found.hexdigest()[:24]


def _name(source: Source) -> str:
    """Returns a hash of labels, rows, rotations and a sample of the examples; for a mixture, of its parts."""
    if source.functions:
        return repr(source.functions)
    found = sha256(json.dumps([source.labels, source.turns, source.weights, type(source.augment).__name__]).encode())
    for own, part in [(source, part) for part in source.parts] or [(source, source)]:
        found.update(json.dumps([part.name, own.weights]).encode())
        for rows in part.rows:
            found.update(np.asarray(rows).tobytes())
            found.update(np.ascontiguousarray(part.inputs[rows[:1]]).tobytes())
    return found.hexdigest()
