"""Training goes on to the same bits after any stop, and refuses what is not finite without losing anything."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.runs import SMALL, count_time, draw_folder, settings_of
from upstairs.data.open import open_splits
from upstairs.data.source import Source
from upstairs.data.splits import Splits, split_by_ratio
from upstairs.errors import UpstairsError
from upstairs.settings import Settings
from upstairs.storage import load_tensors
from upstairs.training.defaults import fit_settings, request_run
from upstairs.training.run import load
from upstairs.training.trainer import Trainer, restore, save, train_run


def patterns(classes: int = 20, examples: int = 8) -> Splits:
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(classes, 1, 6)).repeat(examples, 1)
    x = centre + 0.3 * rng.normal(size=centre.shape)
    return split_by_ratio(Source.from_arrays(x.reshape(-1, 6), np.arange(classes).repeat(examples)), (0.5, 0.25, 0.25))


def settings(learner: str = "protonet", **changes: object) -> Settings:
    values = {
        "learner": learner,
        "net": "mlp",
        "norm": "population",
        "width": 8,
        "way": 4,
        "shot": "1-2",
        "query": 3,
        "tasks": 2,
    }
    return settings_of(
        **{**values, "chunk": 1, "steps": 12, "validations": 3, "validation_tasks": 10, "seed": 5, **changes}
    )


def weights(path: Path) -> dict[str, torch.Tensor]:
    tensors, _ = load_tensors(path, kind="run")
    return tensors


@pytest.mark.parametrize("learner", ["protonet", "maml", "maml_pp"])
def test_resumes_to_the_same_bits(tmp_path: Path, learner: str) -> None:
    splits = patterns()
    s = settings(learner, shot="1")
    train_run(Trainer(s, splits, tmp_path / "whole"))
    for stop in (2, 4, 7):  # before, at and after a validation

        def interrupt(status, stop=stop) -> None:
            if status.step == stop - 1:  # the next step is taken as a whole
                signal.raise_signal(signal.SIGTERM)

        out = tmp_path / f"stopped{stop}"
        with pytest.raises(KeyboardInterrupt):
            train_run(Trainer(s, splits, out), interrupt)
        torch.rand(stop)  # another process has another global generator
        again = Trainer(s, splits, out)
        restore(again)
        assert again.progress.step == stop
        train_run(again)
        for name in ("last.safetensors", "best.safetensors"):
            whole, resumed = weights(tmp_path / "whole" / name), weights(out / name)
            assert whole.keys() == resumed.keys()
            assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_the_learner_is_told_how_far_training_is(tmp_path: Path) -> None:
    run = Trainer(settings("maml_pp", shot="1"), patterns(), tmp_path)
    told: list[float] = []
    at = run.learner.at
    run.learner.at = lambda progress: (told.append(progress), at(progress))[1]
    train_run(run)
    assert told == [step / 12 for step in range(12)]


def test_training_helps_and_keeps_the_best(tmp_path: Path) -> None:
    splits = patterns(60, 8)
    run = Trainer(settings(steps=150, tasks=4, validation_tasks=100), splits, tmp_path)
    train_run(run)
    first, last = run.progress.history[0], run.progress.history[-1]
    assert last["loss"] < first["loss"] and last["step"] == 150
    loaded = load(tmp_path)
    assert loaded.history[-1]["step"] == 150
    assert run.progress.best == max(p["accuracy"] for p in run.progress.history)
    assert loaded.settings == run.settings


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train_run(Trainer(settings(steps=2), patterns(), tmp_path))
    assert torch.equal(torch.rand(2), expected)


def test_a_loss_that_is_not_finite_names_the_task(tmp_path: Path) -> None:
    splits = patterns()
    run = Trainer(settings(steps=8), splits, tmp_path)
    train_run(run)
    before = (tmp_path / "last.safetensors").read_bytes()
    poisoned = splits.train.inputs.copy()
    poisoned[splits.train.rows[0]] = np.nan
    bad = Splits(Source("bad", poisoned, splits.train.labels, splits.train.rows), splits.val, splits.test)
    again = Trainer(settings(steps=40), bad, tmp_path)
    restore(again)
    with pytest.raises(
        UpstairsError, match=r"at step \d+ the loss of task \d .*task with seed (\d+) of bad.*`lr`"
    ) as caught:
        train_run(again)
    seed = int(str(caught.value).split("seed ")[1].split()[0])
    assert again.episodes.batch([seed]).support.x.isnan().any(), "the task that it names is not the bad one"
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    run = Trainer(settings(steps=2), patterns(), tmp_path)
    train_run(run)
    with torch.no_grad():
        next(run.learner.parameters()).fill_(float("nan"))
    with pytest.raises(UpstairsError, match="not finite"):
        save(run, "last.safetensors")
    load(tmp_path)


def test_defaults_give_way_to_small_data_and_what_is_given_does_not() -> None:
    source = patterns(classes=8, examples=4).train  # 4 classes
    small = fit_settings(request_run("protonet"), source)
    assert small.way == 4 and small.shots[1] + small.query <= 4 and small.net == "mlp"
    with pytest.raises(UpstairsError, match="has 4 classes and `way` is 20"):
        Trainer(fit_settings(request_run("protonet", way=20), source), Splits(source, source, source), Path("unused"))


KILLED = """
import os, signal, sys
from upstairs.cli import main
from upstairs import storage
from upstairs.training import trainer
where, call = sys.argv.pop(1).split()
owner, name = {"write": (storage.os, "fsync"), "step": (trainer, "take_step")}[where]
real, calls = getattr(owner, name), []
def deadly(*given):
    calls.append(1)
    if len(calls) == int(call):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given)
setattr(owner, name, deadly)
main()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    """SIGKILL in a step and in the middle of a write: the end is that of the run that nobody disturbed."""
    folder = draw_folder(tmp_path / "pictures")
    words = ["train", "protonet", "--data", str(folder), "--quiet", *SMALL, "--steps", "12", "--validations", "4"]
    out = tmp_path / "killed"
    for moment in ("step 5", "write 4"):  # writes: those of two checkpoints at each validation
        done = subprocess.run([sys.executable, "-c", KILLED, moment, *words, "--out", str(out), "--resume"])
        assert done.returncode == -signal.SIGKILL
    options, splits = load(out).settings, open_splits(load(out).settings, quiet=True)
    again = Trainer(options, splits, out)
    restore(again)
    assert 0 < again.progress.step < 12
    train_run(again)
    train_run(Trainer(options, splits, tmp_path / "whole"))
    whole, resumed = weights(tmp_path / "whole" / "last.safetensors"), weights(out / "last.safetensors")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


@pytest.mark.parametrize(
    ("options", "validations", "tasks"),
    [
        ({"steps": 15, "way": 60}, 2, 20),
        ({"steps": 40, "way": 60}, 5, 20),
        ({"steps": 200, "way": 60}, 10, 54),
        ({"steps": 5000, "way": 60}, 10, 100),
        ({"steps": 15, "way": 60, "validations": 3}, 3, 20),
        ({"steps": 15, "way": 60, "validation_tasks": 30}, 1, 30),
        ({"steps": 15, "way": 60, "patience": 2}, 10, 20),
        ({"minutes": 1.5, "way": 60}, 10, 100),
    ],
)
def test_validations_take_at_most_a_fifth_of_the_work(options: dict, validations: int, tasks: int) -> None:
    fitted = fit_settings(request_run("protonet", **options), patterns(130, 8).train)
    assert (fitted.validations, fitted.validation_tasks) == (validations, tasks)


def test_a_budget_in_minutes_leaves_out_validations_that_cost_too_much(tmp_path: Path, monkeypatch) -> None:
    count_time(monkeypatch, 1.0)
    run = Trainer(settings("protonet", steps=None, minutes=1.0, tasks=1, validation_tasks=10), patterns(), tmp_path)
    train_run(run)
    own, each = 4 * 5 * 3, 4 * 16 * 10 + 8 * 4 * 5  # examples of a meta-step, with gradients, and of a validation
    steps = [int(point["step"]) for point in run.progress.history]
    assert steps[-1] == run.progress.step and len(steps) < 3
    for times, step in enumerate(steps[:-1], 1):
        assert times * each <= 0.2 * step * own
