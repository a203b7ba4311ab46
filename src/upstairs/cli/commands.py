"""The commands `search`, `generate`, `reproduce`, `results` and `report`, and helpers of all commands."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from upstairs.cli.options import Json, Named, Page, Quiet, first_name, optional, parse_run


@dataclass(frozen=True, kw_only=True)
class SearchCommand:
    """Search a learner's settings: upstairs search protonet --vary lr=1e-4..1e-1:log --trials 20 --steps 500

    Trials are scored on validation tasks; evaluate the best run on test tasks. The same command, started several times
    on any machines that share --out, shares the trials. The search needs Optuna: pip install 'upstairs[search]'.
    """

    name: Annotated[Positional[str], arg(metavar="NAME", help="A learner or a preset.")]
    vary: Annotated[
        list[str],
        arg(metavar="SETTING...", help="Settings to vary: lr=1e-4..1e-1:log inner_steps=1..5 norm=batch,group"),
    ]
    trials: Annotated[
        int, arg(help="Number of trials of all workers; the same command continues a search, with more if asked.")
    ] = 20
    out: Annotated[Path | None, arg(help="The folder for the trials: runs/search-NAME.")] = None
    storage: Annotated[
        str | None,
        optional(
            "A file that all workers see, or the URL of a database server: postgresql://USER@HOST/NAME.",
            "search.journal beside --out",
            metavar="FILE|URL",
        ),
    ] = None
    earlier: Annotated[
        tuple[str, ...],
        arg(metavar="NAME...", help="Searches in that storage to start from, by the names of their folders."),
    ] = ()
    quiet: Quiet = False


def search_command(words: Sequence[str]) -> None:
    name = first_name(words)
    named = Named.find(name) if name else None
    command, values = parse_run(SearchCommand, words, prog="upstairs search NAME", named=named)
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
        Path, arg(help="A folder of class folders, or of pictures of one class, or one picture, which is enough.")
    ],
    out: Annotated[Path, arg(help="A new folder: OUT/class/number.png, and OUT/sheet.png to look at.")],
    count: Annotated[int, arg(help="New pictures of each class.")] = 20,
    seed: Annotated[int, arg(help="The same seed draws the same pictures.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Generate pictures of classes seen once: upstairs generate runs/redrawing --support my_letters/ --out more/"""
    from upstairs.experiments.generate import generate_folder

    generate_folder(run, support=support, out=out, count=count, seed=seed, quiet=quiet)


def reproduce_command(
    name: Annotated[
        Positional[str | None], arg(metavar="NAME", help="An experiment, such as omniglot-5w1s-maml.")
    ] = None,
    /,
    *,
    list: Annotated[bool, arg(help="List every experiment, its published number and the data it needs.")] = False,
    data: Annotated[str | None, arg(metavar="PATH", help="The path of the experiment's data.")] = None,
    budget: Annotated[
        float | None,
        arg(
            metavar="MINUTES",
            help="Minutes of training for all seeds together, in place of the published budget; the card says so.",
        ),
    ] = None,
    seeds: Annotated[int, arg(help="Number of trainings, which differ only in their seed.")] = 3,
    tasks: Annotated[int, arg(help="Number of test tasks, the same for all seeds: 1000 or more.")] = 1000,
    out: Annotated[Path, arg(help="The folder for runs and result cards.")] = Path("runs/reproduce"),
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], arg(help="The device; auto is CUDA if available, mps Apple's GPU.")
    ] = "auto",
    note: Annotated[str, arg(help="A note for the card, such as the load of the machine.")] = "",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Reproduce a published result: upstairs reproduce omniglot-5w1s-protonet --data OMNIGLOT --budget 30

    The command follows the published protocol, evaluates on fixed test tasks and writes a result card. Run again, it
    continues where it stopped. Started several times on any machines that share --out, it shares the seeds.
    """
    from upstairs.errors import UpstairsError
    from upstairs.experiments.cards import card_markdown
    from upstairs.experiments.published.papers import describe_experiments

    if list:
        print(describe_experiments())
        return
    if name is None:
        raise UpstairsError("no experiment was named: `upstairs reproduce --list` names them all")
    from upstairs.experiments.reproduce import reproduce

    card = reproduce(
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
        Path | None, arg(help="A page that receives the table between its marker lines; created if it does not exist.")
    ] = None,
) -> None:
    """Print a table of result cards: measured results, their training times, and the published numbers."""
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
        arg(help="Include all measurements of depth and breadth, with the small trainings that they need."),
    ] = False,
    minutes: Annotated[float, arg(help="With --all: minutes of each of these trainings.")] = 1.0,
    data: Annotated[
        tuple[str, ...],
        arg(metavar="DATA...", help="With --all: data sets to test every run on, by default those of the runs."),
    ] = (),
    tasks: Annotated[int, arg(help="Number of test tasks for each score.")] = 600,
    seed: Annotated[int, arg(help="Seed of the frozen list of test tasks.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Write a page about one or more runs on the same data: learning curves, depth, breadth, the table of results.

    --all adds up to 100 adaptation steps and 20 shots, the length of the inner loop, the number of training classes,
    and tests of runs on one kind of data on other kinds (runs may then be on different data).
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
    """Returns the command as the user typed it."""
    return shlex.join(["upstairs", *sys.argv[1:]])


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))
