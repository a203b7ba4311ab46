"""The command line: what a user types, and what an error or an interruption looks like."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

import upstairs
from upstairs.cli.commands import (
    SearchCommand,
    command_line,
    generate,
    print_json,
    report,
    reproduce,
    results,
    search,
)
from upstairs.cli.options import (
    InnerSteps,
    Json,
    Named,
    Quiet,
    RunDirectory,
    TaskOptions,
    first_name,
    flags_in,
    parse_run,
)
from upstairs.cli.signals import interrupt_on_terminate
from upstairs.engine.allocator import keep_freed_memory
from upstairs.errors import UpstairsError
from upstairs.learners.registry import LEARNERS
from upstairs.settings import COMMON, options_in

CHECKPOINT = "last.safetensors"


def demo(
    *,
    kind: Annotated[
        Literal["image", "text", "audio"],
        arg(help="image: letters. text: which language is it? audio: recordings of --data, or eSpeak NG's."),
    ] = "image",
    data: Annotated[str | None, arg(help="Other data of that kind, as --data of `upstairs train`.")] = None,
    out: Annotated[
        Path | None,
        arg(help="Where the runs, results.json and report.html go: runs/demo, for other kinds runs/demo-KIND."),
    ] = None,
    minutes: Annotated[float, arg(help="Minutes of training, all learners together.")] = 2.5,
    tasks: Annotated[int, arg(help="Test tasks behind each number.")] = 600,
    seed: Annotated[int, arg(help="Of everything that is drawn.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Watch a network learn to learn: it trains on letters of some scripts, then reads scripts it never saw.

    Ends with a table, and a page with pictures to open in a browser. Takes about 6 minutes on 2 cores.
    """
    from upstairs.experiments.demo import run_demo

    out = out or Path("runs") / ("demo" if kind == "image" else f"demo-{kind}")
    run_demo(out, kind=kind, data=data, minutes=minutes, tasks=tasks, seed=seed, quiet=quiet, command=command_line())


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Meta-train a learner: upstairs train protonet --data my_pictures/ --minutes 10 --out runs/mine

    The budget is --steps or --minutes (10 minutes where neither is given). A stopped run goes on with --resume.
    """

    name: Annotated[
        Positional[str | None], arg(metavar="NAME", help="A learner or a preset: `upstairs list` names them.")
    ] = None
    out: RunDirectory = None
    resume: Annotated[
        bool,
        arg(help="Go on with the run in --out (or named instead of NAME); the result is as if it had never stopped."),
    ] = False
    quiet: Quiet = False


def train(words: Sequence[str]) -> None:
    name = first_name(words)
    stored = Path(name) if name and "resume" in flags_in(words) and (Path(name) / CHECKPOINT).is_file() else None
    named = Named.find(name) if name and stored is None else None
    command, values = parse_run(TrainCommand, words, prog="upstairs train", named=named)
    out = command.out or stored or Path("runs") / (name or "")
    resume = command.resume and (out / CHECKPOINT).is_file()
    if named is None and not resume:
        raise UpstairsError("no learner was named: write `upstairs train protonet`; `upstairs list` names them all")
    from upstairs.training.defaults import request_run
    from upstairs.training.train import resume_run, resumed_settings, start_run

    if resume:
        resume_run(out, resumed_settings(out, name if stored is None else None, **values), quiet=command.quiet)
    else:
        start_run(request_run(str(name), **values), out, quiet=command.quiet)


def evaluate(
    run: Annotated[Positional[Path], arg(metavar="RUN", help="The directory that `upstairs train` wrote.")],
    /,
    *,
    on: OmitArgPrefixes[TaskOptions] = TaskOptions(),
    inner_steps: InnerSteps = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Accuracy on tasks of classes that were not trained on, with a 95% interval, and that of the baselines."""
    from upstairs.experiments.evaluate import evaluate_run

    result = evaluate_run(run, **vars(on), inner_steps=inner_steps, quiet=quiet or json)
    if json:
        print_json(result)
    else:
        from upstairs.console import print_results

        print_results([result])


def compare(
    runs: Annotated[Positional[list[Path]], arg(metavar="RUN...", help="Two or more runs on the same data.")],
    /,
    *,
    on: OmitArgPrefixes[TaskOptions] = TaskOptions(),
    out: Annotated[Path | None, arg(help="A file to write the result to, as json.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Several runs on the same tasks: each one's accuracy, and the paired differences with 95% intervals."""
    from upstairs.experiments import compare as room

    result = room.compare(runs, **vars(on), quiet=quiet or json)
    if out is not None:
        room.write_comparison(result, out)
    print_json(result) if json else room.print_comparison(result)


def breadth(
    runs: Annotated[Positional[list[Path]], arg(metavar="RUN...", help="Directories that `upstairs train` wrote.")],
    /,
    *,
    data: Annotated[list[str], arg(help="Kinds of data to test on, each as --data of `upstairs train`.")],
    way: Annotated[int, arg(help="Classes in a task.")] = 5,
    shot: Annotated[int, arg(help="Support examples of each class.")] = 1,
    tasks: Annotated[int, arg(help="Test tasks behind each number.")] = 600,
    out: Annotated[Path | None, arg(help="A page or a picture to write: breadth.html, breadth.png.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """How far learning reaches: every run on the test classes of every kind of data, with the mean and the worst."""
    from upstairs.experiments import breadth as room

    result = room.breadth(runs, data, way=way, shot=shot, tasks=tasks, quiet=quiet or json)
    if out is not None:
        room.write_breadth(result, out, command=command_line())
    print_json(result) if json else room.print_breadth(result)


def adapt(
    run: Annotated[Positional[Path], arg(metavar="RUN", help="The directory that `upstairs train` wrote.")],
    /,
    *,
    support: Annotated[
        Path, arg(help="A folder with a folder of pictures (or .txt files) for each class, or a table of texts.")
    ],
    out: Annotated[Path, arg(help="The file to write; `upstairs predict` reads it.")],
    unknown: Annotated[
        float | None,
        arg(help="Let it answer `none of these`: about this share, such as 0.1, of what has a class is refused too."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Adapt a trained run to classes of your own, from a few examples of each."""
    from upstairs.experiments.predict import adapt_run

    model = adapt_run(run, support, unknown=unknown, quiet=quiet)
    model.save(out)
    if not quiet:
        names = ", ".join(model.labels[:8]) + (", ..." if len(model.labels) > 8 else "")
        print(f"{out}: knows {len(model.labels)} classes from {len(model.support.y)} examples ({names})")


def predict(
    model: Annotated[Positional[Path], arg(metavar="MODEL", help="The file that `upstairs adapt` wrote.")],
    inputs: Annotated[
        Positional[tuple[Path, ...]],
        arg(
            metavar="INPUT...",
            help="Pictures to name; for a model of texts: files with one on each line, tables, or - (standard input).",
        ),
    ] = (),
    /,
    *,
    text: Annotated[tuple[str, ...], arg(help="Texts to name, as they stand here, each in quotes.")] = (),
    json: Json = False,
) -> None:
    """Name inputs with an adapted model: upstairs predict model.safetensors a.png b.jpg"""
    from upstairs.experiments.predict import predict_file

    rows = predict_file(model, inputs, text)
    if json:
        print_json(rows)
    else:
        for row in rows:
            print(f"{row['input']}\t{row['label']}\t{100 * row['probability']:.1f}%")


def list_names(*, json: Json = False) -> None:
    """Name every learner, kind of data and preset."""
    from upstairs.experiments.listing import list_all

    table = list_all()
    if json:
        print_json(table)
        return
    for title, rows in table.items():
        print(title)
        for row in rows:
            print(f"  {row['name']:<18} {row['summary']}")


# what parses its own words comes second: its options depend on the learner that is named
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo, "evaluate": evaluate, "compare": compare, "breadth": breadth, "adapt": adapt, "predict": predict,
    "generate": generate, "report": report, "reproduce": reproduce, "results": results, "list": list_names,
}  # fmt: skip
RUN_COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], type[Any]]] = {
    "train": (train, TrainCommand),
    "search": (search, SearchCommand),
}
ORDER = "demo train search evaluate compare breadth adapt predict generate report reproduce results list"


def run_command(words: Sequence[str]) -> None:
    """Do what the words ask for; without any, or with --help, say which commands there are."""
    name, *rest = words or ["--help"]
    if name in RUN_COMMANDS:
        RUN_COMMANDS[name][0](rest)
    elif name in COMMANDS:
        tyro.cli(COMMANDS[name], prog=f"upstairs {name}", args=rest)
    elif name in ("-h", "--help"):
        print(describe_commands())
    else:
        raise UpstairsError(f"there is no command '{name}': `upstairs --help` names them all")


def describe_commands() -> str:
    """The help of the whole command: a line for each of its commands."""
    docs = {name: command.__doc__ for name, command in COMMANDS.items()}
    docs |= {name: kind.__doc__ for name, (_, kind) in RUN_COMMANDS.items()}
    lines = [f"  {name:<11}{str(docs[name]).strip().splitlines()[0]}" for name in ORDER.split()]
    usage = "usage: upstairs COMMAND ...        `upstairs COMMAND --help` shows the options of a command"
    return "\n".join([usage, "", str(upstairs.__doc__).strip(), "", "commands:", *lines])


def option_names() -> set[str]:
    """The names that are options of a command: an error writes them as flags."""
    own = {f.name for _, kind in RUN_COMMANDS.values() for f in fields(kind)} | {f.name for f in fields(TaskOptions)}
    for command in COMMANDS.values():
        own |= {p.name for p in signature(command).parameters.values() if p.kind is p.KEYWORD_ONLY}
    learned = {name for line in LEARNERS.values() for name in options_in(line.options)}
    return own | {*COMMON} | learned | flags_in(sys.argv)


def main() -> None:
    """Entry point: an error that the user can fix is one sentence and status 2, an interruption 130."""
    interrupt_on_terminate()
    keep_freed_memory()
    try:
        run_command(sys.argv[1:])
    except UpstairsError as error:
        print(f"upstairs: {error.for_command(option_names())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print(f"\nupstairs: stopped{f': {stop}' if str(stop) else ''}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `upstairs list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
