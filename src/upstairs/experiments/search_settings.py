"""`upstairs search`: a learner's settings searched by training runs, judged on the validation tasks."""

import json
from collections.abc import Sequence
from dataclasses import fields
from itertools import count
from pathlib import Path
from typing import Any, get_args

from upstairs.engine.metrics import score_kind
from upstairs.errors import NonFiniteError, UpstairsError
from upstairs.experiments.search import Found, Range, Report, Space, search
from upstairs.settings import Settings, refuse_choice
from upstairs.storage import write_atomically
from upstairs.training.defaults import draft
from upstairs.training.pretrain import prepare
from upstairs.training.train import open_run
from upstairs.training.trainer import train_run

DATA_SETTINGS = {
    "data", "split", "split_seed", "mix", "columns", "encoder", "train_classes", "rotate_classes",
    "mirror_classes", "train_on_validation", "splice", "spoken",
}  # fmt: skip
FORM = "write it as rate=1e-4..1e-1:log, inner_steps=1..5 or norm=batch,group"


def parse_space(words: Sequence[str]) -> dict[str, Range | list[Any]]:
    """Settings to vary: `name=low..high`, the same with `:log`, or `name=one,two,three`.

    Raises:
        UpstairsError: what cannot be read, or no setting of that name.
    """
    kinds = {f.name: f.type for f in fields(Settings) if f.name not in ("learner", "classes")}
    space: dict[str, Range | list[Any]] = {}
    for word in words:
        name, _, text = word.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if name not in kinds:
            raise UpstairsError(f"there is no setting '{name}' to vary: `upstairs train --help` names them all")
        text, _, how = text.partition(":")
        low, dots, high = text.partition("..")
        words_only = str in (get_args(kinds[name]) or (kinds[name],))  # a path, or a range of shots
        ends = [_value(low), _value(high)]
        if dots and not words_only and all(isinstance(v, int | float) for v in ends) and how in ("", "log"):
            space[name] = Range(ends[0], ends[1], log=how == "log")
        elif dots or how or not text:
            raise UpstairsError(f"'{word}' cannot be read: {FORM}")
        else:
            space[name] = values = [v if words_only else _value(v) for v in text.split(",")]
            for value in values:
                refuse_choice(name, value)
    return space


def search_settings(
    given: dict[str, Any], space: Space, *, out: Path, trials: int = 20, storage: str | None = None,
    earlier: Sequence[str] = (), quiet: bool = False,
) -> Found:  # fmt: skip
    """Train a run for every trial, in a folder of its own below `out`; one that trails the others ends early.

    Args:
        given: the settings that stay, with `learner`; those varied win.
        storage: as `search` takes it; None: search.db beside `out`, so that searches of one folder can start from each
            other.
        earlier: names (folders' names) of searches in the same storage to start from.

    Raises:
        UpstairsError: settings or data that cannot be used, or Optuna is not installed.
    """
    start = {**given, **{n: _ends(r)[0] for n, r in space.items()}}
    first, splits = open_run(start, out, quiet=quiet)
    for name, of in space.items():  # a choice that cannot be is told before hours of trials, not after
        for value in _ends(of):
            draft({**start, name: value}, regression=splits.train.functions is not None)
    known = None if DATA_SETTINGS & set(space) else splits
    maximise = not score_kind(first.episodes).less_is_better

    def score(settings: dict[str, Any], report: Report) -> float:
        run, data = open_run({**given, **settings}, _own_folder(out), quiet=True, splits=known)
        if run.validation is None:
            raise UpstairsError(
                "a search needs the score of validation tasks and there are none: add classes, or leave out "
                "--train-on-validation"
            )
        write_atomically(run.out / "settings.json", json.dumps(run.settings.to_json(), indent=1).encode())
        prepare(run, data, quiet=True)
        seen, name = 0, score_kind(run.episodes).name

        def tell(status: Any) -> None:
            nonlocal seen
            if len(run.progress.history) > seen:
                seen = len(run.progress.history)
                report(seen, run.progress.history[-1][name])

        try:
            train_run(run, tell)
        except UpstairsError as error:
            if not isinstance(error.__cause__, NonFiniteError):
                raise
            return float("-inf") if maximise else float("inf")  # settings with which it diverges are bad ones
        assert run.progress.best is not None  # the last validation is at the end of the budget
        return run.progress.best

    out.parent.mkdir(parents=True, exist_ok=True)
    return search(
        score, space, trials=trials, maximise=maximise, storage=storage or out.parent / "search.db", name=out.name,
        earlier=earlier, seed=int(given.get("seed", 0)),
    )  # fmt: skip


def describe(found: Found) -> str:
    """The best settings, as they are typed."""
    words = " ".join(f"--{n.replace('_', '-')} {v}" for n, v in found.settings.items())
    ended = f"{found.trials} trials, {found.pruned} ended early"
    return f"{ended}; best on validation tasks, which chose it: {found.score:.4f} with {words}"


def _own_folder(out: Path) -> Path:
    """The next trial's, also where other processes search here."""
    out.mkdir(parents=True, exist_ok=True)
    for number in count():
        try:
            (out / f"trial-{number:03}").mkdir()
        except FileExistsError:
            continue
        return out / f"trial-{number:03}"
    raise AssertionError("numbers do not end")


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _ends(of: Range | Sequence[Any]) -> Sequence[Any]:
    return (of.low, of.high) if isinstance(of, Range) else of
