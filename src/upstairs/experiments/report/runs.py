"""The report of runs from their directories."""

from pathlib import Path

from upstairs.console import counting
from upstairs.data.open import open_splits
from upstairs.errors import UpstairsError
from upstairs.experiments.report.drawings import measure_drawings
from upstairs.experiments.report.measure import measure
from upstairs.experiments.report.page import write_report
from upstairs.training.run import load, refuse_unlike


def report_runs(paths: list[Path], *, out: Path | None, tasks: int, seed: int, quiet: bool, command: str) -> Path:
    """Measure the runs on their test classes and write the page.

    Raises:
        UpstairsError: no run was given, one cannot be read, or they cannot be compared.
    """
    if not paths:
        raise UpstairsError("no run was given: write `upstairs report RUN...`")
    runs = [load(path) for path in paths]
    refuse_unlike(runs)
    if runs[0].settings.way == 0:
        raise UpstairsError(f"{paths[0]} learned regression and a report is about classes: use evaluate and compare")
    splits = open_splits(runs[0].settings.to_json(), quiet=quiet)
    if any(run.settings.way == 1 for run in runs):
        drawn = measure_drawings(runs, splits, tasks=tasks, seed=seed, command=command)
        return write_report(drawn, out or paths[0] / "report.html")
    with counting("measuring", quiet=quiet) as progress:
        report = measure(runs, splits, tasks=tasks, seed=seed, command=command, progress=progress)
    return write_report(report, out or paths[0] / "report.html")
