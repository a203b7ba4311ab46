"""`upstairs report --all`: every figure in one page, with the short trainings that some figures need."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from upstairs.console import counting, tell_user
from upstairs.core import Learner
from upstairs.data.mixture import episodes_of
from upstairs.data.open import open_splits
from upstairs.data.source import Source
from upstairs.data.splits import Splits
from upstairs.engine.evaluate import enough_seeds
from upstairs.errors import UpstairsError
from upstairs.experiments.breadth import NEAREST, breadth, summary, with_short_names
from upstairs.experiments.report.cache import Remembered
from upstairs.experiments.report.drawings import measure_drawings
from upstairs.experiments.report.measure import QUERY, measure, name_runs, score
from upstairs.experiments.report.page import write_report
from upstairs.experiments.sweeps import all_kinds, class_counts, class_groups, lengths, variant
from upstairs.learners import nearest_centroid
from upstairs.training.run import Run, check_comparable, load

WAY = 5
ALL: dict[str, Any] = {"train_classes": None, "rotate_classes": False, "mirror_classes": False}  # the data's classes


class Survey(NamedTuple):
    """The common settings of all measurements: the cache of scores, the tasks, and the budget of a training."""

    memory: Remembered
    seeds: list[int]
    minutes: float
    quiet: bool

    def scores(self, what: str, jobs: Iterable[tuple[dict[str, Any], Learner, Source]]) -> list[dict[str, Any]]:
        """Evaluates jobs of label, learner and source.

        Tasks are 5-way 1-shot, or as near to it as classes and learner allow.
        """
        jobs, found = list(jobs), []
        with counting(f"measuring {what}", quiet=self.quiet) as progress:
            for label, learner, source in jobs:
                query = max(1, min(QUERY, min(len(rows) for rows in source.rows) - 1))
                way = min(WAY, source.most_way, learner.max_way or WAY)
                episodes = episodes_of(source, way=way, shot=1, query=query)
                found.append(score(label, learner, episodes, self.seeds, self.memory))
                if progress:
                    progress(len(found), len(jobs))
        return found

    def train(self, run: Run, name: str, changes: dict[str, Any], splits: Splits | None = None) -> Run:
        """Trains a variant of a run with some settings changed."""
        where = run.path / "sweeps" / name
        what = f"training {run.settings.learner}, {name}"
        return variant(run, changes, where, minutes=self.minutes, what=what, quiet=self.quiet, splits=splits)


def report_runs(
    paths: Sequence[Path | Run], *, out: Path | None = None, tasks: int = 600, seed: int = 0, quiet: bool = False,
    command: str = "",
) -> Path:  # fmt: skip
    """Evaluates the runs on their test classes and writes the page.

    Raises:
        UpstairsError: no run was given, one cannot be read, or they cannot be compared.
    """
    runs, _ = open_runs(paths)
    check_comparable(runs)
    splits = runs[0].splits or open_splits(runs[0].settings, quiet=quiet)
    if any(run.settings.task_kind == "generation" for run in runs):
        report = measure_drawings(runs, splits, tasks=tasks, seed=seed, command=command)
    else:
        with counting("measuring", quiet=quiet) as progress:
            report = measure(runs, splits, tasks=tasks, seed=seed, command=command, progress=progress)
    return write_report(report, out or runs[0].path / "report.html")


def survey(
    paths: Sequence[Path | Run],
    *,
    data: Sequence[str] = (),
    out: Path | None = None,
    minutes: float = 1.0,
    tasks: int = 600,
    seed: int = 0,
    quiet: bool = False,
    command: str = "",
) -> Path:
    """Writes the report of runs with all figures; earlier measurements and trainings are reused.

    The page is written again after each measurement.

    Args:
        paths: runs; those on the data of the first are compared, all of them are rows of the matrix.
        data: data sets to test every run on; empty: the training data of the runs.
        minutes: the budget of each short training.

    Raises:
        UpstairsError: no run was given, one cannot be read, or they cannot be compared.
    """
    everyone, runs = open_runs(paths)
    if minutes <= 0:
        raise UpstairsError("write `upstairs report RUN... --all`, with `minutes` above 0 for each training")
    check_comparable(runs)
    splits = runs[0].splits or open_splits(runs[0].settings, quiet=quiet)
    kinds = class_groups(splits, least=WAY, seed=seed)
    memory, page = Remembered(runs[0].path / "measured.jsonl"), out or runs[0].path / "report.html"
    shared = Survey(memory, enough_seeds(seed, tasks), minutes, quiet)
    if not quiet:
        own = [len(class_counts(run, all_classes(run))) + len(lengths(run)) for run in runs]
        plan = sum(own) + len(runs) * (len(kinds) + bool(kinds))
        tell_user(f"{plan} trainings of {minutes:g} minutes, but for those that are there already")
    with counting("measuring", quiet=quiet) as progress:
        report = measure(
            runs, splits, tasks=tasks, seed=seed, command=command, more=True, memory=memory, progress=progress
        )
    columns = list(data) or sorted({run.settings.data for run in everyone})
    found = [] if len(columns) < 2 else [breadth(paths, columns, tasks=tasks, seed=seed, quiet=quiet, memory=memory)]
    report["matrices"] = [with_short_names(matrix) for matrix in found]
    write_report(report, page)
    for run, name in zip(runs, name_runs(runs), strict=True):
        head = {"learner": name, "way": WAY, "shot": 1, "minutes": minutes}
        report.setdefault("depth_classes", []).append(head | by_classes(shared, run))
        if points := by_length(shared, run):
            report.setdefault("depth_length", []).append(head | {"points": points})
        if kinds:
            report["matrices"].append(by_kinds(shared, run, name, kinds=kinds))
        write_report(report, page)
    return page


def open_runs(paths: Sequence[Path | Run]) -> tuple[list[Run], list[Run]]:
    """Returns all runs, and those on the data of the first.

    Raises:
        UpstairsError: there is none, one cannot be read, or one learned regression.
    """
    if not paths:
        raise UpstairsError("no run was given: write `upstairs report RUN...`")
    runs = [load(path) for path in paths]
    if runs[0].settings.task_kind == "regression":
        raise UpstairsError(
            f"{runs[0].path} learned regression and a report is about classes: use evaluate and compare"
        )
    return runs, [run for run in runs if run.settings.data == runs[0].settings.data]


def all_classes(run: Run) -> int:
    """Returns the number of training classes of the run's data, also where it was trained on a part of them."""
    return len(open_splits(replace(run.settings, **ALL), quiet=True).train)


def by_classes(shared: Survey, run: Run) -> dict[str, Any]:
    """Evaluates new classes (`points`) and training classes (`trained`) for several numbers of training classes."""
    jobs = []
    for count in class_counts(run, all_classes(run)):
        changes = {"train_classes": count}
        learner = shared.train(run, f"train-classes-{count}", changes).learner
        splits = open_splits(replace(run.settings, **changes), quiet=True)
        jobs += [({"classes": count}, learner, part) for part in (splits.test, splits.train)]
    found = shared.scores("few classes", jobs)
    return {"points": found[::2], "trained": found[1::2]}


def by_length(shared: Survey, run: Run) -> list[dict[str, Any]]:
    """Evaluates several lengths of the inner loop, in training and testing."""
    test = open_splits(run.settings, quiet=True).test
    jobs = [
        ({"length": steps}, shared.train(run, f"inner-steps-{steps}", {"inner_steps": steps}).learner, test)
        for steps in lengths(run)
    ]
    return shared.scores("inner loops", jobs)


def by_kinds(shared: Survey, run: Run, name: str, *, kinds: dict[str, Splits]) -> dict[str, Any]:
    """Returns the matrix of accuracies after training on one kind of classes (rows) and testing on each (columns)."""
    rows: list[dict[str, Any]] = []
    for kind, splits in [*kinds.items(), ("all", all_kinds(kinds))]:
        # all classes of the kind, also where the run was trained on a part
        learner = shared.train(run, f"kind-{kind.replace('/', '-')}", ALL, splits).learner
        cells = shared.scores(f"kinds after {kind}", [({}, learner, part.test) for part in kinds.values()])
        is_own = [kind == other or kind not in kinds for other in kinds]
        rows.append({"name": name, "trained_on": kind, "transductive": learner.transductive, **summary(cells, is_own)})
    plain = shared.scores("kinds", [({}, nearest_centroid(part.test, way=WAY), part.test) for part in kinds.values()])
    rows.append({"name": NEAREST, "trained_on": "", "transductive": False, **summary(plain)})
    head = {"data": list(kinds), "way": WAY, "shot": 1, "tasks": len(shared.seeds), "minutes": shared.minutes}
    return {**head, "rows": rows}
