"""Opening data: the splits that settings name, the tasks that runs are judged on, and where adapting needs data."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from upstairs.console import counting, tell_user
from upstairs.defaults import absolute
from upstairs.errors import UpstairsError
from upstairs.inputs import Support, read_support
from upstairs.learners import ENOUGH
from upstairs.run import Model, Run, load, refuse_other_kind
from upstairs.tasks.audio import AudioFormat
from upstairs.tasks.datasets import open_data, open_source
from upstairs.tasks.episodes import Episodes
from upstairs.tasks.functions import function_splits
from upstairs.tasks.images import ImageFormat
from upstairs.tasks.mixture import SIGN, episodes_of, mixed_splits
from upstairs.tasks.more_classes import training_classes
from upstairs.tasks.sounds import is_sound, open_sounds, sound_splits
from upstairs.tasks.sources import InputFormat, Source, Splits
from upstairs.tasks.tables import is_text, open_texts, text_splits

UNHEARD: dict[str, Any] = {"spoken": None}  # made-up words serve training alone: no synthesiser is needed after it


def open_splits(settings: dict[str, Any], *, quiet: bool, format: InputFormat | None = None) -> Splits:
    """The data that settings name, with a bar while it is read for the first time.

    Args:
        format: that of a trained run, where the data is for it.
    """
    data = settings.get("data", "glyphs")
    refuse_unread(settings)
    if SIGN in data:
        if settings.get("spoken"):
            raise UpstairsError(
                f"--spoken adds made-up words to one data set and --data is {data}: name one, or leave --spoken out"
            )
        mix = parse_mix(settings["mix"]) if settings.get("mix") else None
        own = {**settings, "mix": None}
        other = {**own, "columns": None, "encoder": None}
        parts = [
            open_splits({**(own if is_text(part) else other), "data": part}, quiet=quiet, format=format)
            for part in data.split(SIGN)
        ]
        return mixed_splits(parts, mix)
    return limited(open_one(settings, quiet=quiet, format=format), settings, quiet=quiet)


def limited(splits: Splits, settings: dict[str, Any], *, quiet: bool = True) -> Splits:
    """With the training classes that the settings ask for."""
    count, rotate, mirror = (settings.get(name) for name in ("train_classes", "rotate_classes", "mirror_classes"))
    splice, spoken, seed = settings.get("splice"), settings.get("spoken") or 0, settings.get("split_seed") or 0
    with counting("saying words", quiet=quiet or not spoken) as progress:
        return training_classes(
            splits, count=count, rotate=bool(rotate), mirror=bool(mirror), splice=splice, spoken=spoken, seed=seed,
            validation=bool(settings.get("train_on_validation")), progress=progress,
        )  # fmt: skip


def open_one(settings: dict[str, Any], *, quiet: bool, format: InputFormat | None) -> Splits:
    """One data set, with all its training classes."""
    data, split, seed = settings.get("data", "glyphs"), settings.get("split"), settings.get("split_seed") or 0
    if functions := function_splits(data):
        return functions
    if is_text(data):
        with counting("reading texts", quiet=quiet) as progress:
            return text_splits(
                data, split=split, seed=seed, columns=settings.get("columns"), encoder=settings.get("encoder"),
                adapted=settings.get("net") == "pretrained", format=format, progress=progress,
            )  # fmt: skip
    if is_sound(data):
        with counting("reading sounds", quiet=quiet) as progress:
            heard = format if isinstance(format, AudioFormat) else None
            return sound_splits(data, split=split, seed=seed, format=heard, progress=progress)
    with counting("reading pictures", quiet=quiet) as progress:
        return open_data(data, split=split, seed=seed, progress=progress, **asked_of(format))


def refuse_unread(settings: dict[str, Any]) -> None:
    """Raise UpstairsError for an option that says something about other data than is there."""
    parts = settings.get("data", "glyphs").split(SIGN)
    if not all(part.strip() for part in parts):
        raise UpstairsError(f"--data is '{settings['data']}': name a data set on each side of '+'")
    if settings.get("mix") and len(parts) == 1:
        raise UpstairsError(f"--mix is '{settings['mix']}' and there is one data set: name several, as --data 'A + B'")
    for name in ("columns", "encoder"):
        if settings.get(name) and not any(is_text(part) for part in parts):
            raise UpstairsError(f"--{name} is about texts and {settings.get('data', 'glyphs')} has none: leave it out")


def parse_mix(text: str) -> list[float]:
    """Shares such as "2,1"."""
    try:
        return [float(share) for share in text.split(",")]
    except ValueError:
        raise UpstairsError(f"--mix is '{text}': give a number for each data set, such as 2,1") from None


def asked_of(format: InputFormat | None) -> dict[str, Any]:
    """What is asked of pictures that are for a trained run."""
    if not isinstance(format, ImageFormat):
        return {}
    return {"size": format.size, "channels": format.channels, "ink": format.ink}


def reads(run: Run, data: str) -> bool:
    """Is the data of the kind of inputs (texts, sounds, pictures or arrays) that the run was trained on?"""
    first = data.split(SIGN)[0]
    text, sound = run.inputs.are_texts, isinstance(run.inputs.format, AudioFormat)
    return is_text(first) == text and (text or (first != "glyphs" and is_sound(first)) == sound)


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
        again = open_splits(run.settings.to_json() | UNHEARD, quiet=quiet, format=run.inputs.format)
        return getattr(again, split), run.settings.data, split
    form, name = run.inputs.format, str(data or run.settings.data)
    columns = run.settings.columns if own else None
    if split != "all":
        return getattr(open_splits({"data": name, "columns": columns}, quiet=quiet, format=form), split), name, split
    if SIGN in name:
        raise UpstairsError(f"--split all is about one data set and {name} is several: leave it out, or name one")
    with counting("reading examples", quiet=quiet) as progress:
        if run.inputs.are_texts:
            return open_texts(name, columns=columns, format=form, progress=progress), name, split
        if isinstance(form, AudioFormat):
            return open_sounds(name, format=form, progress=progress), name, split
        return open_source(name, **asked_of(form), progress=progress), name, split


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
        way = min([5, max(2, source.most_way), *(run.learner.max_way or 5 for run in runs)])
    smallest = min((len(rows) for rows in source.rows), default=0)
    if query is None:
        query = max(1, min(15, smallest - shot))
    episodes = episodes_of(source, way=way, shot=shot, query=query)
    for run in runs:
        run.learner.for_way(way)  # refused before anything is scored
    return episodes, name, part


def adapt_run(path: Path, support: Support, *, unknown: float | None = None, quiet: bool = False) -> Model:
    """`Run.adapt`; where a class has few examples, `unknown` is measured on the run's validation classes."""
    run, others = load(path), None
    counts = Counter(read_support(support, run.inputs)[2] if unknown is not None and run.settings.way else ())
    if min(counts.values(), default=ENOUGH) < ENOUGH:
        try:
            others = open_splits(run.settings.to_json() | UNHEARD, quiet=quiet, format=run.inputs.format).val
        except UpstairsError as error:
            tell_user(f"--unknown is rough, from so few examples alone: the run's own data cannot be read ({error})")
    return run.adapt(support, unknown=unknown, others=others)
