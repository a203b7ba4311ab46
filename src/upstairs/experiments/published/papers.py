"""The published experiments of papers.toml, with the papers' numbers."""

import difflib
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from upstairs.errors import UpstairsError
from upstairs.experiments.published.protocol import Dataset, Experiment, Row, Task


def read_task(text: str) -> Task:
    """Parses "5w1s" into way and shot; the way of "5s", a regression task, is None."""
    way, _, shot = text.removesuffix("s").rpartition("w")
    return (int(way) if way else None), int(shot)


def read_row(values: dict[str, Any]) -> Row:
    for name in ("numbers", "at", "test_steps"):
        values[name] = {read_task(task): value for task, value in values.get(name, {}).items()}
    values["numbers"] = {task: (score, *rest, None)[:2] for task, (score, *rest) in values["numbers"].items()}
    values["differs"] = tuple(values.get("differs", ()))
    return Row(**values)


@cache
def experiments() -> dict[str, Experiment]:
    """Returns every experiment by its name, in the order of the file."""
    tables = tomllib.loads(files("upstairs.experiments.published").joinpath("papers.toml").read_text(encoding="utf-8"))
    for own in tables["dataset"].values():
        if "tasks" in own:
            own["tasks"] = tuple(read_task(task) for task in own["tasks"])
    datasets = {name: Dataset(**own) for name, own in tables["dataset"].items()}
    found = {}
    for row in map(read_row, tables["row"]):
        dataset = datasets[row.data]
        for way, shot in dataset.tasks:
            name = f"{row.data}-{f'{way}w' if way else ''}{shot}s-{row.method}"
            found[name] = Experiment(name, row, dataset, way, shot)
    return found


def find_experiment(name: str) -> Experiment:
    """Returns the experiment of a name.

    Raises:
        UpstairsError: there is none; it suggests similar names.
    """
    table = experiments()
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name.replace("_", "-"), table, n=3, cutoff=0.6)
    near = near or [other for other in table if name and name in other][:3]
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    raise UpstairsError(f"there is no experiment '{name}': {meant}`upstairs reproduce --list` names them all")


def describe_experiments() -> str:
    """Lists every experiment with its published number, by data set."""
    lines: list[str] = []
    for one in experiments().values():
        needs = "" if one.regression else f"; --data: {one.dataset.data}"
        if (title := f"{one.dataset.title}: {one.dataset.about}{needs}") not in lines:
            lines.append(title)
        number = "no published number" if one.published is None else f"published {one.published[0]:.2f}"
        lines.append(f"  {one.name:<38} {number:<20} {one.steps:>7,} steps")
    return "\n".join(lines)
