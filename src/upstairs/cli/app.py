"""The command line: its commands, and how errors and interruptions are reported."""

import os
import signal
import sys
import warnings
from collections import Counter
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
from upstairs.cli.launch import AGAIN, is_one_of_several, launch, watch_parent
from upstairs.cli.options import (
    Columns,
    InnerSteps,
    Json,
    Named,
    Pattern,
    Quiet,
    RunDirectory,
    TaskOptions,
    first_name,
    flags_in,
    optional,
    parse_run,
)  # fmt: skip
from upstairs.engine.allocator import keep_freed_memory
from upstairs.errors import InputWarning, UpstairsError
from upstairs.learners.registry import LEARNERS
from upstairs.settings import COMMON, options_in

CHECKPOINT = "last.safetensors"


def demo(
    *,
    kind: Annotated[
        Literal["image", "text", "audio", "photos"],
        arg(
            help="image: letters. text: which language is it? audio: recordings in --data, or words by eSpeak NG. "
            "photos: five of each class of --data (or drawn symbols) for a pretrained network, without meta-training."
        ),
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
    processes: Annotated[
        int,
        arg(
            help="Processes on this machine that divide the tasks of a step, one thread each (see --threads). The "
            "result depends on --shards, which is their number unless given, and not on the number of processes. For "
            "several machines: torchrun."
        ),
    ] = 1
    quiet: Quiet = False


def train_command(words: Sequence[str]) -> None:
    name = first_name(words)
    stored = Path(name) if name and "resume" in flags_in(words) and (Path(name) / CHECKPOINT).is_file() else None
    named = Named.find(name) if name and stored is None else None
    command, values = parse_run(TrainCommand, words, prog="upstairs train NAME", named=named)
    out = command.out or stored or Path("runs") / (name or "")
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0  # torchrun starts all processes anew
    resume = (command.resume or again) and (out / CHECKPOINT).is_file()
    if command.resume and command.out and named is None and not resume:
        raise UpstairsError(f"{out} holds no run to resume: check the path, or name a learner to start one")
    if named is None and not resume:
        raise UpstairsError("no learner was named: write `upstairs train protonet`; `upstairs list` names them all")
    _launch(command.processes, again="--resume")
    from upstairs.ranks import process_group
    from upstairs.training.defaults import request_run
    from upstairs.training.train import resume_run, resumed_settings, start_run

    with process_group(values.get("device", "auto")):
        if resume:
            resume_run(out, resumed_settings(out, name if stored is None else None, **values), quiet=command.quiet)
        else:
            start_run(request_run(str(name), **values), out, quiet=command.quiet)


def _launch(processes: int, *, again: str = "") -> None:
    """Ends this process with the result of several ones, where several are asked for and this is none of them."""
    if processes < 1:
        raise UpstairsError(f"`processes` is {processes}: give 1 or more")
    if processes > 1 and not is_one_of_several():
        launch(sys.argv[1:], processes, again=again)


def evaluate_command(
    run: Annotated[
        Positional[Path],
        arg(metavar="RUN", help="A run, or with labelled files as --data a MODEL of `upstairs adapt`."),
    ],
    /,
    *,
    on: OmitArgPrefixes[TaskOptions] = TaskOptions(),
    inner_steps: InnerSteps = None,
    out: Annotated[
        Path | None, arg(help="For a MODEL: a page or a picture of its confusion matrix: score.html, score.png.")
    ] = None,
    processes: Annotated[int, arg(help="Processes on this machine that divide the tasks; the result is the same.")] = 1,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a run on tasks of unseen classes, or an adapted model on labelled files of its classes.

    A run gets its accuracy with a 95% interval over tasks, and that of the baselines. A model gets its accuracy with a
    95% interval over examples, F1 of each class, calibration, and what it confuses: upstairs evaluate MODEL --data my/
    """
    from upstairs.experiments.evaluate import evaluate_model, evaluate_run

    if run.is_file():
        if processes != 1:
            raise UpstairsError(f"`processes` divides the tasks of a run and {run} is an adapted model: leave it out")
        asked = {**vars(on), "inner_steps": inner_steps, "data": None, "columns": None, "pattern": None}
        for name in sorted(name for name, value in asked.items() if value != getattr(TaskOptions(), name, None)):
            raise UpstairsError(f"`{name}` is about the tasks of a run and {run} is an adapted model: leave it out")
        score = evaluate_model(run, on.data, columns=on.columns, pattern=on.pattern, out=out, quiet=quiet or json)
        print_json(score) if json else print(score)
        return
    if out is not None:
        raise UpstairsError(f"`out` draws the answers of an adapted model and {run} is a run: use `upstairs report`")
    _launch(processes)
    from upstairs.ranks import is_first, process_group

    with process_group():
        result = evaluate_run(run, **vars(on), inner_steps=inner_steps, quiet=quiet or json or not is_first())
    if not is_first():
        return
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


def adapt_command(
    start: Annotated[
        Positional[Path | None],
        arg(metavar="RUN", help="A run of `upstairs train`, or a MODEL of `upstairs adapt` that learns more; or none."),
    ] = None,
    /,
    *,
    support: Annotated[
        Path,
        arg(help="A folder with a folder of pictures, sounds or .txt files for each class, or a table."),
    ],
    out: Annotated[Path, arg(help="The file to write; `upstairs predict` reads it.")],
    encoder: Annotated[
        str | None,
        optional(
            "Without a run: a pretrained network, such as mobilenet_v2, a folder or a name that transformers knows, "
            "timm:NAME, FILE.onnx, package.module:function.",
            "a run is adapted",
            metavar="NAME",
        ),
    ] = None,
    head: Annotated[
        str,
        arg(
            help="With --encoder: how classes are told apart, such as nearest_mean, ridge or logistic_regression; auto "
            "takes the one that predicts left-out examples best."
        ),
    ] = "auto",
    unknown: Annotated[
        float | None,
        arg(help="Allow the answer `none of these`, which refuses about this share (such as 0.1) of known inputs."),
    ] = None,
    columns: Columns = None,
    pattern: Pattern = None,
    without_support: Annotated[
        bool, arg(help="Leave the support examples out of the file: it predicts the same, and holds none of your data.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Make a model that knows classes of your own, from a few examples of each.

    From a pretrained encoder: upstairs adapt --encoder mobilenet_v2 --support photos/ --out mine.safetensors
    From a run: upstairs adapt runs/mine --support photos/ --out mine.safetensors
    More examples for a model: upstairs adapt mine.safetensors --support more/ --out mine.safetensors
    """
    from upstairs.console import one_line
    from upstairs.experiments.predict import adapt_files, expected

    asked = {"encoder": encoder, "head": head, "unknown": unknown, "columns": columns, "pattern": pattern}
    model = adapt_files(start, support, **asked, quiet=quiet)
    model.save(out, support=not without_support)
    if not quiet:
        names = ", ".join(map(one_line, model.labels[:8])) + (", ..." if len(model.labels) > 8 else "")
        count = len(model.support.y) if model.support else 0
        knows = f"knows {len(model.labels)} classes" if model.settings.way else "predicts numbers"
        print(f"{out}: {knows} from {count} examples ({names})")
        if model.head:
            print(expected(model, chosen=head == "auto" and start is None))
        leave = "" if model.learner.needs_support else " (--without-support leaves them out)"
        print("the file holds none of the examples" if without_support else f"the file holds the examples{leave}")


def check_command(
    model: Annotated[Positional[Path], arg(metavar="MODEL", help="The file that `upstairs adapt` wrote.")],
    /,
    *,
    json: Json = False,
) -> None:
    """Check a model on its own examples: each is predicted from all others.

    Prints the accuracy to expect with its interval, the calibration error, what is confused, and the examples that
    look wrong.
    """
    from upstairs.training.model import load_adapted

    found = load_adapted(model).check()
    print_json(found) if json else print(found)


def predict(
    model: Annotated[Positional[Path], arg(metavar="MODEL", help="The file that `upstairs adapt` wrote.")],
    inputs: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="INPUT...",
            help="Files, folders (with all below), zips, patterns such as '*.png', or - (standard input, a path a "
            "line). For a model of texts: files with one text a line, tables, or - (one text a line).",
        ),
    ] = (),
    /,
    *,
    text: Annotated[tuple[str, ...], arg(help="Texts to classify, each in quotes.")] = (),
    columns: Columns = None,
    windows: Annotated[
        bool, arg(help="Classify windows of long recordings: input, start, end, label, probability.")
    ] = (False),
    seconds: Annotated[
        float | None, optional("With --windows: length of a window.", "as trained", metavar="SECONDS")
    ] = None,
    hop: Annotated[
        float | None, optional("With --windows: from one to the next.", "half a window", metavar="SECONDS")
    ] = None,
    out: Annotated[Path | None, arg(help="A table for the answers instead: answers.csv, .tsv or .json.")] = None,
    all: Annotated[bool, arg(help="With --out: a column for the probability of each class.")] = False,
    coverage: Annotated[
        float | None,
        optional(
            "All labels that may be right: this share of new inputs, such as 0.9, has the true one among them.",
            "the likeliest alone",
            metavar="SHARE",
        ),
    ] = None,
    skip_bad: Annotated[
        bool, arg(help="Leave out inputs that cannot be read, without a word and with status 0.")
    ] = False,
    json: Json = False,
) -> None:
    """Classify inputs with an adapted model: upstairs predict model.safetensors a.png photos/ --out answers.csv

    Each input gives one line: its name, its label and the label's probability, with tabs between them; tabs and line
    breaks within a name are written as \\t and \\n. Inputs that cannot be read are named at the end and the status is
    then 1, or 2 if none could be read.
    """
    from upstairs.console import counting
    from upstairs.experiments.predict import ANSWERS, inputs_in, predictions, row_text, window_rows, write_predictions
    from upstairs.training.inputs import refuse_bad
    from upstairs.training.model import load_adapted

    if out is not None and out.suffix.lower() not in ANSWERS:
        raise UpstairsError(f"`out` is {out}: name a file that ends in {', '.join(ANSWERS)}")
    if all and out is None:
        raise UpstairsError("`all` is about the table of answers: name one as `out`, or use `json`")
    adapted, bad = load_adapted(model), dict[int, UpstairsError]()
    if not inputs and not text:
        raise UpstairsError("no inputs were given: write `upstairs predict MODEL INPUT...`")
    if text and not adapted.inputs.are_texts:
        raise UpstairsError(f"`text` was given and {model} names no texts: give files to name instead")
    if not windows and (seconds is not None or hop is not None):
        raise UpstairsError("`seconds` and `hop` are about windows of recordings: give `windows` too")
    if windows and coverage is not None:
        raise UpstairsError("`coverage` is about whole inputs: leave `windows` out")
    named = [*inputs_in(inputs, adapted.inputs, columns), *((one, one) for one in text)]
    answers = window_rows(adapted, named, bad, seconds, hop) if windows else predictions(adapted, named, bad, coverage)
    plain, rows = out is None and not json, []
    with counting("predicting", quiet=plain and sys.stdout.isatty()) as progress:
        for done, row in enumerate(answers, 1):
            print(row_text(row)) if plain else rows.append(row)
            if progress and not windows:
                progress(done, len(named))
    if bad and len(bad) == len(named):
        refuse_bad(bad)
    if out is not None:
        write_predictions(rows, out, all=all)
    if json:
        print_json(rows)
    if bad and not skip_bad:
        for error in bad.values():
            print(f"upstairs: {error.for_command(option_names())}", file=sys.stderr)
        print(f"upstairs: {len(bad)} of {len(named)} inputs could not be read", file=sys.stderr)
        sys.exit(1)


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
    "demo": demo, "evaluate": evaluate_command, "compare": compare_command, "breadth": breadth_command,
    "adapt": adapt_command, "check": check_command, "predict": predict, "generate": generate,
    "report": report, "reproduce": reproduce_command, "results": results, "list": list_names,
}  # fmt: skip
RUN_COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], type[Any]]] = {
    "train": (train_command, TrainCommand),
    "search": (search_command, SearchCommand),
}
LISTS = ("--text", "--vary", "--earlier")  # options of several values, of which argparse would keep the last
ORDER = "demo train search evaluate compare breadth adapt check predict generate report reproduce results list"


def run_command(words: Sequence[str]) -> None:
    """Runs the command that the arguments name; without any, or with --help, prints the list of commands."""
    name, *rest = words or ["--help"]
    for flag, count in Counter(word for word in rest if word in LISTS).items():
        if count > 1:
            raise UpstairsError(f"{flag} was given {count} times: give it once, with all its values behind it")
    if name in RUN_COMMANDS:
        RUN_COMMANDS[name][0](rest)
    elif name in COMMANDS:
        tyro.cli(COMMANDS[name], prog=f"upstairs {name}", args=rest)
    elif name in ("-h", "--help"):
        print(describe_commands())
    elif name in ("-V", "--version"):
        print(f"upstairs {upstairs.__version__}")
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


def _show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
    """Prints a warning: one of this package as a line, without the place in its code."""
    if issubclass(category, InputWarning):
        print(f"upstairs: {UpstairsError(str(message)).for_command(option_names())}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno), file=sys.stderr)


def main() -> None:
    """The entry point: an UpstairsError prints one sentence and exits with status 2, an interruption with 130."""
    for stream in (sys.stdout, sys.stderr):  # a label may have characters that the terminal lacks
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    keep_freed_memory()
    watch_parent()
    first = not is_one_of_several() or os.environ["RANK"] == "0"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", InputWarning)
            warnings.showwarning = _show
            run_command(sys.argv[1:])
    except UpstairsError as error:
        if first or not error.by_all:
            print(f"upstairs: {error.for_command(option_names())}", file=sys.stderr)
        sys.exit(AGAIN if error.lost else 2)
    except KeyboardInterrupt as stop:
        if first:
            print(f"\nupstairs: stopped{f': {stop}' if str(stop) else ''}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `upstairs list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
