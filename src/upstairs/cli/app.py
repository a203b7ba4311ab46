"""The command line: its commands, and how errors and interruptions are reported."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from inspect import signature
from io import TextIOWrapper
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
    reproduce_command,
    results,
    search_command,
)  # fmt: skip
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
)  # fmt: skip
from upstairs.engine.allocator import keep_freed_memory, sleep_while_waiting
from upstairs.errors import UpstairsError
from upstairs.learners.registry import LEARNERS
from upstairs.settings import COMMON, options_in

CHECKPOINT = "last.safetensors"


def demo(
    *,
    kind: Annotated[
        Literal["image", "text", "audio"],
        arg(help="image: letters. text: which language is it? audio: recordings in --data, or words by eSpeak NG."),
    ] = "image",
    data: Annotated[str | None, arg(help="Other data of that kind, as in `upstairs train --data`.")] = None,
    out: Annotated[
        Path | None,
        arg(help="The folder for the runs, results.json and report.html: runs/demo, for other kinds runs/demo-KIND."),
    ] = None,
    minutes: Annotated[
        float | None,
        arg(
            metavar="FLOAT",
            help="Minutes of training for all learners together.",
            help_behavior_hint="(default: a number of steps, the same on every machine)",
        ),
    ] = None,
    tasks: Annotated[int, arg(help="Number of test tasks.")] = 600,
    seed: Annotated[int, arg(help="Seed of all random numbers.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Watch a network learn to learn: it trains on some scripts, then reads letters of unseen scripts.

    Ends with a table, and a page with pictures to open in a browser. Takes about 6 minutes on 2 cores.
    """
    from upstairs.experiments.demo import run_demo

    out = out or Path("runs") / ("demo" if kind == "image" else f"demo-{kind}")
    run_demo(out, kind=kind, data=data, minutes=minutes, tasks=tasks, seed=seed, quiet=quiet, command=command_line())


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Meta-train a learner: upstairs train protonet --data my_pictures/ --minutes 10 --out runs/mine

    The budget is --steps or --minutes (10 minutes by default). --resume continues a stopped run.
    """

    name: Annotated[
        Positional[str | None], arg(metavar="NAME", help="A learner or a preset: `upstairs list` names them.")
    ] = None
    out: RunDirectory = None
    resume: Annotated[
        bool,
        arg(help="Continue the run in --out (or named instead of NAME); the result is the same as without a stop."),
    ] = False
    quiet: Quiet = False


def train_command(words: Sequence[str]) -> None:
    name = first_name(words)
    stored = Path(name) if name and "resume" in flags_in(words) and (Path(name) / CHECKPOINT).is_file() else None
    named = Named.find(name) if name and stored is None else None
    command, values = parse_run(TrainCommand, words, prog="upstairs train NAME", named=named)
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


def evaluate_command(
    run: Annotated[Positional[Path], arg(metavar="RUN", help="The directory that `upstairs train` wrote.")],
    /,
    *,
    on: OmitArgPrefixes[TaskOptions] = TaskOptions(),
    inner_steps: InnerSteps = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a run on tasks of unseen classes: accuracy with a 95% interval, and that of the baselines."""
    from upstairs.experiments.evaluate import evaluate_run

    result = evaluate_run(run, **vars(on), inner_steps=inner_steps, quiet=quiet or json)
    if json:
        print_json(result)
    else:
        from upstairs.console import print_results

        print_results([result])


def compare_command(
    runs: Annotated[Positional[list[Path]], arg(metavar="RUN...", help="Two or more runs on the same data.")],
    /,
    *,
    on: OmitArgPrefixes[TaskOptions] = TaskOptions(),
    out: Annotated[Path | None, arg(help="A JSON file for the result.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare runs on the same tasks: their accuracies, and paired differences with 95% intervals."""
    from upstairs.experiments.compare import compare, print_comparison
    from upstairs.storage import write_json

    result = compare(runs, **vars(on), quiet=quiet or json)
    if out is not None:
        write_json(out, result)
    print_json(result) if json else print_comparison(result)


def breadth_command(
    runs: Annotated[Positional[list[Path]], arg(metavar="RUN...", help="Directories that `upstairs train` wrote.")],
    /,
    *,
    data: Annotated[list[str], arg(help="Data sets to test on, each as in `upstairs train --data`.")],
    way: Annotated[int, arg(help="Classes in a task.")] = 5,
    shot: Annotated[int, arg(help="Support examples of each class.")] = 1,
    tasks: Annotated[int, arg(help="Number of test tasks for each score.")] = 600,
    out: Annotated[Path | None, arg(help="A page or a picture to write: breadth.html, breadth.png.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate every run on the test classes of every data set, with the mean and the worst score."""
    from upstairs.experiments.breadth import breadth, print_breadth, write_breadth

    result = breadth(runs, data, way=way, shot=shot, tasks=tasks, quiet=quiet or json)
    if out is not None:
        write_breadth(result, out, command=command_line())
    print_json(result) if json else print_breadth(result)


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
        arg(help="Allow the answer `none of these`, which refuses about this share (such as 0.1) of known inputs."),
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
            help="Pictures to classify; for a text model: files with one text per line, tables, or - (standard input).",
        ),
    ] = (),
    /,
    *,
    text: Annotated[tuple[str, ...], arg(help="Texts to classify, each in quotes.")] = (),
    json: Json = False,
) -> None:
    """Classify inputs with an adapted model: upstairs predict model.safetensors a.png b.jpg"""
    from upstairs.experiments.predict import predict_file

    rows = predict_file(model, inputs, text)
    if json:
        print_json(rows)
    else:
        for row in rows:
            print(f"{row['input']}\t{row['label']}\t{100 * row['probability']:.1f}%")


def list_names(*, json: Json = False) -> None:
    """List every learner, kind of data, preset and experiment."""
    from upstairs.experiments.listing import list_all

    table = list_all()
    if json:
        print_json(table)
        return
    for title, rows in table.items():
        print(title)
        for row in rows:
            print(f"  {row['name']:<18} {row['summary']}")


# the options of RUN_COMMANDS depend on the learner, so these parse their own arguments
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo, "evaluate": evaluate_command, "compare": compare_command, "breadth": breadth_command, "adapt": adapt,
    "predict": predict, "generate": generate, "report": report, "reproduce": reproduce_command, "results": results,
    "list": list_names,
}  # fmt: skip
RUN_COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], type[Any]]] = {
    "train": (train_command, TrainCommand),
    "search": (search_command, SearchCommand),
}
ORDER = "demo train search evaluate compare breadth adapt predict generate report reproduce results list"


def run_command(words: Sequence[str]) -> None:
    """Runs the command that the arguments name; without any, or with --help, prints the list of commands."""
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
    """Returns the help of `upstairs`: a line for each command."""
    docs = {name: command.__doc__ for name, command in COMMANDS.items()}
    docs |= {name: kind.__doc__ for name, (_, kind) in RUN_COMMANDS.items()}
    lines = [f"  {name:<11}{str(docs[name]).strip().splitlines()[0]}" for name in ORDER.split()]
    usage = "usage: upstairs COMMAND ...        `upstairs COMMAND --help` shows the options of a command"
    return "\n".join([usage, "", str(upstairs.__doc__).strip(), "", "commands:", *lines])


def option_names() -> set[str]:
    """Returns the names of all options, which errors write as flags."""
    own = {f.name for _, kind in RUN_COMMANDS.values() for f in fields(kind)} | {f.name for f in fields(TaskOptions)}
    for command in COMMANDS.values():
        own |= {p.name for p in signature(command).parameters.values() if p.kind is p.KEYWORD_ONLY}
    learned = {name for line in LEARNERS.values() for name in options_in(line.options)}
    return own | {*COMMON} | learned | flags_in(sys.argv)


def main() -> None:
    """The entry point: an UpstairsError prints one sentence and exits with status 2, an interruption with 130."""
    for stream in (sys.stdout, sys.stderr):  # a label may have characters that the terminal lacks
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    sleep_while_waiting()
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
