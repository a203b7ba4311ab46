"""Published experiments by name: the table of protocols, trainings that go on, and cards that say what they are of."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import upstairs.experiments.reproduce as room
from helpers.runs import Call, mini_folder
from upstairs.errors import UpstairsError
from upstairs.experiments.cards import BEGIN, END, card_markdown, deviations, verdict
from upstairs.experiments.published.find import find_experiment, recipes
from upstairs.experiments.published.protocol import LONG
from upstairs.learners.options import ScaleOptions
from upstairs.learners.registry import options_of
from upstairs.training.defaults import request_run
from upstairs.training.train import start_run

PRESETS = recipes()


@pytest.mark.parametrize("name", PRESETS)
def test_a_protocol_is_whole(name: str) -> None:
    """Everything that a paper's protocol decides is decided, for the full training and for a shorter one."""
    recipe = PRESETS[name]
    full = request_run(**recipe.settings | {"data": "there"}, regression=recipe.regression).settings
    short = request_run(**recipe.shortened(3.0) | {"data": "there"}, regression=recipe.regression).settings
    assert full.steps == recipe.steps >= 5000 and full.minutes is None
    assert short.minutes == 3.0 and short.steps is None and short.schedule == "cosine"
    for setting in ("learner", "net", "way", "shot", "query", "width", "norm", "own", "split"):
        own = [replace(s.own, scale=1.0) if isinstance(s.own, ScaleOptions) else s.own for s in (full, short)]
        assert own[0] == own[1] if setting == "own" else getattr(full, setting) == getattr(short, setting)
    for setting in ("way", "shot", "query", "steps"):
        assert setting in recipe.settings
    if recipe.row.data not in ("arabic", "clinc150"):
        assert {"lr", "schedule", "norm", "width", "tasks"} <= recipe.settings.keys()
    assert recipe.test_query >= 1 and recipe.row.source and recipe.dataset.about
    if recipe.published and not recipe.regression:
        assert 30 < recipe.published[0] < 100


def test_a_shorter_run_keeps_a_schedule_that_fits_any_length() -> None:
    """The package's own recipes fall to 0 over whatever there is; published ones would be cut off at their highest."""
    for name, kept in (
        ("omniglot-20w1s-dn4", True),
        ("cifar-fs-5w1s-co_training", True),
        ("omniglot-5w1s-r2d2", False),
    ):
        recipe = PRESETS[name]
        short = recipe.shortened(3.0)
        assert (short.get("lr") == recipe.settings["lr"]) == kept
        assert "steps" not in short and "validations" not in short


def test_recipes_that_share_a_training_ask_for_the_same() -> None:
    trainings: dict[str, dict] = {}
    for recipe in PRESETS.values():
        assert trainings.setdefault(recipe.training, recipe.settings) == recipe.settings
    assert len(trainings) < len(PRESETS)


def test_every_experiment_that_was_promised_has_its_recipe() -> None:
    for task in ("5w1s", "5w5s", "20w1s", "20w5s"):
        for learner in ("maml", "fomaml", "reptile", "meta_sgd", "maml_pp", "protonet", "matchingnet", "r2d2"):
            assert f"omniglot-{task}-{learner}" in PRESETS
    for data in ("cifar-fs", "fc100", "miniimagenet"):
        for task in ("5w1s", "5w5s"):
            for method in ("maml", "protonet", "r2d2", "baseline_pp", "protonet-resnet12", "r2d2-resnet12"):
                assert f"{data}-{task}-{method}" in PRESETS
            assert f"{data}-{task}-mtl-resnet12" in PRESETS
    assert {"sinusoid-5s-maml", "sinusoid-5s-meta_sgd", "arabic-5w1s-protonet", "clinc150-5w5s-r2d2"} <= PRESETS.keys()


def test_names(call: Call) -> None:
    with pytest.raises(UpstairsError, match=r"did you mean omniglot-20w1s-maml_pp or"):
        find_experiment("omniglot_20w1s_maml_pp")
    with pytest.raises(UpstairsError, match=r"no recipe 'xyz': `upstairs"):
        find_experiment("xyz")
    assert call("reproduce")[0] == 2 and call("reproduce", "omniglot-5w1s-maml")[2].count("needs --data") == 1
    status, out, _ = call("reproduce", "--list")
    assert status == 0 and all(name in out for name in PRESETS)
    assert "--tasks is 600" in call("reproduce", "sinusoid-5s-maml", "--tasks", 600)[2]


def test_a_shortened_run_says_so_first_and_is_done_once(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "TEST_TASKS", 60)
    command = ["reproduce", "sinusoid-5s-maml", "--budget", 0.02, "--seeds", 2, "--tasks", 60, "--quiet"]
    command += ["--out", tmp_path]
    status, out, err = call(*command, "--note", "a test")
    assert status == 0, err
    first = out.splitlines()[2]
    assert re.match(r"\*\*Shorter than published: [\d,]+ of 60,000 steps; not the same protocol\.\*\*", first)
    assert "reproduced" not in out.lower() and "A test." in out and "2 of 3 seeds" in out
    card = json.loads((tmp_path / "sinusoid-5s-maml" / "card.json").read_text())
    assert card["tasks"] == 60 and len(card["seeds"]) == 2 and card["score"]["ci95_seeds"] > 0
    assert card["published"] == {"number": 1.13, "ci95": 0.18, "source": PRESETS["sinusoid-5s-maml"].row.source}
    assert card["baselines"].keys() == {"support_mean", "scratch"} and card["settings"][0]["data"] == ""
    weights = tmp_path / "sinusoid-train-5s-maml-short" / "seed-1" / "last.safetensors"
    before = weights.stat().st_mtime_ns
    assert call(*command)[0] == 0 and weights.stat().st_mtime_ns == before  # the same again: nothing is trained
    again = json.loads((tmp_path / "sinusoid-5s-maml" / "card.json").read_text())
    assert again["score"] == card["score"]


def test_scores_of_other_tasks_are_not_taken_for_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "TEST_TASKS", 20)
    ask = {"budget": 0.01, "seeds": 1, "tasks": 20, "out": tmp_path, "quiet": True}
    first = room.reproduce("sinusoid-5s-maml", **ask)
    file = tmp_path / "sinusoid-train-5s-maml-short" / "seed-0" / "sinusoid-5s-maml.json"
    kept = file.stat().st_mtime_ns
    assert room.reproduce("sinusoid-5s-maml", **ask)["score"] == first["score"] and file.stat().st_mtime_ns == kept
    for damaged in (file.read_text()[:50], "[1]", '{"steps": 1}'):  # judged again
        file.write_text(damaged)
        assert room.reproduce("sinusoid-5s-maml", **ask)["score"] == first["score"]
    monkeypatch.setattr(room, "frozen_seeds", lambda seed, tasks: list(range(7, 7 + tasks)))
    assert room.reproduce("sinusoid-5s-maml", **ask)["score"] != first["score"]


def test_a_killed_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in its second seed, it goes on with the very weights that one without a stop has."""
    from upstairs.storage import load_tensors

    recipe = PRESETS["sinusoid-5s-maml"]
    less = {"steps": 40, "compile": "off", "validations": 2}
    few = replace(recipe, row=replace(recipe.row, settings=recipe.row.settings | less))
    monkeypatch.setattr(room, "find_experiment", lambda name: few)
    monkeypatch.setattr(room, "TEST_TASKS", 50)
    again = {"seeds": 2, "tasks": 50, "quiet": True}
    whole = room.reproduce("sinusoid-5s-maml", out=tmp_path / "whole", **again)
    take_step, taken = __import__("upstairs.training.trainer", fromlist=["take_step"]).take_step, []

    def tired(run):
        if len(taken) == 55:
            raise KeyboardInterrupt
        taken.append(1)
        return take_step(run)

    with monkeypatch.context() as patch:
        patch.setattr("upstairs.training.trainer.take_step", tired)
        with pytest.raises(KeyboardInterrupt):
            room.reproduce("sinusoid-5s-maml", out=tmp_path / "twice", **again)
    card = room.reproduce("sinusoid-5s-maml", out=tmp_path / "twice", **again)
    assert card["score"] == whole["score"] and [s["steps"] for s in card["seeds"]] == [40, 40]
    for seed in (0, 1):
        path = f"sinusoid-train-5s-maml/seed-{seed}/last.safetensors"
        one, other = (load_tensors(tmp_path / name / path, kind="run")[0] for name in ("whole", "twice"))
        assert all(bool((one[k] == other[k]).all()) for k in one)


def test_a_folder_with_another_training_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sinusoid-train-5s-maml-short" / "seed-0"
    start_run(request_run("maml", data="sinusoid", steps=2, width=20), folder, quiet=True)
    with pytest.raises(UpstairsError, match=r"`validation_tasks` is 300 and the run in"):
        room.reproduce("sinusoid-5s-maml", budget=0.01, seeds=1, out=tmp_path, quiet=True)


def test_mini_imagenet_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = mini_folder(tmp_path / "mini", classes=15, examples=4, side=84)
    recipe = PRESETS["miniimagenet-5w1s-maml"]
    small = {"query": 2, "width": 4, "inner_steps": 1, "tasks": 1, "validations": 1, "validation_tasks": 2, "steps": 2}
    tiny = replace(recipe, row=replace(recipe.row, settings=recipe.row.settings | small, test_query=2))
    monkeypatch.setattr(room, "find_experiment", lambda name: tiny)
    monkeypatch.setattr(room, "TEST_TASKS", 2)
    card = room.reproduce("miniimagenet-5w1s-maml", data=str(data), seeds=1, tasks=2, out=tmp_path / "out", quiet=True)
    assert card["transductive"] and card["inductive"]["mean"] > 0.2 and card["protocol"]["test_steps"] == 10
    assert card["baselines"]["nearest_centroid"]["mean"] > 0.9  # classes are colours
    assert "each query alone" in card_markdown(card)


CARD = {
    "kind": "result card", "name": "x-5w1s-y", "title": "y, X", "unit": "accuracy", "transductive": False,
    "score": {"mean": 0.96, "ci95": 0.01, "ci95_seeds": 0.02}, "inductive": None, "baselines": {}, "differs": [],
    "published": {"number": 0.97, "ci95": 0.003, "source": "A 2020, table 1"}, "tasks": 1000, "budget": None,
    "protocol": {"steps": 100}, "settings": [], "words": [], "note": "", "commit": "0" * 40, "versions": {},
    "seeds": [{"seed": k, "mean": 0.96, "steps": 100, "seconds": 60.0} for k in range(3)], "machine": {"summary": "M"},
}  # fmt: skip


def test_only_the_whole_protocol_reproduces() -> None:
    assert deviations(CARD) == [] and verdict(CARD).endswith("reproduced (within the interval of it).")
    short = {"number": 0.985, "ci95": None, "source": "A"}
    assert "not reproduced (short of it)" in verdict(CARD | {"published": short})
    shorter = [dict(seed, steps=60) for seed in CARD["seeds"]]
    for other in (
        {"seeds": shorter}, {"budget": 3.0}, {"seeds": CARD["seeds"][:1]}, {"differs": ["inner SGD"]},
        {"published": None}, {"budget": 3.0, "published": short},
    ):  # fmt: skip
        text = card_markdown(CARD | other)
        assert "reproduced" not in text.lower()
        assert "differs" not in other or "Differs: inner SGD." in text
    assert deviations(CARD | {"seeds": shorter}) == [
        "shorter than published: 60 of 100 steps; not the same protocol"
    ]  # fmt: skip


def test_less_error_is_better() -> None:
    card = CARD | {"unit": "mse", "score": {"mean": 0.7, "ci95": 0.05, "ci95_seeds": None}}
    for number, words in ((0.9, "(at it or better)"), (0.68, "(within the interval"), (0.6, "not reproduced")):
        assert words in verdict(card | {"published": {"number": number, "ci95": None, "source": "A"}})


def test_a_table_of_cards(tmp_path: Path, call: Call) -> None:
    file, page = tmp_path / "card.json", tmp_path / "results.md"
    file.write_text(json.dumps(CARD | {"seeds": CARD["seeds"][:2]}))
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert call("results", file, "--out", page)[0] == 0
    text = page.read_text()
    assert "| `x-5w1s-y` | 96.0% ± 1.0 |  | 97.00% | 100 of 100 | 2 | 2 of 3 | 000000000 |" in text
    assert text.startswith(f"before\n{BEGIN}\n|") and text.endswith(f"{END}\nafter\n") and "old" not in text
    page.write_text("no place")
    assert "has no place for the table" in call("results", file, "--out", page)[2] and page.read_text() == "no place"
    assert call("results", file, "--out", tmp_path / "new.md")[0] == 0 and BEGIN in (tmp_path / "new.md").read_text()
    assert "no card was given" in call("results")[2] and "cannot be read" in call("results", tmp_path / "no.json")[2]
    (tmp_path / "other.json").write_text("{}")
    assert "is no result card" in call("results", tmp_path / "other.json")[2]


def test_what_a_shorter_training_takes_from_the_learner_are_settings() -> None:
    assert set(LONG) <= set(options_of("protonet"))
