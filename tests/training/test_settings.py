"""Settings: options of all learners and of one, and files that older versions wrote."""

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import upstairs
from upstairs import learners
from upstairs.data.source import Source
from upstairs.data.splits import Splits, split_by_ratio
from upstairs.errors import UpstairsError
from upstairs.learners import LEARNERS, make_settings, read_settings
from upstairs.learners.registry import check_entry
from upstairs.settings import COMMON, DataOptions, Settings, check_option, option_kinds
from upstairs.storage import load_tensors, save_tensors
from upstairs.training.defaults import request_run

OLD = {"lr": "rate", "inner_lr": "inner_rate"}
FOREIGN = {"views": 1, "scale": 0.8, "inner_steps": 3, "inner_rate": 0.4, "inner_batch": None, "critic_steps": 1}


def old_style(values: dict) -> dict:
    """As versions before wrote them: every learner's options, older names, and the kind of task in `way`."""
    kinds = {"regression": 0, "generation": 1}
    values = {OLD.get(name, name): value for name, value in values.items()}
    way = kinds.get(values.pop("task_kind"), values["way"])
    return {**FOREIGN, **values, "way": way}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_file_gives_back_its_settings_in_the_old_form_too(name: str) -> None:
    for kind in LEARNERS[name].kinds:
        settings = make_settings(name, task_kind=kind, steps=7, seed=3)
        stored = json.loads(json.dumps(settings.to_json()))
        assert read_settings(stored) == settings and read_settings(old_style(stored)) == settings
        assert (settings.way is None) == (kind == "regression") and (settings.way == 1) == (kind == "generation")


def vectors() -> Splits:
    x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    return split_by_ratio(Source.from_arrays(x, np.arange(60) // 5), (0.5, 0.25, 0.25))


@pytest.mark.parametrize(("name", "data"), [("maml", "vectors"), ("protonet", "vectors"), ("maml", "sinusoid")])
def test_a_run_of_the_old_form_loads_goes_on_and_predicts(name: str, data: str, tmp_path: Path) -> None:
    splits = vectors() if data == "vectors" else data
    own = {"inner_steps": 2} if name == "maml" else {"scale": 0.5}
    options = {"steps": 2, "width": 4, "query": 2, "validation_tasks": 2, "quiet": True, **own}
    run = upstairs.train(name, data=splits, out=tmp_path / "run", **options)
    for file in (tmp_path / "run").glob("*.safetensors"):
        tensors, meta = load_tensors(file, kind="run")
        save_tensors(file, tensors, {**meta, "settings": old_style(meta["settings"])}, kind="run")
    again = upstairs.load(tmp_path / "run")
    assert again.settings == run.settings
    same = zip(again.learner.state_dict().values(), run.learner.state_dict().values(), strict=True)
    assert all(bool((one == other).all()) for one, other in same)
    more = upstairs.train(name, data=splits, out=tmp_path / "run", **{**options, "steps": 4})
    assert more.meta["progress"]["step"] == 4
    if data == "vectors":
        support = {"a": list(np.zeros((2, 5), np.float32)), "b": list(np.ones((2, 5), np.float32))}
        file = run.adapt(support).save(tmp_path / "model.safetensors")
        tensors, meta = load_tensors(file, kind="adapted")
        save_tensors(file, tensors, {**meta, "settings": old_style(meta["settings"])}, kind="adapted")
        assert upstairs.load_adapted(file).predict([np.zeros(5, np.float32)]) == ["a"]


def test_python_takes_a_learners_own_options_and_refuses_others(tmp_path: Path) -> None:
    options = {"data": vectors(), "steps": 1, "width": 4, "query": 2, "quiet": True}
    run = upstairs.train("maml", inner_steps=2, inner_lr=0.1, out=tmp_path / "maml", **options)
    assert run.settings.own.inner_steps == 2 == run.learner.steps
    with pytest.raises(UpstairsError, match=r"`inner_lr` is an option of anil, .* and the learner is protonet: leave"):
        upstairs.train("protonet", inner_lr=0.1, out=tmp_path / "protonet", **options)
    with pytest.raises(UpstairsError, match="there is no setting 'speed'"):
        upstairs.train("protonet", speed=1, out=tmp_path / "protonet", **options)
    with pytest.raises(UpstairsError, match=r"`inner_steps` is 3 and the run in .* has 2"):
        upstairs.train("maml", inner_steps=3, out=tmp_path / "maml", **options)


@pytest.mark.parametrize(
    ("values", "needed"),
    [
        ({"way": 0}, "`way` is 0: it must be at least 1"),
        ({"way": None}, "`way` is None and the tasks have classes"),
        ({"way": 1}, "`way` is 1: it must be at least 2"),
        ({"task_kind": "regression"}, "`way` is 5 and glyphs is regression, which has no classes"),
        ({"task_kind": "generation"}, "`way` is 5 and 'maml' makes more of one class"),
        ({"dropout": 1.0}, "`dropout` is 1.0: it must be from 0 to below 1"),
        ({"lr": float("inf")}, "`lr` is inf: it must be above 0"),
    ],
)
def test_values_that_cannot_be(values: dict, needed: str) -> None:
    with pytest.raises(UpstairsError, match=needed):
        Settings(learner="maml", **values)


def test_values_of_another_type() -> None:
    for name, value, needed in (
        ("way", "5", "`way` is '5': give a number"),
        ("net", "x", "`net` is 'x': choose conv4"),
    ):
        with pytest.raises(UpstairsError, match=needed):
            check_option(COMMON[name], option_kinds(Settings)[name], value)


def test_a_request_has_one_budget_and_counts_what_was_changed_as_given() -> None:
    request = request_run("maml", lr=0.1)
    assert request.settings.minutes == 10.0 and request.given == {"lr"}
    other = request.changed(steps=5, inner_lr=0.3)
    assert (other.settings.steps, other.settings.minutes, other.settings.own.inner_lr) == (5, None, 0.3)
    assert other.given == {"lr", "steps", "inner_lr"} and other.values == {"lr": 0.1, "steps": 5, "inner_lr": 0.3}


@pytest.mark.parametrize("name", LEARNERS)
def test_entries_keep_the_rules_that_a_plugin_must(name: str) -> None:
    check_entry(LEARNERS[name], name)
    assert LEARNERS[name].kinds and callable(LEARNERS[name].builder)


def test_every_lazy_name_of_the_learners_is_there_and_no_folder_hides_one() -> None:
    for module in {*learners._HOME.values()}:
        import_module(f"upstairs.{module}")
    for name in learners.__all__:
        assert not isinstance(getattr(learners, name), ModuleType), name


def test_data_options_are_part_of_the_settings() -> None:
    assert isinstance(make_settings("protonet"), DataOptions)
    with pytest.raises(UpstairsError, match="`train_classes` is 1: it must be at least 2"):
        DataOptions(train_classes=1)


def test_python_takes_numbers_of_shots_and_of_numpy(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(160, 4)).astype("float32"), np.arange(160) % 16
    data = Source.from_arrays(x, y)
    for k, (shot, text) in enumerate(((2, "2"), ((1, 3), "1-3"), ("1-3", "1-3"), (np.int64(2), "2"))):
        options = {"shot": shot, "steps": np.int64(1), "lr": np.float32(0.01), "validation_tasks": 2, "way": 3}
        run = upstairs.train("protonet", data=data, out=tmp_path / str(k), quiet=True, **options)
        assert run.settings.shot == text and type(run.settings.steps) is int
    for name, value in (("steps", 2.5), ("seed", 2**70)):
        with pytest.raises(UpstairsError, match=f"`{name}` is .*: give a whole number"):
            check_option(COMMON[name], option_kinds(Settings)[name], value)


def test_a_name_in_other_letters_is_proposed() -> None:
    with pytest.raises(UpstairsError, match="no learner 'Proto-MAML': choose proto_maml, or"):
        make_settings("Proto-MAML")
