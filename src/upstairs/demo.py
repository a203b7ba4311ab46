"""The main job: watch networks learn to learn, beside not learning to."""

import json
from pathlib import Path

from upstairs.checkpoint import write_atomically
from upstairs.console import counting, print_results
from upstairs.errors import UpstairsError
from upstairs.opening import open_splits
from upstairs.recipes import RECIPES
from upstairs.report.measure import measure
from upstairs.report.page import write_report
from upstairs.run import Run, load
from upstairs.session import resume_run, start_run

NAMES = ("demo_protonet", "demo_maml")
SETTINGS = ((5, 1), (20, 1))


def run_demo(out: Path, *, minutes: float, tasks: int, seed: int, quiet: bool, command: str) -> Path:
    """Train on glyphs, evaluate on unseen scripts, leave results.json and report.html in `out`.

    A demo that was stopped goes on where it stood; one that was finished is measured again.

    Raises:
        UpstairsError: the budget is not above 0, or `out` holds a demo with another budget or seed.
    """
    if not minutes > 0:
        raise UpstairsError(f"--minutes is {minutes}: it must be above 0")
    splits = open_splits({"data": "glyphs"}, quiet=quiet)
    runs: list[Run] = []
    whole = sum(RECIPES[name].settings["minutes"] for name in NAMES)
    for settings in (RECIPES[name].settings for name in NAMES):
        folder = out / settings["learner"]
        budget = {"minutes": round(minutes * settings["minutes"] / whole, 3), "validations": 5, "validation_tasks": 60}
        given = {**settings, **budget, "seed": seed}
        if not (folder / "last.safetensors").exists():
            start_run(given, folder, quiet=quiet, splits=splits)
        else:
            resume_run(folder, given, quiet=quiet)
        runs.append(load(folder))
    with counting("measuring on unseen scripts", quiet=quiet) as progress:
        report = measure(runs, splits, settings=SETTINGS, tasks=tasks, seed=seed, command=command, progress=progress)
    report["title"] = "A network that learned to learn"
    write_atomically(out / "results.json", json.dumps(report["results"], indent=1).encode())
    page = write_report(report, out / "report.html")
    if not quiet:
        print_results(report["results"])
        print(f"open {page} in a browser")
    return page
