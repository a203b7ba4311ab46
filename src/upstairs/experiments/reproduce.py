"""`upstairs reproduce NAME`: a published experiment, trained, judged on fixed test tasks, and put on a card."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from upstairs.console import counting
from upstairs.data.episodes import Episodes
from upstairs.data.mixture import episodes_of
from upstairs.data.open import open_splits, with_paths
from upstairs.data.splits import Splits
from upstairs.engine.evaluate import frozen_seeds, score_beside
from upstairs.errors import UpstairsError
from upstairs.experiments.cards import Card, card_markdown, commit, machine
from upstairs.experiments.published.find import find_experiment
from upstairs.experiments.published.protocol import SEEDS, TEST_TASKS, Experiment
from upstairs.learners import baselines_for
from upstairs.statistics import interval
from upstairs.storage import write_atomically
from upstairs.training.defaults import draft
from upstairs.training.optimizer import choose_device
from upstairs.training.run import Run
from upstairs.training.train import resume_run, start_run
from upstairs.training.trainer import versions


def reproduce(
    name: str,
    *,
    data: str | None = None,
    budget: float | None = None,
    seeds: int = SEEDS,
    tasks: int = TEST_TASKS,
    out: str | Path = "runs/reproduce",
    device: str = "auto",
    note: str = "",
    quiet: bool = False,
) -> Card:
    """Train and judge a recipe; go on where a killed one was. The card is written to OUT/NAME/card.json and card.md.

    Args:
        name: of a recipe (`upstairs reproduce --list`).
        data: where its data set is; left out for what needs none.
        budget: minutes of training, of all seeds together; None is the whole published protocol.
        seeds: trainings that differ in nothing but their seeds, 0, 1, ...
        tasks: test tasks, 1,000 or more, the same for every seed.
        out: the folder for trainings and cards; recipes that share a training find it there.
        note: a sentence for the card, such as what else the machine was doing.

    Raises:
        UpstairsError: no such recipe; no data; too few tasks or seeds; a run in `out` of other settings.
    """
    recipe, out = find_experiment(name), Path(out)
    if tasks < TEST_TASKS or seeds < 1 or (budget is not None and not budget > 0):
        raise UpstairsError(
            f"`tasks` is {tasks}, `seeds` {seeds} and `budget` {budget}: a card needs {TEST_TASKS:,} test tasks or "
            "more, 1 seed or more, and a budget above 0"
        )
    given = settings_of(recipe, data, None if budget is None else budget / seeds, device)
    splits = open_splits(given, quiet=quiet)
    folder = out / (recipe.training + ("" if budget is None else "-short"))
    runs = [train_seed(given | {"seed": seed}, folder / f"seed-{seed}", splits, quiet=quiet) for seed in range(seeds)]
    judged = [judge(recipe, run, splits, tasks=tasks, baselines=not k, quiet=quiet) for k, run in enumerate(runs)]
    card = make_card(recipe, runs, judged, tasks=tasks, budget=budget, note=note)
    content = json.dumps(card, indent=1, ensure_ascii=False)
    write_atomically(out / name / "card.json", content.encode())
    write_atomically(out / name / "card.md", card_markdown(card).encode())
    return card


def settings_of(recipe: Experiment, data: str | None, minutes: float | None, device: str) -> dict[str, Any]:
    """What is asked of the training; its mistakes show before anything is read."""
    own = recipe.dataset.data if recipe.regression else None
    if (data or own) is None:
        raise UpstairsError(f"{recipe.name} needs `data`: {recipe.dataset.data}")
    asked = recipe.settings if minutes is None else recipe.shortened(minutes)
    given = with_paths(asked | {"data": data or own, "device": device})
    draft(given, regression=recipe.regression)
    return given


def train_seed(given: dict[str, Any], out: Path, splits: Splits, *, quiet: bool) -> Run:
    """One training, from the beginning or from where it stood."""
    if (out / "last.safetensors").exists():
        return resume_run(out, given, quiet=quiet, splits=splits)
    return start_run(given, out, quiet=quiet, splits=splits)


def judge(
    recipe: Experiment, run: Run, splits: Splits, *, tasks: int, baselines: bool, quiet: bool
) -> dict[str, Any]:  # fmt: skip
    """The score of each test task; kept beside the run, and read again where nothing has changed."""
    episodes, file = test_episodes(recipe, splits), run.path / f"{recipe.name}.json"
    last = episodes.batch(frozen_seeds(0, tasks)[-1:])
    of = {
        "steps": run.meta["progress"]["step"],
        "tasks": tasks,
        "last task": [
            float(part.x.double().sum()) for part in last
        ],  # other data, or other tasks of it, are told by it
    }
    known = earlier_scores(file)
    if {name: known.get(name) for name in of} == of and bool(known["baselines"]) == baselines:
        return known
    learner: Any = run.learner
    if recipe.test_steps is not None and learner.inner_steps is not None:
        learner = learner.with_steps(recipe.test_steps)
    device = choose_device(run.settings.device)
    plain = baselines_for(run.settings, splits.test, recipe.way) if baselines else {}
    moved = {name: learner.to(device) for name, learner in plain.items()}
    with counting(f"judging {recipe.name}", quiet=quiet) as progress:
        found = score_beside(
            learner.to(device), episodes, frozen_seeds(0, tasks), baselines=moved, progress=progress
        )  # fmt: skip
    result = {
        **of,
        "transductive": learner.transductive,
        "own": found.own.tolist(),
        "alone": None if found.inductive is None else found.inductive.tolist(),
        "baselines": {
            k: {"each": v.tolist(), "transductive": plain[k].transductive} for k, v in found.baselines.items()
        },
    }
    write_atomically(file, json.dumps(result).encode())
    return result


def earlier_scores(file: Path) -> dict[str, Any]:
    """What was judged before; nothing where there is no file, or a damaged one: it is judged again."""
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def test_episodes(recipe: Experiment, splits: Splits) -> Episodes:
    if recipe.regression:
        return Episodes(splits.test, way=0, shot=recipe.shot, query=recipe.test_query)
    return episodes_of(splits.test, way=recipe.way, shot=recipe.shot, query=recipe.test_query)


def make_card(
    recipe: Experiment,
    runs: Sequence[Run],
    judged: Sequence[dict[str, Any]],
    *,
    tasks: int,
    budget: float | None,
    note: str,
) -> Card:
    """Everything that a reader needs to know about the number, as json. Accuracies are from 0 to 1."""
    scale = 1 if recipe.regression else 100
    published = recipe.published and {
        "number": recipe.published[0] / scale,
        "ci95": recipe.published[1] and recipe.published[1] / scale,
        "source": recipe.row.source,
    }
    alone = [one["alone"] for one in judged]
    return {
        "kind": "result card",
        "name": recipe.name,
        "title": f"{recipe.row.learner}, {recipe.dataset.title}",
        "unit": "mse" if recipe.regression else "accuracy",
        "score": over_seeds([one["own"] for one in judged]),
        "transductive": judged[0]["transductive"],
        "inductive": over_seeds(alone) if alone[0] else None,
        "baselines": {
            name: over_seeds([own["each"]]) | {"transductive": own["transductive"]}
            for name, own in judged[0]["baselines"].items()
        },
        "published": published,
        "differs": list(recipe.row.differs),
        "tasks": tasks,
        "budget": budget,
        "protocol": recipe.settings | {"test_query": recipe.test_query, "test_steps": recipe.test_steps},
        "settings": [replace(run.settings, data="", start_from=None).to_json() for run in runs],
        "seeds": [_seed(run, one) for run, one in zip(runs, judged, strict=True)],
        "words": in_words(recipe, runs, tasks=tasks, budget=budget, note=note),
        "machine": machine(runs[0].settings.device),
        "note": note,
        "commit": commit(),
        "versions": runs[0].meta["versions"] | {"judged by": versions()["upstairs"]},
    }


def _seed(run: Run, judged: dict[str, Any]) -> dict[str, Any]:
    progress = run.meta["progress"]
    mean = float(np.mean(judged["own"]))
    return {"seed": run.settings.seed, "mean": mean, "steps": progress["step"], "seconds": progress["seconds"]}


def over_seeds(scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The mean, with an interval over tasks (each task's mean over seeds) and, from two seeds on, one over seeds."""
    each = np.asarray(scores)
    mean, ci95 = interval(each.mean(0))
    return {"mean": mean, "ci95": ci95, "ci95_seeds": interval(each.mean(1)).ci95 if len(each) > 1 else None}


def in_words(
    recipe: Experiment, runs: Sequence[Run], *, tasks: int, budget: float | None, note: str
) -> list[str]:  # fmt: skip
    """The protocol, and what was done of it."""
    s, full = runs[0].settings, recipe.settings
    seconds = sum(run.meta["progress"]["seconds"] for run in runs)
    task = f"{recipe.way}-way {recipe.shot}-shot" if recipe.way else f"{recipe.shot} examples"
    train = f"{s.way}-way {s.shot}-shot" if s.way else f"{s.shot} examples"
    steps = recipe.test_steps if recipe.test_steps is not None else s.inner_steps
    many = f"{s.inner_steps} inner step{'s' * (s.inner_steps != 1)}"
    loop = runs[0].learner.inner_steps is not None
    inner = f"; {many} at {s.inner_lr} in training, {steps} in testing" if loop else ""
    changed = [
        f"{name.replace('_', ' ')} {getattr(s, name)} (in full: {full[name]})"
        for name in sorted(full)
        if name not in ("steps", "learner") and getattr(s, name) != full[name]
    ]
    selection = (
        "none, validation classes are trained on too and the last weights are judged" if s.train_on_validation
        else f"the best of {s.validations} validations on {s.validation_tasks} validation tasks"
    )  # fmt: skip
    done = ", ".join(f"{run.meta['progress']['step']:,} steps" for run in runs)
    lines = [
        f"Data: {recipe.dataset.title}, {recipe.dataset.about}.",
        f"Judged on {tasks:,} fixed test tasks, {task}, {recipe.test_query} queries{' a class' * bool(s.way)}; trained "
        f"on {train}, {s.query} queries, {s.tasks} task{'s' * (s.tasks > 1)} a step{inner}.",
        f"Network: {s.net}, width {s.width}, normalisation '{s.norm}'. Outer loop: {s.optimizer} at {s.lr:g}, "
        f"schedule {s.schedule}, weight decay {s.weight_decay:g}{', jitter' if s.jitter else ''}"
        f"{f'; in testing the mean over {s.views} views of a picture' if s.views > 1 else ''}.",
        f"Model selection: {selection}; test tasks choose nothing.",
        f"Trained for {seconds / 60:.1f} minutes, {len(runs)} seed{'s' * (len(runs) > 1)}: {done}. Machine: "
        f"{machine(runs[0].settings.device)['summary']}.",
    ]  # fmt: skip
    if budget is not None and changed:
        lines.append(f"Otherwise than in full: {'; '.join(changed)}.")
    return lines + ([f"{note[0].upper()}{note[1:].rstrip('.')}."] if note else [])
