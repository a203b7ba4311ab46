"""Opening data: the splits that settings name, and the tasks that runs are judged on."""

from collections.abc import Sequence
from typing import Any

from upstairs.console import counting
from upstairs.defaults import absolute
from upstairs.errors import UpstairsError
from upstairs.run import Run, refuse_other_kind
from upstairs.tasks.audio import AudioFormat
from upstairs.tasks.datasets import open_data, open_source
from upstairs.tasks.episodes import Episodes
from upstairs.tasks.functions import function_splits
from upstairs.tasks.sounds import is_sound, open_sounds, sound_splits
from upstairs.tasks.sources import Source, Splits
from upstairs.tasks.tables import is_text, open_texts, text_splits


def open_splits(settings: dict[str, Any], *, quiet: bool) -> Splits:
    """The data that settings name, with a bar while pictures are decoded for the first time."""
    if functions := function_splits(settings.get("data", "glyphs")):
        return functions
    if is_text(settings.get("data", "glyphs")):
        with counting("reading texts", quiet=quiet) as progress:
            return text_splits(
                settings["data"],
                split=settings.get("split"),
                seed=settings.get("split_seed") or 0,
                columns=settings.get("columns"),
                encoder=settings.get("encoder"),
                progress=progress,
            )
    if is_sound(settings.get("data", "glyphs")):
        with counting("reading sounds", quiet=quiet) as progress:
            return sound_splits(
                settings["data"],
                split=settings.get("split"),
                seed=settings.get("split_seed") or 0,
                progress=progress,
            )
    with counting("reading pictures", quiet=quiet) as progress:
        return open_data(
            settings.get("data", "glyphs"),
            split=settings.get("split"),
            seed=settings.get("split_seed") or 0,
            progress=progress,
        )


def choose_source(run: Run, data: str | None, split: str | None, *, quiet: bool) -> tuple[Source, str, str]:
    """The classes to evaluate on, with the data's name and the split's."""
    if functions := function_splits(data or run.settings.data):
        if split not in (None, "test"):
            raise UpstairsError(
                f"--split is '{split}' and {functions.test.name} has no split, since every task is a new function: "
                "leave it out"
            )
        return functions.test, functions.test.name, "test"
    own = data is None or absolute(data) == run.settings.data
    split = split or ("test" if own else "all")
    if split not in ("train", "val", "test", "all"):
        raise UpstairsError(f"--split is '{split}': choose train, val, test or all")
    if own and split != "all":
        return getattr(open_splits(run.settings.to_json(), quiet=quiet), split), run.settings.data, split
    form, name = run.inputs.format, str(data or run.settings.data)
    if run.inputs.are_texts or isinstance(form, AudioFormat):
        if split != "all":
            raise UpstairsError(f"--split is '{split}' and {name} is judged whole: leave it out")
        with counting("reading examples", quiet=quiet) as progress:
            if isinstance(form, AudioFormat):
                return open_sounds(name, format=form, progress=progress), name, split
            columns = run.settings.columns if own else None
            return open_texts(name, columns=columns, format=form, progress=progress), name, split
    with counting("reading pictures", quiet=quiet) as progress:
        size, channels, ink = (form.size, form.channels, form.ink) if form else (None, None, None)
        if split == "all":
            return open_source(name, size=size, channels=channels, ink=ink, progress=progress), name, split
        splits = open_data(name, size=size, channels=channels, ink=ink, progress=progress)
        return getattr(splits, split), name, split


def choose_episodes(
    runs: Sequence[Run],
    *,
    data: str | None,
    split: str | None,
    way: int | None,
    shot: int | None,
    query: int | None,
    quiet: bool,
) -> tuple[Episodes, str, str]:
    """The tasks to evaluate on, with the data's name and the split's; what is left out is what all runs can do."""
    source, name, part = choose_source(runs[0], data, split, quiet=quiet)
    refuse_other_kind(runs, source)
    if shot is None:
        shot = runs[0].settings.shots[1] if source.functions else 1
    if source.functions:
        return Episodes(source, way=way or 0, shot=shot, query=query or 15), name, part
    if way is None:
        way = min([5, max(2, len(source)), *(run.learner.max_way or 5 for run in runs)])
    smallest = min((len(rows) for rows in source.rows), default=0)
    if query is None:
        query = max(1, min(15, smallest - shot))
    episodes = Episodes(source, way=way, shot=shot, query=query)
    for run in runs:
        run.learner.for_way(way)  # refused before anything is scored
    return episodes, name, part
