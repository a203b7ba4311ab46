"""`upstairs reproduce NAME`: trains a published experiment, scores it on fixed test tasks, and writes a result card."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from upstairs.claims import SILENCE, each_once
from upstairs.console import counting
from upstairs.data.episodes import Episodes
from upstairs.data.mixture import episodes_of
from upstairs.data.open import open_splits
from upstairs.data.splits import Splits
from upstairs.engine.evaluate import frozen_seeds, score_with_baselines
from upstairs.errors import UpstairsError
from upstairs.experiments.cards import Card, card_markdown, commit, machine
from upstairs.experiments.published.papers import find_experiment
from upstairs.experiments.published.protocol import SEEDS, TEST_TASKS, Experiment
from upstairs.learners import baselines_for
from upstairs.learners.options import InnerLoopOptions
from upstairs.statistics import interval
from upstairs.storage import versions, write_atomically, write_json
from upstairs.training.defaults import RunRequest, request_run
from upstairs.training.run import Run
from upstairs.training.train import resume_run, resumed_settings, start_run
from upstairs.training.trainer import choose_device


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
    silence: float = SILENCE,
) -> Card:
    """Trains and scores an experiment and writes OUT/NAME/card.json and card.md; a stopped one is resumed.

    Any number of processes that share `out` share the seeds: each seed is claimed by one of them, and taken over from
    one that is dead. All wait for the last seed and write the same card.

    Args:
        name: the name of an experiment (`upstairs reproduce --list`).
        data: the path of its data set; not for regression.
        budget: minutes of training, all seeds together; None: the whole published protocol.
        seeds: the number of trainings, with seeds 0, 1, ...
        tasks: the number of test tasks, 1,000 or more, the same for every seed.
        out: the folder for trainings and cards; experiments with the same training share it.
        note: a sentence for the card, such as the other load of the machine.
        silence: seconds without a sign of life after which another process counts as dead.

    Raises:
        UpstairsError: no such experiment; no data; too few tasks or seeds; a run in `out` of other settings.
    """
    experiment, out = find_experiment(name), Path(out)
    if tasks < TEST_TASKS or seeds < 1 or (budget is not None and not budget > 0):
        raise UpstairsError(
            f"`tasks` is {tasks}, `seeds` {seeds} and `budget` {budget}: a card needs {TEST_TASKS:,} test tasks or "
            "more, 1 seed or more, and a budget above 0"
        )
    request = request_of(experiment, data, None if budget is None else budget / seeds, device)
    splits = open_splits(request.settings, quiet=quiet)
    folder = out / (experiment.training + ("" if budget is None else "-short"))

    def train_and_judge(seed: int) -> tuple[Run, dict[str, Any]]:
        run = train_or_resume(request.changed(seed=seed), folder / f"seed-{seed}", splits, quiet=quiet)
        return run, judge(experiment, run, splits, tasks=tasks, baselines=not seed, quiet=quiet)

    jobs = {folder / f"seed-{seed}.lock": partial(train_and_judge, seed) for seed in range(seeds)}
    runs, judged = zip(*each_once(jobs, silence=silence), strict=True)
    card = make_card(experiment, runs, judged, tasks=tasks, budget=budget, note=note)
    write_json(out / name / "card.json", card)
    write_atomically(out / name / "card.md", card_markdown(card).encode())
    return card


def request_of(experiment: Experiment, data: str | None, minutes: float | None, device: str) -> RunRequest:
    """Returns the options of the training; mistakes are found before data is read."""
    own = experiment.dataset.data if experiment.regression else None
    if (data or own) is None:
        raise UpstairsError(f"{experiment.name} needs `data`: {experiment.dataset.data}")
    asked = experiment.settings if minutes is None else experiment.shortened(minutes)
    return request_run(**asked | {"data": data or own, "device": device}, regression=experiment.regression)


def train_or_resume(request: RunRequest, out: Path, splits: Splits, *, quiet: bool) -> Run:
    """Starts a training, or resumes it from its checkpoint."""
    if (out / "last.safetensors").exists():
        settings = resumed_settings(out, request.settings.learner, **request.values)
        return resume_run(out, settings, quiet=quiet, splits=splits)
    return start_run(request, out, quiet=quiet, splits=splits)


def judge(
    experiment: Experiment, run: Run, splits: Splits, *, tasks: int, baselines: bool, quiet: bool
) -> dict[str, Any]:  # fmt: skip
    """Returns the score of each test task; it is cached in the run's folder."""
    episodes, file = test_episodes(experiment, splits), run.path / f"{experiment.name}.json"
    seeds = frozen_seeds(0, tasks)
    last = [float(part.x.double().sum()) for part in episodes.batch(seeds[-1:])]  # a checksum of data and tasks
    of = {"steps": run.meta["progress"]["step"], "tasks": tasks, "last task": last}
    known = earlier_scores(file)
    if {name: known.get(name) for name in of} == of and bool(known["baselines"]) == baselines:
        return known
    learner: Any = run.learner
    if experiment.test_steps is not None and learner.inner_steps is not None:
        learner = learner.with_steps(experiment.test_steps)
    device = choose_device(run.settings.device)
    plain = baselines_for(run.settings, splits.test, experiment.way) if baselines else {}
    plain = {name: baseline.to(device) for name, baseline in plain.items()}
    with counting(f"judging {experiment.name}", quiet=quiet) as progress:
        found = score_with_baselines(learner.to(device), episodes, seeds, baselines=plain, progress=progress)
    each = {name: {"each": v.tolist(), "transductive": plain[name].transductive} for name, v in found.baselines.items()}
    alone = None if found.inductive is None else found.inductive.tolist()
    result = {
        **of, "transductive": learner.transductive, "own": found.own.tolist(), "alone": alone, "baselines": each
    }  # fmt: skip
    write_atomically(file, json.dumps(result).encode())
    return result


def earlier_scores(file: Path) -> dict[str, Any]:
    """Returns cached scores; an empty dict where the file is missing or damaged."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def test_episodes(experiment: Experiment, splits: Splits) -> Episodes:
    if experiment.regression:
        return Episodes(splits.test, shot=experiment.shot, query=experiment.test_query)
    return episodes_of(splits.test, way=experiment.way, shot=experiment.shot, query=experiment.test_query)


def make_card(
    experiment: Experiment,
    runs: Sequence[Run],
    judged: Sequence[dict[str, Any]],
    *,
    tasks: int,
    budget: float | None,
    note: str,
) -> Card:
    """Returns the card of an experiment. Accuracies are from 0 to 1."""
    scale = 1 if experiment.regression else 100
    published = experiment.published and {
        "number": experiment.published[0] / scale,
        "ci95": experiment.published[1] and experiment.published[1] / scale,
        "source": experiment.row.source,
    }
    alone = [one["alone"] for one in judged]
    return {
        "kind": "result card",
        "name": experiment.name,
        "title": f"{experiment.row.learner}, {experiment.dataset.title}",
        "unit": "mse" if experiment.regression else "accuracy",
        "score": over_seeds([one["own"] for one in judged]),
        "transductive": judged[0]["transductive"],
        "inductive": over_seeds(alone) if alone[0] else None,
        "baselines": {
            name: over_seeds([own["each"]]) | {"transductive": own["transductive"]}
            for name, own in judged[0]["baselines"].items()
        },
        "published": published,
        "differs": list(experiment.row.differs),
        "tasks": tasks,
        "budget": budget,
        "protocol": experiment.settings | {"test_query": experiment.test_query, "test_steps": experiment.test_steps},
        "settings": [replace(run.settings, data="", start_from=None).to_json() for run in runs],
        "seeds": [
            {"seed": run.settings.seed, "mean": float(np.mean(one["own"]))}
            | {key: run.meta["progress"][name] for key, name in (("steps", "step"), ("seconds", "seconds"))}
            for run, one in zip(runs, judged, strict=True)
        ],
        "words": in_words(experiment, runs, tasks=tasks, budget=budget, note=note),
        "machine": machine(runs[0].settings.device),
        "note": note,
        "commit": commit(),
        "versions": runs[0].meta["versions"] | {"judged by": versions()["upstairs"]},
    }


def over_seeds(scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Returns the mean, its interval over tasks (each task's mean over seeds) and, from two seeds on, over seeds."""
    each = np.asarray(scores)
    mean, ci95 = interval(each.mean(0))
    return {"mean": mean, "ci95": ci95, "ci95_seeds": interval(each.mean(1)).ci95 if len(each) > 1 else None}


def in_words(
    experiment: Experiment, runs: Sequence[Run], *, tasks: int, budget: float | None, note: str
) -> list[str]:  # fmt: skip
    """Describes the protocol and the training."""
    s, full = runs[0].settings, experiment.settings
    seconds = sum(run.meta["progress"]["seconds"] for run in runs)
    task = f"{experiment.shot} examples" if experiment.regression else f"{experiment.way}-way {experiment.shot}-shot"
    train = f"{s.shot} examples" if experiment.regression else f"{s.way}-way {s.shot}-shot"
    inner, own = "", s.own
    if isinstance(own, InnerLoopOptions):
        steps = own.inner_steps if experiment.test_steps is None else experiment.test_steps
        many = f"{own.inner_steps} inner step{'s' * (own.inner_steps != 1)}"
        inner = f"; {many} at {own.inner_lr} in training, {steps} in testing"
    flat = s.to_json()
    views = flat.get("views", 1)
    changed = [
        f"{name.replace('_', ' ')} {flat[name]} (in full: {full[name]})"
        for name in sorted(full)
        if name not in ("steps", "learner") and flat[name] != full[name]
    ]
    selection = f"the best of {s.validations} validations on {s.validation_tasks} validation tasks"
    if s.train_on_validation:
        selection = "none, validation classes are trained on too and the last weights are judged"
    done = ", ".join(f"{run.meta['progress']['step']:,} steps" for run in runs)
    lines = [
        f"Data: {experiment.dataset.title}, {experiment.dataset.about}.",
        f"Judged on {tasks:,} fixed test tasks, {task}, {experiment.test_query} queries"
        f"{'' if experiment.regression else ' a class'}; trained on {train}, {s.query} queries, "
        f"{s.tasks} task{'s' * (s.tasks > 1)} a step{inner}.",
        f"Network: {s.net}, width {s.width}, normalisation '{s.norm}'. Outer loop: {s.optimizer} at {s.lr:g}, "
        f"schedule {s.schedule}, weight decay {s.weight_decay:g}{', jitter' if s.jitter else ''}"
        f"{f'; in testing the mean over {views} views of a picture' if views > 1 else ''}.",
        f"Model selection: {selection}; test tasks choose nothing.",
        f"Trained for {seconds / 60:.1f} minutes, {len(runs)} seed{'s' * (len(runs) > 1)}: {done}. Machine: "
        f"{machine(s.device)['summary']}.",
    ]
    if budget is not None and changed:
        lines.append(f"Otherwise than in full: {'; '.join(changed)}.")
    return lines + ([f"{note[0].upper()}{note[1:].rstrip('.')}."] if note else [])
