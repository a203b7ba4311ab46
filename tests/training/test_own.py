"""`upstairs.train` with a learner, a network and data of one's own: checkpoints, stops, evaluation, report."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import upstairs as up
from helpers.runs import Call, draw_folder
from upstairs.core import Examples, cross_entropy
from upstairs.data.open import read_dataset, split_own
from upstairs.data.regression.rows import TaskTable
from upstairs.data.source import Source, function_source
from upstairs.data.splits import Splits
from upstairs.errors import UpstairsError
from upstairs.experiments.compare import compare
from upstairs.experiments.evaluate import evaluate_run
from upstairs.experiments.report.survey import report_runs
from upstairs.settings import DataOptions
from upstairs.storage import load_tensors, save_tensors
from upstairs.training import trainer


class Vectors(torch.utils.data.Dataset):
    """Noisy vectors of 20 classes, as a user's own `Dataset`."""

    def __init__(self, kind: str = "array") -> None:
        rng = np.random.default_rng(0)
        centres = rng.normal(size=(20, 1, 6))
        self.x, self.kind = (centres + 0.3 * rng.normal(size=(20, 8, 6))).reshape(-1, 6).astype(np.float32), kind
        self.classes = [f"class {k}" for k in range(20)]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, place: int) -> tuple[Any, Any]:
        label = place // 8
        if self.kind == "tensor":
            return torch.from_numpy(self.x[place]), torch.tensor(label)
        if self.kind == "picture":
            grey = np.clip(128 + 60 * self.x[place].repeat(6), 0, 255).astype(np.uint8)
            return Image.fromarray(np.tile(grey, (36 + place % 3, 1))), label
        return self.x[place], label


class Centroids(up.Learner):
    """A user's own learner: a scaled network, and class means."""

    def __init__(self, net: nn.Module, way: int) -> None:
        super().__init__()
        self.net, self.way, self.loss_fn = net, way, cross_entropy
        self.scale = nn.Parameter(torch.ones(()))

    def adapt(self, support: Examples, /) -> Tensor:
        one_hot = torch.nn.functional.one_hot(support.y, self.way).to(support.x.dtype) * support.mask[:, None]
        return (one_hot.T @ self.net(support.x)) / one_hot.sum(0)[:, None].clamp(min=1)

    def predict(self, state: Tensor, x: Tensor, /) -> Tensor:
        return -self.scale * torch.cdist(self.net(x), state).square()


def net(out: int = 5, hidden: int = 16) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, out))


MAKE = {"maml": lambda: up.maml(net(), way=5, inner_lr=0.4, steps=1), "own": lambda: Centroids(net(), way=5)}
OPTIONS: dict[str, Any] = {"steps": 12, "validations": 3, "validation_tasks": 10, "query": 2, "tasks": 2, "quiet": True}


def state(out: Path) -> tuple[dict[str, Tensor], Any]:
    tensors, meta = load_tensors(out / "last.safetensors", kind="run")
    return tensors, [{**point, "seconds": 0} for point in meta["progress"]["history"]]


@pytest.mark.parametrize("name", MAKE)
def test_an_object_trains_stops_and_goes_on(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, data = MAKE[name], Vectors()
    learner = make()
    before = [p.detach().clone() for p in learner.parameters()]
    whole = up.train(learner, data=data, out=tmp_path / "whole", **OPTIONS)
    assert whole.learner is learner and whole.settings.learner == type(learner).__name__
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.parameters(), strict=True))
    assert len(whole.history) == 3 and whole.history[-1]["accuracy"] > 0.2

    real, calls = trainer.take_step, []

    def struck(run: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGTERM)
        return real(run)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "take_step", struck)
        with pytest.raises(KeyboardInterrupt, match=r"step 5 of training .* is saved; the same call goes on"):
            up.train(make(), data=data, out=tmp_path / "run", **OPTIONS)
    run = up.train(make(), data=data, out=tmp_path / "run", **OPTIONS)
    (mine, history), (theirs, other) = state(tmp_path / "run"), state(tmp_path / "whole")
    assert history == other and all(torch.equal(mine[key], theirs[key]) for key in theirs)

    # evaluate, compare and report; in this process with the data, later with the learner and the data
    first = evaluate_run(run, tasks=20, quiet=True)
    assert first["learner"] == type(learner).__name__ and first["split"] == "test" and first["accuracy"] > 0.2
    assert {row["name"] for row in compare([run, whole], tasks=20, quiet=True)["scores"]} >= {"nearest_centroid"}
    page = report_runs([run], tasks=5, quiet=True)
    assert page == tmp_path / "run" / "report.html" and page.is_file()
    again = up.load(tmp_path / "run", learner=make())
    splits = split_own(data, DataOptions())
    tasks = up.Episodes(splits.test, way=4, shot=1, query=5)
    assert (
        up.evaluate(again.learner, tasks, tasks=20)["accuracy"] == up.evaluate(run.learner, tasks, tasks=20)["accuracy"]
    )
    model = run.adapt({"a": data.x[:3], "b": data.x[8:11]})
    assert len(model.predict(data.x[3:5])) == 2
    path = model.save(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(
        up.load_adapted(path, learner=make()).predict_proba(data.x[3:5]), model.predict_proba(data.x[3:5])
    )
    with pytest.raises(UpstairsError, match="learner=learner"):
        up.load_adapted(path)


def test_what_an_object_cannot_do_is_said(tmp_path: Path, call: Call) -> None:
    data, out = Vectors(), tmp_path / "run"
    up.train(MAKE["maml"](), data=data, out=out, **OPTIONS)
    with pytest.raises(
        UpstairsError, match=r"object of the class 'GradientLearner'.*upstairs\.load\(RUN, learner=learner\)"
    ):
        up.load(out)
    for words in (["evaluate", str(out)], ["report", str(out)], ["train", "--out", str(out), "--resume"]):
        status, _, err = call(*words)
        assert status == 2 and err.count("\n") == 1 and "in Python" in err
    with pytest.raises(UpstairsError, match=r"'net\.2\.bias' is \(5,\) there and \(7,\) here \(1 more differ\); make"):
        up.load(out, learner=up.maml(net(7), way=7, inner_lr=0.4, steps=1))
    with pytest.raises(UpstairsError, match=r"'net\.0\.bias' is \(16,\) there and \(8,\) here"):
        up.train(up.maml(net(hidden=8), way=5, inner_lr=0.4, steps=1), data=data, out=out, **OPTIONS)
    with pytest.raises(UpstairsError, match=r"`learner` is Centroids and the run in .* has GradientLearner"):
        up.train(MAKE["own"](), data=data, out=out, **OPTIONS)
    with pytest.raises(UpstairsError, match="`inner_lr` is no option of a run whose learner is an object"):
        up.train(MAKE["maml"](), data=data, out=out, **OPTIONS, inner_lr=0.2)
    with pytest.raises(UpstairsError, match="trains an object of the class 'GradientLearner'"):
        up.train("maml", data=data, out=out, **OPTIONS)
    fresh: dict[str, Any] = {**OPTIONS, "data": data, "out": tmp_path / "fresh"}
    for bad, message in (
        ({"width": 8}, "`width` is no option of a run whose learner is an object"),
        ({"inner_lr": 0.1}, "`inner_lr` is no option of a run whose learner is an object"),
        ({"pretrain": 0.5}, "`pretrain` is no option"),
        ({"way": 7}, "5 classes apart and was given 7|`way` 7"),
        ({"way": 1}, "`way` is 1"),
    ):
        with pytest.raises(UpstairsError, match=message):
            up.train(MAKE["maml"](), **{**fresh, **bad})
    with pytest.raises(UpstairsError, match=r"an object with a network of your own.* `net` is a module for 'maml'"):
        up.train("maml", net=net(), **fresh)
    with pytest.raises(UpstairsError, match="it is a Sequential: give one of these"):
        up.train(net(), **fresh)
    assert not (tmp_path / "fresh").exists()


@pytest.mark.filterwarnings("ignore::upstairs.errors.UnfamiliarWarning")  # other pictures than those of the run
@pytest.mark.parametrize("kind", ["array", "tensor", "picture"])
def test_a_torch_dataset_is_data(kind: str, tmp_path: Path) -> None:
    source = read_dataset(Vectors(kind))
    assert source.name == "Vectors" and len(source) == 20 and "class 7" in source.labels
    assert source.feature_shape == ((1, 32, 32) if kind == "picture" else (6,))
    assert [len(rows) for rows in source.rows] == [8] * 20
    run = up.train("protonet", data=Vectors(kind), out=tmp_path, **{**OPTIONS, "steps": 2, "width": 4, "way": 4})
    assert run.settings.net == ("conv4" if kind == "picture" else "mlp")
    again = up.train("protonet", data=Vectors(kind), out=tmp_path, **{**OPTIONS, "steps": 3, "width": 4, "way": 4})
    assert again.meta["progress"]["step"] == 3 and again.splits is not None and len(again.splits.test) == 4
    if kind == "picture":  # paths, too, are read as the pictures were
        file = draw_folder(tmp_path / "more", classes=2) / "class00" / "0.png"
        assert run.adapt(tmp_path / "more").predict([file]) == ["class00"]


class Items(list):
    """A list as a `Dataset`."""


class Broken(Vectors):
    """A `Dataset` whose third item raises an error."""

    def __getitem__(self, place: int) -> tuple[Any, Any]:
        return super().__getitem__(place) if place != 2 else ({}["missing"], 0)


def test_an_error_inside_a_dataset_names_the_item() -> None:
    with pytest.raises(UpstairsError, match=r"item 2 of Broken raised a KeyError \('missing'\): fix") as raised:
        read_dataset(Broken())
    assert isinstance(raised.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Items([1, 2]), "item 0 of Items is a int: it must be a pair"),
        (Items([(np.zeros(3), [0, 1])]), r"item 0 of Items has a label of shape \[2\]: give one value"),
        (
            Items([(np.zeros(3), 0), (np.zeros(4), 1)]),
            r"input 1 of Items is of shape \(4,\) and type float64, and input 0",
        ),
        (Items([("text", 0), ("other", 1)]), "give numbers of one shape"),
        (Items([(np.ma.masked_equal([1.0, 2.0], 2), 0)] * 2), "input 0 of Items has a mask"),
        (Items(), "Items: no examples were given"),
        (iter([1]), "`data` is a list_iterator: give a path, a Source"),
        ({"a": 1}, "`data` is a dict: give a path"),
        (Items([(np.zeros(3), 0), (np.zeros(3), 1)]), "classes"),
        (5, "`data` is a int: give a path"),
        (None, "`data` is a NoneType|glyphs"),
    ],
)
def test_data_of_ones_own_that_cannot_be_used(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UpstairsError, match=message):
        up.train("protonet", data=data, out=tmp_path, **OPTIONS)


def test_sources_and_episodes_are_data(tmp_path: Path) -> None:
    source = read_dataset(Vectors())
    options = {**OPTIONS, "steps": 2}
    run = up.train(MAKE["own"](), data=source, out=tmp_path / "source", **options)
    assert isinstance(run.splits, Splits) and len(run.splits.train) == 13
    del options["query"]
    episodes = up.Episodes(source, way=4, shot=(1, 2), query=3)
    run = up.train(MAKE["own"](), data=episodes, out=tmp_path / "episodes", **options)
    assert (run.settings.way, run.settings.shot, run.settings.query) == (4, "1-2", 3)
    assert len(run.splits.train) == 20 and "accuracy" not in run.history[-1]  # no classes are left for validation
    waves = up.Source.from_function(lambda n, g: (torch.rand(n, 1, generator=g), torch.rand(n, 1, generator=g)))
    line = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    for name, data in (("functions", waves), ("tasks", up.Episodes(waves, shot=5, query=10))):
        run = up.train(up.maml(line, inner_lr=0.1, steps=1), data=data, out=tmp_path / name, **options)
        assert run.settings.task_kind == "regression" and run.history[-1]["mse"] > 0
    assert evaluate_run(run, tasks=5, quiet=True)["mse"] > 0
    with pytest.raises(UpstairsError, match="`way` of the episodes is from 2 to 4"):
        up.train(MAKE["own"](), data=up.Episodes(source, way=(2, 4), shot=1, query=3), out=tmp_path / "x", **options)


class Drawn(Vectors):
    """A `Dataset` with a random transform."""

    def __getitem__(self, place: int) -> tuple[Any, Any]:
        x, label = super().__getitem__(place)
        return x + np.random.default_rng().normal(size=6).astype(np.float32), label


def table_of(factor: float) -> Source:
    y = torch.linspace(0, 1, 8)[:, None]
    x = tuple(torch.sin(factor * (y + k)) for k in range(4))
    return function_source(TaskTable("table", x, (y,) * 4))


def test_a_run_goes_on_with_its_own_data_alone(tmp_path: Path) -> None:
    x, y = Vectors().x, np.arange(160) // 8
    cases = {
        "arrays": (Source.from_arrays(x, y), Source.from_arrays(x[::-1].copy(), y), "examples"),
        "labels": (Source.from_arrays(x, y), Source.from_arrays(x, y + 1), "classes or numbers of"),
        "tasks": (table_of(1.0), table_of(2.0), "examples"),
        "drawn": (Drawn(), Drawn(), None),
        "noise": (Source.from_arrays(x, y), Source.from_arrays(x * 1.0001, y), None),  # of another decoder
    }
    for name, (own, other, what) in cases.items():
        options = {**OPTIONS, "width": 4, **({} if name == "tasks" else {"way": 4})}
        learner = "maml" if name == "tasks" else "protonet"
        up.train(learner, data=own, out=tmp_path / name, **{**options, "steps": 2})
        if what is None:
            up.train(learner, data=other, out=tmp_path / name, **{**options, "steps": 3})
            continue
        with pytest.raises(UpstairsError, match=f"other {what}.* than the run in .*: give the data as they were"):
            up.train(learner, data=other, out=tmp_path / name, **{**options, "steps": 3})
        assert up.train(learner, data=own, out=tmp_path / name, **{**options, "steps": 3}).history
    file = tmp_path / "arrays" / "last.safetensors"  # an older version wrote no such thing
    tensors, meta = load_tensors(file, kind="run")
    save_tensors(file, tensors, {key: value for key, value in meta.items() if key != "data"}, kind="run")
    up.train(
        "protonet", data=cases["arrays"][1], out=tmp_path / "arrays", **{**OPTIONS, "width": 4, "way": 4, "steps": 4}
    )


@pytest.mark.parametrize("count", [6, 8, 9, 10, 12, 13])
def test_few_classes_of_ones_own_are_split_so_that_each_part_has_tasks(count: int) -> None:
    source = up.Source.from_arrays(np.zeros((4 * count, 3)), np.arange(count).repeat(4))
    assert min(len(part) for part in split_own(source, DataOptions())) >= 2
    assert sum(len(part) for part in split_own(source, DataOptions())) == count
