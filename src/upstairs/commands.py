"""The command `upstairs search`, and how commands print json."""

import json
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from upstairs.options import Options, Quiet, given


def search(
    learner: Annotated[Positional[str], arg(metavar="NAME", help="A learner or a recipe.")],
    /,
    *,
    vary: Annotated[
        list[str], arg(metavar="SETTING...", help="What to vary: rate=1e-4..1e-1:log inner_steps=1..5 norm=batch,group")
    ],
    trials: Annotated[int, arg(help="How many in all; the same command goes on, with more if there are more.")] = 20,
    out: Annotated[Path | None, arg(help="Where the trials' runs go: runs/search-NAME.")] = None,
    storage: Annotated[str | None, arg(help="A file, or a storage URL of Optuna: search.db beside --out.")] = None,
    earlier: Annotated[
        tuple[str, ...],
        arg(metavar="NAME...", help="Searches in that storage, by their folders' names, to start from."),
    ] = (),
    quiet: Quiet = False,
    settings: OmitArgPrefixes[Options] = Options(),
) -> None:
    """Search a learner's settings: upstairs search protonet --vary rate=1e-4..1e-1:log --trials 20 --steps 500

    Judged on validation tasks; evaluate the best run on test tasks. Needs Optuna: pip install 'upstairs[search]'.
    """
    from upstairs.recipes import name_settings
    from upstairs.vary import describe, parse_space, search_settings

    start = name_settings(learner, given(settings))
    out = out or Path("runs") / f"search-{learner}"
    found = search_settings(
        start, parse_space(vary), out=out, trials=trials, storage=storage, earlier=earlier, quiet=quiet
    )  # fmt: skip
    print(f"{out}: {describe(found)}")


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))
