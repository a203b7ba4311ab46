"""Scores of tasks kept in a run's folder: a stopped measurement loses nothing, and none is made twice."""

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

BLOCK = 96  # about so many tasks are kept at a time


class Remembered:
    """`score_tasks` that keeps what it found as lines of a file; call it as that.

    A line belongs to what decides a score: the learner's kind, numbers and weights, the examples of the source, the
    tasks (of each block two are drawn and compared), and this version of the library. So a run that was trained on, or
    data that changed, is measured anew. A last line that a stop has torn is left out.

    Args:
        path: the file; None keeps it in memory alone.
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
        """The score of each task, from the file as far as it is there."""
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
        """A name that differs where the examples do; the source is kept with it, so that its id stays its own."""
        if id(source) not in self.sources:
            self.sources[id(source)] = source, _name(source)
        return self.sources[id(source)][1]

    def keep(self, key: str, scores: list[float]) -> None:
        """A line more, on the disk before the next measurement starts.

        Raises:
            UpstairsError: the file cannot be written.
        """
        self.known[key] = scores
        if self.path is None:
            return
        try:
            with self.path.open("ab") as file:
                # a torn line of an earlier stop ends here
                file.write(b"\n" * (file.tell() > 0) + json.dumps({"key": key, "scores": scores}).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UpstairsError(f"{self.path} cannot be written ({error.strerror}): free some room") from error


def fingerprint(learner: Learner) -> str:
    """A short name of all that a learner's scores depend on: its modules, their numbers, its weights."""
    found = sha256()
    for name, module in learner.named_modules():
        own = {k: v for k, v in vars(module).items() if not k.startswith("_") and k != "training"}
        words = json.dumps([name, type(module).__qualname__, own], sort_keys=True, skipkeys=True, default=_plain)
        found.update(words.encode())
    for name, tensor in learner.state_dict().items():
        found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _plain(value: Any) -> Any:
    """An object (a rule, a way to differentiate) by its type and its own numbers and words."""
    own = {k: v for k, v in getattr(value, "__dict__", {}).items() if isinstance(v, bool | int | float | str)}
    return [type(value).__qualname__, own]


def digest(tasks: Task) -> str:
    """A name that differs where tasks do."""
    found = sha256()
    for leaf in (*tasks.support, *tasks.query):
        found.update(leaf.contiguous().numpy().tobytes())
    return found.hexdigest()[:24]


def _name(source: Source) -> str:
    """From labels, rows, turns and a sample of the examples; of a mixture, of its parts."""
    if source.functions:
        return repr(source.functions)
    found = sha256(json.dumps([source.labels, source.turns, source.weights, type(source.augment).__name__]).encode())
    for own, part in [(source, part) for part in source.parts] or [(source, source)]:
        found.update(json.dumps([part.name, own.weights]).encode())
        for rows in part.rows:
            found.update(np.asarray(rows).tobytes())
            found.update(np.ascontiguousarray(part.inputs[rows[:1]]).tobytes())
    return found.hexdigest()
