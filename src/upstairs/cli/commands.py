"""The commands `search`, `generate`, `reproduce`, `results` and `report`, and what commands share."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from upstairs.cli.options import Json, Named, Page, Quiet, first_name, parse_run


@dataclass(frozen=True, kw_only=True)
class SearchCommand:
    """Search a learner's settings: upstairs search protonet --vary lr=1e-4..1e-1:log --trials 20 --steps 500

    Judged on validation tasks; evaluate the best run on test tasks. Needs Optuna: pip install 'upstairs[search]'.
    """

    name: Annotated[Positional[str], arg(metavar="NAME", help="A learner or a preset.")]
    vary: Annotated[
        list[str], arg(metavar="SETTING...", help="What to vary: lr=1e-4..1e-1:log inner_steps=1..5 norm=batch,group")
    ]
    trials: Annotated[int, arg(help="How many in all; the same command goes on, with more if there are more.")] = 20
    out: Annotated[Path | None, arg(help="Where the trials' runs go: runs/search-NAME.")] = None
    storage: Annotated[str | None, arg(help="A file, or a storage URL of Optuna: search.db beside --out.")] = None
    earlier: Annotated[
        tuple[str, ...],
        arg(metavar="NAME...", help="Searches in that storage, by their folders' names, to start from."),
    ] = ()
    quiet: Quiet = False


def search(words: Sequence[str]) -> None:
    name = first_name(words)
    named = Named.find(name) if name else None
    command, values = parse_run(SearchCommand, words, prog="upstairs search", named=named)
    assert named is not None  # else parsing has ended with the usage
    from upstairs.experiments.search import describe, parse_space, search_settings
    from upstairs.training.defaults import request_run

    out = command.out or Path("runs") / f"search-{name}"
    found = search_settings(
        request_run(command.name, **values), parse_space(command.vary, named.learner), out=out, trials=command.trials,
        storage=command.storage, earlier=command.earlier, quiet=command.quiet,
    )  # fmt: skip
    print(f"{out}: {describe(found)}")


def generate(
    run: Annotated[Positional[Path], arg(metavar="RUN", help="A run of a learner that makes pictures.")],
    /,
    *,
    support: Annotated[
        Path, arg(help="A folder with a folder of pictures for each class (or pictures of one class): one will do.")
    ],
    out: Annotated[Path, arg(help="A new folder: OUT/class/number.png, and OUT/sheet.png to look at.")],
    count: Annotated[int, arg(help="New pictures of each class.")] = 20,
    seed: Annotated[int, arg(help="The same seed draws the same pictures.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Draw more of classes seen once: upstairs generate runs/redrawing --support my_letters/ --out more/"""
    from upstairs.experiments.generate import generate_folder

    generate_folder(run, support=support, out=out, count=count, seed=seed, quiet=quiet)


def reproduce(
    name: Annotated[Positional[str | None], arg(metavar="NAME", help="A recipe, such as omniglot-5w1s-maml.")] = None,
    /,
    *,
    list: Annotated[bool, arg(help="Name every recipe, its published number and the data it needs.")] = False,
    data: Annotated[str | None, arg(metavar="PATH", help="Where the recipe's data is.")] = None,
    budget: Annotated[
        float | None,
        arg(metavar="MINUTES", help="Train for so long, all seeds together: a shorter protocol, and the card says so."),
    ] = None,
    seeds: Annotated[int, arg(help="Trainings that differ in their seed alone.")] = 3,
    tasks: Annotated[int, arg(help="Test tasks, the same for all seeds: 1000 or more.")] = 1000,
    out: Annotated[Path, arg(help="Where trainings and cards go.")] = Path("runs/reproduce"),
    device: Annotated[Literal["auto", "cpu", "cuda"], arg(help="auto takes CUDA if it is there.")] = "auto",
    note: Annotated[str, arg(help="A sentence for the card, such as what else the machine was doing.")] = "",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """A paper's number by its own protocol: upstairs reproduce omniglot-5w1s-protonet --data OMNIGLOT --budget 30

    Trains, judges on fixed test tasks and writes a card. What was stopped goes on by the same command.
    """
    from upstairs.errors import UpstairsError
    from upstairs.experiments.cards import card_markdown
    from upstairs.experiments.published.find import describe_experiments

    if list:
        print(describe_experiments())
        return
    if name is None:
        raise UpstairsError("no recipe was named: `upstairs reproduce --list` names them all")
    from upstairs.experiments.reproduce import reproduce as run

    card = run(
        name, data=data, budget=budget, seeds=seeds, tasks=tasks, out=out, device=device, note=note, quiet=quiet or json
    )  # fmt: skip
    if json:
        print_json(card)
    else:
        print(f"{card_markdown(card)}\n{out / name / 'card.md'}, and card.json beside it")


def results(
    cards: Annotated[Positional[tuple[Path, ...]], arg(metavar="CARD...", help="Cards that `reproduce` wrote (json).")],
    /,
    *,
    out: Annotated[
        Path | None, arg(help="A page to put the table into, between its marker lines; made where there is none.")
    ] = None,
) -> None:
    """A table of result cards: what was run here, for how long, and what is published."""
    from upstairs.experiments.cards import BEGIN, END, put_between, read_card, results_table
    from upstairs.storage import write_atomically

    table = results_table([read_card(path) for path in cards])
    if out is None:
        print(table)
        return
    page = out.read_text(encoding="utf-8") if out.is_file() else f"# What was measured\n\n{BEGIN}\n{END}\n"
    write_atomically(out, put_between(page, table, name=str(out)).encode())


def report(
    runs: Annotated[Positional[list[Path]], arg(metavar="RUN...", help="Directories that `upstairs train` wrote.")],
    /,
    *,
    out: Page = None,
    all: Annotated[
        bool,
        arg(help="All of depth and breadth, with the small trainings that it needs; the same command goes on."),
    ] = False,
    minutes: Annotated[float, arg(help="With --all: of each of these trainings.")] = 1.0,
    data: Annotated[
        tuple[str, ...],
        arg(metavar="DATA...", help="With --all: data sets to test every run on. Left out: those of the runs."),
    ] = (),
    tasks: Annotated[int, arg(help="Test tasks behind each number.")] = 600,
    seed: Annotated[int, arg(help="Which frozen list of tasks.")] = 0,
    quiet: Quiet = False,
) -> None:
    """One page with pictures from one or more runs on the same data: learning curves, depth, breadth, the table.

    With --all also: up to 100 adaptation steps and 20 shots, the length of the inner loop, the number of training
    classes, and what was trained on one kind of data tested on others (runs may then be on different data).
    """
    if all:
        from upstairs.experiments.report.survey import survey

        shared = {"tasks": tasks, "seed": seed, "quiet": quiet, "command": command_line()}
        page = survey(runs, data=data, out=out, minutes=minutes, **shared)
    else:
        from upstairs.experiments.report.survey import report_runs

        page = report_runs(runs, out=out, tasks=tasks, seed=seed, quiet=quiet, command=command_line())
    if not quiet:
        print(f"open {page} in a browser")


def command_line() -> str:
    """The command as the user typed it."""
    return shlex.join(["upstairs", *sys.argv[1:]])


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))
