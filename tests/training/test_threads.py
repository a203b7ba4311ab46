"""Shared runs and models give the same answers from many threads as one after another, and are left as they were.

A web service does this: one loaded run, several models of it, a thread for each request.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.runs import settings_of
from helpers.tasks import blobs, sinusoids
from upstairs.core import Learner
from upstairs.data.episodes import Episodes
from upstairs.data.source import Source
from upstairs.engine.evaluate import evaluate
from upstairs.learners import LEARNERS, make_learner
from upstairs.training.inputs import Inputs
from upstairs.training.model import Model
from upstairs.training.run import Run
from upstairs.training.train import train
from upstairs.tree import index

SHAPE, WAY, THREADS, ROUNDS = (1, 16, 16), 3, 4, 2
CLASSIFY = [name for name, line in LEARNERS.items() if line.classification is not None]
GENERATE = [name for name in LEARNERS if name in ("dagan", "redrawing")]
REGRESS = [name for name, line in LEARNERS.items() if line.regression is not None]


@pytest.fixture(autouse=True)
def eager_switches() -> Iterator[None]:
    """Python changes threads all the time, so that what is not safe is seen within a few calls."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def run_of(name: str, way: int | None, shape: tuple[int, ...] = SHAPE, **options: Any) -> Run:
    torch.manual_seed(0)
    net = "mlp" if len(shape) == 1 else "conv4"
    common = {"net": net, "width": 8, "norm": "group" if net == "conv4" else "none"}
    settings = settings_of(learner=name, way=way, inner_lr=0.05, inner_steps=2, **common, **options)
    learner = make_learner(settings, shape, way)
    for layer in learner.modules():
        if "measured" in layer._buffers:  # statistics of zero and one serve here
            layer._buffers["measured"].fill_(True)
    return Run(Path("run"), learner, settings, Inputs(shape, None), {})


def leaves(value: Any) -> list[np.ndarray]:
    """All numbers of an answer."""
    if isinstance(value, dict):
        return [leaf for one in value.values() for leaf in leaves(one)]
    if isinstance(value, Model):
        return [
            np.array(-np.inf if value.threshold is None else value.threshold),
            *leaves(value.logits(value.support.x)),
        ]
    return [np.asarray(value)] if not isinstance(value, str) else []


def same(one: Any, other: Any) -> bool:
    pairs = zip(leaves(one), leaves(other), strict=True)
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


def state_of(learner: Learner) -> list[Any]:
    """What a call must leave as it was: the weights, their objects, modes, attributes, threads and generators."""
    modules = list(learner.modules())
    return [
        {name: value.clone() for name, value in learner.state_dict(keep_vars=False).items()},
        [(id(p), p.requires_grad) for p in learner.parameters()],
        [m.training for m in modules],
        [sorted(m.__dict__) for m in modules],
        torch.get_num_threads(),
        torch.get_rng_state(),
        torch.is_grad_enabled(),
    ]


def check_left_alone(before: list[Any], after: list[Any]) -> None:
    for name, value in before[0].items():
        assert torch.equal(value, after[0][name]), f"{name} has other values"
    for what, old, new in zip(["parameters", "modes", "attributes", "threads"], before[1:5], after[1:5], strict=True):
        assert old == new, f"{what} are not as they were"
    assert torch.equal(before[5], after[5]), "the generator is not as it was"
    assert before[6] == after[6]


def check_from_threads(learner: Learner, work: list[Callable[[], Any]], failing: list[Callable[[], Any]]) -> None:
    """Does each work in several threads at once, beside calls that raise, and compares with one after another."""
    before = state_of(learner)
    expected = [one() for one in work]
    check_left_alone(before, state_of(learner))
    for one in failing:
        with pytest.raises(Exception):  # noqa: B017 (whatever the network raises)
            one()
    check_left_alone(before, state_of(learner))
    wrong: list[str] = []
    start = threading.Barrier(THREADS)

    def do(number: int) -> None:
        start.wait()
        for turn in range(ROUNDS):
            for place in range(len(work)):
                own = (place + number + turn) % len(work)
                try:
                    if not same(work[own](), expected[own]):
                        wrong.append(f"call {own} has another answer")
                except Exception as error:  # a thread's error would be lost
                    wrong.append(f"call {own}: {type(error).__name__}: {error}")
            for one in failing:
                with suppress(Exception):
                    one()

    threads = [threading.Thread(target=do, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = THREADS * ROUNDS * len(work)
    assert not wrong, f"{len(wrong)} of {total}: {sorted(set(wrong))}"
    check_left_alone(before, state_of(learner))


def episodes_of_blobs(way: int) -> Episodes:
    generator = torch.Generator().manual_seed(1)
    centres = 2 * torch.randn(6, 1, *SHAPE, generator=generator)
    x = (centres + torch.randn(6, 5, *SHAPE, generator=generator)).flatten(0, 1)
    return Episodes(Source.from_arrays(x, torch.arange(6).repeat_interleave(5)), way=way, shot=1, query=2)


@pytest.mark.parametrize("name", CLASSIFY)
def test_a_classifier_from_threads(name: str) -> None:
    """Two models of one run predict, others adapt, the run is evaluated, and some calls raise: all at once."""
    run = run_of(name, WAY, dropout=0.3)  # a network in training mode, whose dropout shows where a call forgets that
    run.learner.train()
    one, two = (blobs(1, seed, way=WAY, shot=2, shape=SHAPE) for seed in (0, 1))
    sets = [(task.support.x[0].numpy(), [f"c{k}" for k in task.support.y[0].tolist()]) for task in (one, two)]
    queries = one.query.x[0].numpy()
    models = [run.adapt(own) for own in sets]
    tasks = episodes_of_blobs(WAY)
    bad = copy(models[0])
    bad.inputs = Inputs((2, 16, 16), None)  # its network raises within the call
    work: list[Callable[[], Any]] = [
        lambda: models[0].logits(queries),
        lambda: models[1].logits(queries),
        lambda: run.adapt(sets[1], unknown=0.3),
        lambda: dict(evaluate(run.learner, tasks, tasks=2, baselines={})),
    ]
    failing: list[Callable[[], Any]] = [
        lambda: bad.logits(np.zeros((2, 2, 16, 16), np.float32)),
        lambda: replace(run, inputs=Inputs((2, 16, 16), None)).adapt(dict.fromkeys("ab", np.zeros((1, 2, 16, 16)))),
    ]
    check_from_threads(run.learner, work, failing)


@pytest.mark.parametrize("name", REGRESS)
def test_a_regressor_from_threads(name: str) -> None:
    run = run_of(name, None, shape=(1,))
    own = [sinusoids(2, seed) for seed in (0, 1)]
    single = index(own[0], 0)
    functions = Episodes(
        Source.from_function(lambda count, generator: (torch.randn(count, 1, generator=generator),) * 2),
        shot=3,
        query=4,
    )
    work: list[Callable[[], Any]] = [
        lambda: run.learner.solve(own[0]).detach(),
        lambda: run.learner.solve(own[1]).detach(),
        lambda: run.learner.predict(run.learner.adapt(single.support), single.query.x).detach(),
        lambda: dict(evaluate(run.learner, functions, tasks=2, baselines={})),
    ]  # fmt: skip
    failing: list[Callable[[], Any]] = [lambda: run.learner.solve(sinusoids()._replace(support=blobs(way=2).support))]
    check_from_threads(run.learner.eval(), work, failing)


@pytest.mark.parametrize("name", GENERATE)
def test_a_generator_from_threads(name: str) -> None:
    run = run_of(name, 1)
    one, two = (blobs(1, seed, way=1, shot=2, shape=SHAPE).support.x[0].sigmoid().numpy() for seed in (0, 1))
    work: list[Callable[[], Any]] = [
        lambda: run.generate({"a": one}, count=2),
        lambda: run.generate({"b": two, "c": one}, count=2, seed=1),
    ]
    failing: list[Callable[[], Any]] = [
        lambda: replace(run, inputs=Inputs((2, 16, 16), None)).generate({"a": np.zeros((1, 2, 16, 16))})
    ]
    check_from_threads(run.learner, work, failing)


def test_trainings_in_threads_are_those_of_one_after_another(tmp_path: Path) -> None:
    """Each draws its weights and numbers from its own seed, and leaves torch's generator as it was."""
    data, before = Source.from_arrays(np.eye(60, 8), np.arange(60) % 12), torch.random.get_rng_state()

    def weights(place: int) -> list[float]:
        options = {"way": 3, "steps": 2, "dropout": 0.5, "validation_tasks": 2, "quiet": True}
        run = train("protonet", data=data, out=tmp_path / str(place), **options)
        return [float(v.double().sum()) for v in run.learner.state_dict().values()]

    alone = weights(0)
    with ThreadPoolExecutor(4) as threads:
        assert all(found == alone for found in threads.map(weights, range(1, 9)))
    assert torch.equal(torch.random.get_rng_state(), before)
