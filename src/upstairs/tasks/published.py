"""Class splits that come with the package, for data sets without a usual one: lists of names in `splits/`, no data."""

import json
from importlib.resources import files

from upstairs.errors import UpstairsError
from upstairs.tasks.sources import Source, Splits, split_by_list

PUBLISHED = "published"  # what --split calls them


def published_splits(source: Source) -> Splits:
    """The split that the package has for a source with these classes.

    Raises:
        UpstairsError: it has none.
    """
    for file in files("upstairs.tasks").joinpath("splits").iterdir():
        lists = json.loads(file.read_text(encoding="utf-8"))
        parts = [lists[part] for part in Splits._fields]
        if {label for part in parts for label in part} == set(source.labels):
            return split_by_list(source, *parts)
    raise UpstairsError(
        f"--split is 'published' and the package has no split for {source.name} with its {len(source)} classes: it has "
        "those of Arabic Speech Commands (40 words) and CLINC150 (150 intents)"
    )
