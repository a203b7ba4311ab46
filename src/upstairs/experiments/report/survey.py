"""`upstairs report --all`: every figure of depth and breadth in one page, with the small trainings that some need."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from upstairs.console import counting, tell_user
from upstairs.core import Learner
from upstairs.data.mixture import episodes_of
from upstairs.data.open import open_splits
from upstairs.data.source import Source
from upstairs.data.splits import Splits
from upstairs.engine.evaluate import enough_seeds
from upstairs.errors import UpstairsError
from upstairs.experiments.breadth import breadth, summary, with_short_names
from upstairs.experiments.report.cache import Remembered
from upstairs.experiments.report.drawings import measure_drawings
from upstairs.experiments.report.measure import QUERY, measure, name_runs, score
from upstairs.experiments.report.page import write_report
from upstairs.experiments.sweeps import all_kinds, class_counts, kinds_of, lengths, variant
from upstairs.learners import nearest_centroid
from upstairs.training.run import Run, check_comparable, load

WAY = 5
ALL: dict[str, Any] = {"train_classes": None, "rotate_classes": False, "mirror_classes": False}  # those of the data


class Survey:
    """What all measurements share: the tasks, the memory of scores, and the budget of a training."""

    def __init__(self, memory: Remembered, *, seeds: list[int], minutes: float, quiet: bool) -> None:
        self.memory, self.seeds, self.minutes, self.quiet = memory, seeds, minutes, quiet

    def score(self, label: dict[str, Any], learner: Learner, source: Source) -> dict[str, Any]:
        """Of 5-way 1-shot tasks, or as near to it as classes and learner allow."""
        smallest = min(len(rows) for rows in source.rows)
        way = min(WAY, source.most_way, learner.max_way or WAY)
        episodes = episodes_of(source, way=way, shot=1, query=max(1, min(QUERY, smallest - 1)))
        return score(label, learner, episodes, self.seeds, self.memory)

    def scores(self, what: str, jobs: Iterable[tuple[dict[str, Any], Learner, Source]]) -> list[dict[str, Any]]:
        """Several of them, with a bar."""
        jobs, found = list(jobs), []
        with counting(f"measuring {what}", quiet=self.quiet) as progress:
            for job in jobs:
                found.append(self.score(*job))
                if progress:
                    progress(len(found), len(jobs))
        return found

    def train(self, run: Run, name: str, changes: dict[str, Any], splits: Splits | None = None) -> Run:
        """A small training beside a run."""
        where = run.path / "sweeps" / name
        what = f"training {run.settings.learner}, {name}"
        return variant(run, changes, where, minutes=self.minutes, what=what, quiet=self.quiet, splits=splits)


def survey(
    paths: Sequence[Path],
    *,
    data: Sequence[str] = (),
    out: Path | None = None,
    minutes: float = 1.0,
    tasks: int = 600,
    seed: int = 0,
    quiet: bool = False,
    command: str = "",
) -> Path:
    """The report of runs with all of depth and breadth. What was measured or trained before is not again.

    Trained beside each run, `minutes` each: with 25, 100, 400 and all training classes; with inner loops of 1, 3, 5 and
    10 steps, where there is one; on each of the four largest kinds of its classes alone, and on all four. The page is
    written after each of these, so that a survey that is stopped leaves what it has.

    Args:
        paths: runs; those on other data than the first are rows of the matrix of data sets alone.
        data: the columns of that matrix; empty: what the runs were trained on.

    Raises:
        UpstairsError: no run, one that learned regression, a budget that is none, or data that cannot be used.
    """
    if not paths or minutes <= 0:
        raise UpstairsError("write `upstairs report RUN... --all`, with `minutes` above 0 for each training")
    everyone = [load(path) for path in paths]
    if everyone[0].settings.task_kind == "regression":
        raise UpstairsError(f"{paths[0]} learned regression and a report is about classes: use evaluate and compare")
    runs = [run for run in everyone if run.settings.data == everyone[0].settings.data]
    check_comparable(runs)
    splits = open_splits(runs[0].settings, quiet=quiet)
    kinds = kinds_of(splits, least=WAY, seed=seed)
    shared = Survey(
        Remembered(paths[0] / "measured.jsonl"), seeds=enough_seeds(seed, tasks), minutes=minutes, quiet=quiet
    )
    own = [len(class_counts(run, all_classes(run))) + len(lengths(run)) for run in runs]
    plan = sum(own) + len(runs) * (len(kinds) + bool(kinds))
    if not quiet:
        tell_user(f"{plan} trainings of {minutes:g} minutes, but for those that are there already")
    page = out or paths[0] / "report.html"
    with counting("measuring", quiet=quiet) as progress:
        report = measure(
            runs, splits, tasks=tasks, seed=seed, command=command, more=True, memory=shared.memory, progress=progress
        )
    report["matrices"] = []
    columns = list(data) or sorted({run.settings.data for run in everyone})
    if len(columns) > 1:
        found = breadth(paths, columns, tasks=tasks, seed=seed, quiet=quiet, memory=shared.memory)
        report["matrices"].append(with_short_names(found))
    write_report(report, page)
    for run, name in zip(runs, name_runs(runs), strict=True):
        for key, found in (
            ("depth_classes", by_classes(shared, run, name)),
            ("depth_length", by_length(shared, run, name)),
            ("matrices", by_kinds(shared, run, name, kinds=kinds)),
        ):
            report.setdefault(key, []).extend(found)
        write_report(report, page)
    return page


def all_classes(run: Run) -> int:
    """How many training classes the run's data has, whatever part the run was trained on."""
    return len(open_splits(replace(run.settings, **ALL), quiet=True).train)


def by_classes(shared: Survey, run: Run, name: str) -> list[dict[str, Any]]:
    """Accuracy on new classes and on its own against the number of training classes."""
    jobs = []
    for count in class_counts(run, all_classes(run)):
        changes = {"train_classes": count}
        trained = shared.train(run, f"train-classes-{count}", changes)
        splits = open_splits(replace(run.settings, **changes), quiet=True)
        jobs += [({"classes": count}, trained.learner, part) for part in (splits.test, splits.train)]
    found = shared.scores("few classes", jobs)
    head = {"learner": name, "way": WAY, "shot": 1, "minutes": shared.minutes}
    return [{**head, "points": found[::2], "trained": found[1::2]}]


def by_length(shared: Survey, run: Run, name: str) -> list[dict[str, Any]]:
    """Accuracy against the length of the inner loop, in training and in use."""
    test = open_splits(run.settings, quiet=True).test
    jobs = [
        ({"length": steps}, shared.train(run, f"inner-steps-{steps}", {"inner_steps": steps}).learner, test)
        for steps in lengths(run)
    ]
    points = shared.scores("inner loops", jobs)
    return [{"learner": name, "way": WAY, "shot": 1, "minutes": shared.minutes, "points": points}] if points else []


def by_kinds(shared: Survey, run: Run, name: str, *, kinds: dict[str, Splits]) -> list[dict[str, Any]]:
    """The matrix of the kinds of classes that a run was trained on by those it is tested on."""
    if not kinds:
        return []
    rows: list[dict[str, Any]] = []
    for kind, splits in [*kinds.items(), ("all", all_kinds(kinds))]:
        # the classes are those of the kind, whatever part the run itself was trained on
        learner = shared.train(run, f"kind-{kind.replace('/', '-')}", ALL, splits).learner
        cells = shared.scores(f"kinds after {kind}", [({}, learner, part.test) for part in kinds.values()])
        is_own = [kind == other or kind not in kinds for other in kinds]
        rows.append({"name": name, "trained_on": kind, "transductive": learner.transductive, **summary(cells, is_own)})
    plain = shared.scores("kinds", [({}, nearest_centroid(part.test, way=WAY), part.test) for part in kinds.values()])
    rows.append({"name": "nearest centroid", "trained_on": "", "transductive": False, **summary(plain)})
    head = {"data": list(kinds), "way": WAY, "shot": 1, "tasks": len(shared.seeds), "minutes": shared.minutes}
    return [{**head, "rows": rows}]


def report_runs(paths: list[Path], *, out: Path | None, tasks: int, seed: int, quiet: bool, command: str) -> Path:
    """Measure the runs on their test classes and write the page.

    Raises:
        UpstairsError: no run was given, one cannot be read, or they cannot be compared.
    """
    if not paths:
        raise UpstairsError("no run was given: write `upstairs report RUN...`")
    runs = [load(path) for path in paths]
    check_comparable(runs)
    if runs[0].settings.task_kind == "regression":
        raise UpstairsError(f"{paths[0]} learned regression and a report is about classes: use evaluate and compare")
    splits = open_splits(runs[0].settings, quiet=quiet)
    if any(run.settings.task_kind == "generation" for run in runs):
        drawn = measure_drawings(runs, splits, tasks=tasks, seed=seed, command=command)
        return write_report(drawn, out or paths[0] / "report.html")
    with counting("measuring", quiet=quiet) as progress:
        report = measure(runs, splits, tasks=tasks, seed=seed, command=command, progress=progress)
    return write_report(report, out or paths[0] / "report.html")
