"""The outer loop's rate, optimiser and device."""

import math
import sys

import pytest
import torch
from torch import nn

from helpers.runs import SMALL, Call, draw_folder, settings_of
from upstairs.core import Learner
from upstairs.data.episodes import Episodes
from upstairs.data.source import Source
from upstairs.engine.evaluate import score_tasks
from upstairs.errors import UpstairsError
from upstairs.schedule import lr_factor
from upstairs.storage import load_tensors
from upstairs.training import trainer
from upstairs.training.trainer import choose_device, make_optimizer


@pytest.mark.parametrize(
    ("schedule", "done", "step", "factor"),
    [
        ("cosine", 0.0, 0, 1 / 50),
        ("cosine", 0.5, 900, 0.5),
        ("cosine", 1.2, 900, 0.0),
        ("linear", 0.25, 3, 0.75),
        ("constant", 0.9, 0, 1.0),
        ("halve:2000", 0.1, 1999, 1.0),
        ("halve:2000", 0.1, 4000, 0.25),
        ("20000:0.06,40000:0.012", 0.1, 19_999, 1.0),
        ("40000:0.012,20000:.06", 0.1, 20_000, 0.06),
        ("20000:0.06,40000:0.012", 0.1, 99_999, 0.012),
    ],
)
def test_rates(schedule: str, done: float, step: int, factor: float) -> None:
    assert math.isclose(lr_factor(schedule, done=done, step=step), factor, abs_tol=1e-12)


@pytest.mark.parametrize("schedule", ["cos", "halve", "halve:0", "20000", "a:0.1", "10:0.1,", ""])
def test_no_such_schedule(schedule: str) -> None:
    with pytest.raises(UpstairsError, match="`schedule` is"):
        settings_of(learner="protonet", schedule=schedule)


@pytest.mark.parametrize("name", ["adamw", "sgd", "momentum"])
def test_a_run_with_each_optimizer_goes_on_as_if_never_stopped(tmp_path, call: Call, name: str) -> None:
    data = draw_folder(tmp_path / "data")
    train = ["train", "protonet", "--data", data, "--optimizer", name, "--schedule", "halve:3", "--lr", "0.1", *SMALL]
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert call(*train, "--steps", 6, "--out", once, "--quiet")[0] == 0
    assert call(*train, "--steps", 3, "--out", twice, "--quiet")[0] == 0
    assert call(*train, "--steps", 6, "--out", twice, "--resume", "--device", "cpu", "--quiet")[0] == 0
    one, other = (load_tensors(out / "last.safetensors", kind="run")[0] for out in (once, twice))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert any(k.startswith("optimizer.") for k in one) == (name != "sgd")


def test_momentum_is_nesterovs() -> None:
    """Against the recursion of Sutskever et al. (2013) as torch documents it: v = mu v + g, p -= rate (g + mu v)."""
    p = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    settings = settings_of(learner="protonet", optimizer="momentum", lr=0.1, weight_decay=0.01)
    optimizer = make_optimizer([p], settings)
    own, speed = 2.0, 0.0
    for _ in range(4):
        p.grad = p.detach().clone()
        optimizer.step()
        gradient = own + 0.01 * own
        speed = 0.9 * speed + gradient
        own -= 0.1 * (gradient + 0.9 * speed)
    assert math.isclose(p.item(), own, rel_tol=1e-12)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == choose_device("cpu").type == "cpu"
    with pytest.raises(UpstairsError, match="`device` is cuda"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == choose_device("cuda").type == "cuda"
    assert choose_device("cpu").type == "cpu"


class Elsewhere(Learner):
    """Its parameter is on a device without storage; it notes where its examples are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, device="meta"))

    def adapt(self, support, /) -> torch.Tensor:
        raise RuntimeError(f"examples are on {support.x.device}, labels on {support.y.device}")

    def predict(self, state, x, /) -> torch.Tensor:
        return x


def test_tasks_go_where_the_learner_is(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["upstairs.functional.batching.vectorize"]
    monkeypatch.setattr(module, "snapshot", lambda owner: [])  # which refuses weights without values
    source = Source.from_arrays(torch.zeros(20, 4), torch.arange(20) % 4)
    with pytest.raises(RuntimeError, match="examples are on meta, labels on meta"):
        score_tasks(Elsewhere(), Episodes(source, way=2, shot=1, query=1), [0, 1])


def test_apples_gpu_is_used_where_torch_has_it_and_refused_elsewhere(tmp_path, call: Call, monkeypatch) -> None:
    data = draw_folder(tmp_path / "data")
    words = ["train", "protonet", "--data", data, *SMALL, "--steps", 1, "--out", tmp_path / "run", "--device", "mps"]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    status, _, err = call(*words)
    assert status == 2 and "--device is mps and torch finds none: leave it out, or use a Mac" in err
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("mps") == torch.device("mps") and choose_device("auto").type != "mps"

    def lacking(*given: object, **named: object) -> None:
        raise NotImplementedError("The operator 'aten::one' is not currently implemented for the MPS device")

    monkeypatch.setattr(trainer, "choose_device", lambda asked: torch.device("cpu"))
    monkeypatch.setattr(trainer, "meta_backward", lacking)
    status, _, err = call(*words)
    assert status == 2 and "--device is mps, which lacks" in err and "choose --device cpu" in err
