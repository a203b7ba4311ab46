"""The command line: what a user types, and what an error or an interruption looks like."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from upstairs.cli.commands import command_line, generate, print_json, report, reproduce, results, search
from upstairs.cli.options import InnerSteps, Json, Options, Quiet, RunDirectory, TaskOptions, given
from upstairs.cli.signals import interrupt_on_terminate
from upstairs.engine.allocator import keep_freed_memory
from upstairs.errors import UpstairsError

app = tyro.extras.SubcommandApp()


@app.command(name="demo")
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


@app.command(name="train")
def train(
    learner: Annotated[
        Positional[str | None], arg(metavar="NAME", help="A learner or a recipe: `upstairs list` names them.")
    ] = None,
    /,
    *,
    out: RunDirectory = None,
    resume: Annotated[
        bool, arg(help="Go on with the run in --out (or named instead of NAME), to the same bits as if never stopped.")
    ] = False,
    quiet: Quiet = False,
    settings: OmitArgPrefixes[Options] = Options(),
) -> None:
    """Meta-train a learner: upstairs train protonet --data my_pictures/ --minutes 10 --out runs/mine

    The budget is --steps or --minutes (10 minutes where neither is given). A stopped run goes on with --resume.
    """
    from upstairs.training.presets import name_settings
    from upstairs.training.train import resume_run, start_run

    if resume and out is None and learner and (Path(learner) / "last.safetensors").is_file():
        learner, out = None, Path(learner)
    asked = name_settings(learner, given(settings))
    out = out or Path("runs") / (learner or "")
    if resume and (out / "last.safetensors").is_file():
        resume_run(out, asked, quiet=quiet)
    elif learner is None:
        raise UpstairsError("no learner was named: write `upstairs train protonet`; `upstairs list` names them all")
    else:
        start_run(asked, out, quiet=quiet)


for _command in (search, generate, reproduce, results):
    app.command(name=_command.__name__)(_command)


@app.command(name="evaluate")
def evaluate(
    run: Annotated[Positional[Path], arg(metavar="RUN", help="The directory that `upstairs train` wrote.")],
    /,
    *,
    on: OmitArgPrefixes[TaskOptions] = TaskOptions(),
    inner_steps: InnerSteps = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Accuracy on tasks of classes that were not trained on, with a 95% interval, beside the plain baselines."""
    from upstairs.experiments.evaluate import evaluate_run

    result = evaluate_run(run, **vars(on), inner_steps=inner_steps, quiet=quiet or json)
    if json:
        print_json(result)
    else:
        from upstairs.console import print_results

        print_results([result])


@app.command(name="compare")
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


@app.command(name="breadth")
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


@app.command(name="adapt")
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


@app.command(name="predict")
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


app.command(name="report")(report)


@app.command(name="list")
def list_names(*, json: Json = False) -> None:
    """Name every learner, kind of data and recipe."""
    from upstairs.experiments.listing import list_all

    table = list_all()
    if json:
        print_json(table)
        return
    for title, rows in table.items():
        print(title)
        for row in rows:
            print(f"  {row['name']:<18} {row['summary']}")


def option_names() -> set[str]:
    """The names that stand for options in an error: the settings of a run, and what the commands take beside them."""
    own = "all baselines budget count inner_steps out resume seeds support text trials unknown vary"
    return {*own.split(), *Options.__annotations__, *TaskOptions.__annotations__}


def main() -> None:
    """Entry point: an error that the user can mend is one sentence and status 2, an interruption 130."""
    interrupt_on_terminate()
    keep_freed_memory()
    try:
        app.cli(prog="upstairs", description=__import__("upstairs").__doc__, sort_subcommands=False)
    except UpstairsError as error:
        print(f"upstairs: {error.for_command(option_names())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print(f"\nupstairs: stopped{f': {stop}' if str(stop) else ''}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `upstairs list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
