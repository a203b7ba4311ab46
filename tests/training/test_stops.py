"""A stop at any moment: what is saved is whole, and the resumed run is the uninterrupted one."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import upstairs
from helpers.runs import draw_folder
from upstairs import stops, storage
from upstairs.data.open import open_splits
from upstairs.data.source import Source
from upstairs.data.splits import Splits, split_by_ratio
from upstairs.settings import DataOptions
from upstairs.storage import load_tensors
from upstairs.training import trainer
from upstairs.training.defaults import fit_settings, request_run
from upstairs.training.trainer import Trainer, restore, train_run

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """After each test the handlers are those before it."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


def splits_of(data: str) -> Splits:
    if data != "vectors":
        return open_splits(DataOptions(data=data), quiet=True)
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(20, 1, 6)) + 0.3 * rng.normal(size=(20, 8, 6))).reshape(-1, 6)
    return split_by_ratio(Source.from_arrays(x, np.arange(160) // 8), (0.5, 0.25, 0.25))


RUNS: dict[str, dict[str, Any]] = {
    "maml on sinusoid": {"learner": "maml", "data": "sinusoid"},
    "hard classes": {"learner": "protonet", "data": "vectors", "way": 4, "hard": 0.25},
    "patience": {"learner": "protonet", "data": "vectors", "way": 4, "patience": 2, "validations": 12, "lr": 1e-6},
    "two players": {"learner": "dagan", "data": "pictures", "validations": 2},
    "batch statistics": {"learner": "maml", "data": "vectors", "way": 3, "norm": "population"},
}
# the moment of a stop: a function of the trainer's, which call of it, and whether the signal comes before or after it
MOMENTS = [
    ("take_step", 1, "before"), ("take_step", 4, "after"), ("meta_backward", 5, "before"), ("calibrate", 1, "before"),
    ("meta_backward", 2, "after"), ("optimiser", 3, "before"), ("optimiser", 5, "within"), ("optimiser", 6, "after"),
    ("calibrate", 2, "after"), ("score_tasks", 1, "after"), ("validate", 2, "before"), ("validate", 1, "after"),
    ("save", 3, "before"), ("save", 2, "after"), ("hard_classes", 8, "after"), ("validate", 3, "after"),
]  # fmt: skip


def make(name: str, splits: Splits, out: Path) -> Trainer:
    values = {"steps": 12, "validations": 3, "validation_tasks": 4, "query": 2, "tasks": 2, "width": 4, **RUNS[name]}
    return Trainer(
        fit_settings(request_run(**values, regression=splits.train.functions is not None), splits.train), splits, out
    )


def strike(patch: pytest.MonkeyPatch, run: Trainer, moment: tuple[str, int, str], number: int) -> None:
    """Sends the process a signal at that moment."""
    where, call, side = moment
    owner, name = (run.optimizer, "step") if where == "optimiser" else (trainer, where)
    real, calls = getattr(owner, name), 0

    def struck(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != call:
            return real(*given, **named)
        if side == "before":
            signal.raise_signal(number)
        if side == "within":  # one parameter is updated before the signal, the others after it
            first = run.optimizer.param_groups[0]
            every = first["params"]
            for part in (every[:1], every[1:]):
                first["params"] = part
                real()
                if part is not every[1:] and len(part) == 1:
                    signal.raise_signal(number)
            first["params"] = every
            return None
        found = real(*given, **named)
        if side == "after":
            signal.raise_signal(number)
        return found

    patch.setattr(owner, name, struck)


def digest(out: Path) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """Everything in a run's checkpoints except for seconds."""
    tensors, rest = {}, []
    for file in ("last.safetensors", "best.safetensors"):
        found, meta = load_tensors(out / file, kind="run")
        tensors |= {f"{file} {name}": value for name, value in found.items()}
        progress = {**meta["progress"], "seconds": 0}
        progress["history"] = [{**point, "seconds": 0} for point in progress["history"]]
        rest.append(json.loads(json.dumps([progress, meta["optimizer"]]).replace("NaN", "null")))
    return tensors, rest


def assert_same(one: Path, other: Path) -> None:
    (mine, rest), (theirs, others) = digest(one), digest(other)
    assert mine.keys() == theirs.keys() and rest == others
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_was_stopped_is_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    if RUNS[name]["data"] == "pictures":
        draw_folder(tmp_path / "pictures", classes=10, examples=4)
    splits = splits_of(str(tmp_path / "pictures") if RUNS[name]["data"] == "pictures" else RUNS[name]["data"])
    whole = make(name, splits, tmp_path / "whole")
    train_run(whole)
    if name == "patience":
        assert whole.progress.step < 12
    moments = MOMENTS if name == "maml on sinusoid" else MOMENTS[list(RUNS).index(name) % 4 :: 4]
    for place, moment in enumerate(moments):
        out = tmp_path / f"stopped{place}"
        run = make(name, splits, out)
        with pytest.MonkeyPatch.context() as patch:
            strike(patch, run, moment, SIGNALS[place % 2])
            try:
                train_run(run)
                stopped = False
            except KeyboardInterrupt:
                stopped = True
        again = make(name, splits, out)
        restore(again)
        assert again.progress.step == run.progress.step == run.saved
        if stopped:
            train_run(again)
        assert_same(tmp_path / "whole", out)


def test_a_second_signal_ends_at_once_and_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stops, "SAME_STOP", -1.0)
    splits, out = splits_of("sinusoid"), tmp_path / "run"
    run = make("maml on sinusoid", splits, out)
    with pytest.MonkeyPatch.context() as patch:
        real, calls = trainer.take_step, []

        def struck(given: Trainer) -> Any:
            found = real(given)
            calls.append(1)
            if len(calls) == 6:
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGINT)
            return found

        patch.setattr(trainer, "take_step", struck)
        with pytest.raises(KeyboardInterrupt):
            train_run(run)
    assert run.progress.step == 6 and run.saved == 4  # the checkpoint of the last validation
    again = make("maml on sinusoid", splits, out)
    restore(again)
    assert again.progress.step == 4
    train_run(again)
    train_run(make("maml on sinusoid", splits, tmp_path / "whole"))
    assert_same(tmp_path / "whole", out)


def test_two_signals_of_one_stop_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`timeout` sends its signal to the process and to its group."""
    monkeypatch.setattr(stops, "SAME_STOP", 1e9)
    run = make("maml on sinusoid", splits_of("sinusoid"), tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        real = trainer.meta_backward
        patch.setattr(
            trainer, "meta_backward", lambda *a, **k: [signal.raise_signal(n) for n in SIGNALS] and real(*a, **k)
        )
        with pytest.raises(KeyboardInterrupt):
            train_run(run)
    assert run.progress.step == run.saved == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_exception_within_a_step_saves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    splits = splits_of("sinusoid")
    run = make("maml on sinusoid", splits, tmp_path / "run")
    step, calls = run.optimizer.step, []

    def broken() -> None:
        step()
        calls.append(1)
        if len(calls) == 6:
            raise error

    run.optimizer.step = broken
    with pytest.raises(error):
        train_run(run)
    again = make("maml on sinusoid", splits, tmp_path / "run")
    restore(again)
    assert again.progress.step == 4
    train_run(again)
    train_run(make("maml on sinusoid", splits, tmp_path / "whole"))
    assert_same(tmp_path / "whole", tmp_path / "run")


def test_pretraining_stops_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"steps": 12, "pretrain": 0.5, "way": 4, "query": 2, "width": 4, "validations": 2, "quiet": True}
    options |= {"validation_tasks": 4, "data": splits_of("vectors")}
    upstairs.train("protonet", out=tmp_path / "whole", **options)
    real, calls = trainer.take_step, []

    def struck(run: Trainer) -> Any:
        calls.append(1)
        if len(calls) in (3, 9):  # in pretraining, and after it
            signal.raise_signal(signal.SIGTERM)
        return real(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "take_step", struck)
        for step in (3, 3):
            with pytest.raises(KeyboardInterrupt, match=f"step {step} of .* is saved"):
                upstairs.train("protonet", out=tmp_path / "run", **options)
    upstairs.train("protonet", out=tmp_path / "run", **options)
    assert_same(tmp_path / "whole", tmp_path / "run")
    assert_same(tmp_path / "whole" / "pretrain", tmp_path / "run" / "pretrain")


def test_handlers_are_restored_and_another_thread_has_none(tmp_path: Path) -> None:
    splits, seen = splits_of("sinusoid"), []

    def own(*_: object) -> None:
        pass

    def look(_: object) -> None:
        seen.append(signal.getsignal(signal.SIGTERM))

    signal.signal(signal.SIGTERM, own)
    train_run(make("maml on sinusoid", splits, tmp_path / "main"), look)
    assert signal.getsignal(signal.SIGTERM) is own and own not in seen and len(seen) == 12
    other = threading.Thread(target=lambda: train_run(make("maml on sinusoid", splits, tmp_path / "other"), look))
    other.start()
    other.join()
    assert seen[12:] == [own] * 12
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a background job: it stays ignored
    with stops.stop_requests() as stopping:
        signal.raise_signal(signal.SIGINT)
        assert not stopping()
    signal.signal(signal.SIGINT, signal.default_int_handler)


CHILD = """
import signal, sys

from upstairs.cli import main
from upstairs import stops
from upstairs.training import trainer
stops.SAME_STOP = -1.0
real, calls, numbers = trainer.take_step, [], [getattr(signal, name) for name in sys.argv.pop(1).split()]
def struck(run):
    found = real(run)
    calls.append(1)
    if len(calls) == 6:
        for number in numbers:
            signal.raise_signal(number)
    return found
trainer.take_step = struck
main()
"""


@pytest.mark.parametrize(
    ("names", "step"), [("SIGINT", 6), ("SIGTERM", 6), ("SIGTERM SIGTERM", 0), ("SIGINT SIGTERM", 0)]
)
def test_the_command_says_what_is_saved(names: str, step: int, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["train", "maml", "--data", "sinusoid", "--steps", "1000", "--validations", "1", "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", CHILD, names, *words], capture_output=True, text=True)
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert f"step {step} of training maml is saved; go on with: upstairs train --out {out} --resume" in done.stderr
    assert upstairs.load(out).meta["progress"]["step"] == step


def test_a_stop_while_a_checkpoint_is_read_does_not_look_like_damage(tmp_path: Path, monkeypatch) -> None:
    train_run(make("maml on sinusoid", splits_of("sinusoid"), tmp_path))
    real = storage.safe_open

    class Swallowing:
        """As torch does in C, it replaces an interruption by an error of its own."""

        def __init__(self, *given: Any, **named: Any) -> None:
            self.file = real(*given, **named)

        def __enter__(self) -> Any:
            try:
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise storage.SafetensorError("could not determine the shape") from None
            return self.file.__enter__()

        def __exit__(self, *error: object) -> None:
            self.file.__exit__(*error)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    monkeypatch.setattr(stops, "SAME_STOP", 1e9)
    monkeypatch.setattr(storage, "safe_open", Swallowing)
    with pytest.raises(KeyboardInterrupt):
        load_tensors(tmp_path / "last.safetensors", kind="run")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
