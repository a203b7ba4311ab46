"""Finding a published experiment by its name."""

import difflib

from upstairs.errors import UpstairsError
from upstairs.experiments.published.protocol import Experiment


def recipes() -> dict[str, Experiment]:
    """Every recipe by its name, in the order of the table."""
    from upstairs.experiments.published.papers import DATASETS, ROWS

    found = {}
    for row in ROWS:
        dataset = DATASETS[row.data]
        for way, shot in dataset.tasks:
            name = f"{row.data}-{'' if way is None else f'{way}w'}{shot}s-{row.method}"
            found[name] = Experiment(name, row, dataset, way, shot)
    return found


def find_experiment(name: str) -> Experiment:
    """The recipe of this name.

    Raises:
        UpstairsError: there is none; it names those that are spelled alike.
    """
    table = recipes()
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name.replace("_", "-"), table, n=3, cutoff=0.6)
    near = near or [other for other in table if name and name in other][:3]
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    raise UpstairsError(f"there is no recipe '{name}': {meant}`upstairs reproduce --list` names them all")


def describe_experiments() -> str:
    """Every recipe with its published number, by data set, in lines."""
    lines: list[str] = []
    table = recipes()
    for key in dict.fromkeys(recipe.row.data for recipe in table.values()):
        own = [recipe for recipe in table.values() if recipe.row.data == key]
        dataset = own[0].dataset
        needs = "" if own[0].regression else f"; --data: {dataset.data}"
        lines.append(f"{dataset.title}: {dataset.about}{needs}")
        for recipe in own:
            number = "no published number" if recipe.published is None else f"published {recipe.published[0]:.2f}"
            lines.append(f"  {recipe.name:<38} {number:<20} {recipe.steps:>7,} steps")
    return "\n".join(lines)
