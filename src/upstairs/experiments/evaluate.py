"""A run from its directory, scored on a frozen list of tasks beside its baselines."""

import time
from pathlib import Path
from typing import Any

from upstairs.console import counting
from upstairs.engine.evaluate import evaluate
from upstairs.errors import UpstairsError
from upstairs.experiments.episodes import choose_episodes
from upstairs.learners import Augmented, GradientLearner, NeuralStatistician, Unconditioned, baselines_for, with_steps
from upstairs.training.run import load, refuse_unlike


def evaluate_run(
    path: Path,
    *,
    data: str | None = None,
    split: str | None = None,
    way: int | None = None,
    shot: int | None = None,
    query: int | None = None,
    tasks: int = 600,
    seed: int = 0,
    inner_steps: int | None = None,
    augment: Path | None = None,
    baselines: bool = True,
    quiet: bool = False,
) -> dict[str, Any]:
    """One result: the score, its interval and baselines on a frozen list of tasks."""
    run = load(path)
    episodes, name, part = choose_episodes([run], data=data, split=split, way=way, shot=shot, query=query, quiet=quiet)
    learner = run.learner
    if inner_steps is not None:
        if not isinstance(learner, GradientLearner) or inner_steps < 0:
            raise UpstairsError(
                f"--inner-steps is {inner_steps}: it takes 0 or more, for learners with an inner loop alone"
            )
        learner = with_steps(learner, inner_steps)
    opponents = baselines_for(run.settings, episodes.source, episodes.way[1]) if baselines else {}
    if augment is not None:
        opponents["not augmented"] = learner
        generator = load(augment).generator()
        refuse_unlike([run, load(augment)], foreign=True)
        learner = Augmented(learner, generator, count=5)
    if baselines and isinstance(learner, NeuralStatistician):
        opponents["unconditioned"] = Unconditioned(learner)
    started = time.monotonic()
    with counting(f"evaluating {run.settings.learner}", quiet=quiet) as progress:
        scores = evaluate(learner, episodes, tasks=tasks, seed=seed, baselines=opponents, progress=progress)
    return {
        "learner": run.settings.learner,
        "data": name,
        "split": part,
        **scores,
        "seconds": time.monotonic() - started,
        "steps": run.meta["progress"]["step"],
        "norm": run.settings.norm,
        **({"inner_steps": learner.steps} if isinstance(learner, GradientLearner) else {}),
        "versions": run.meta["versions"],
    }
