"""The outer loop and the diagnostic, on ridge regression whose best decay and whose exact hypergradient are known."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from upstairs.bilevel import (
    METHODS,
    SGD,
    EvolutionStrategies,
    ImplicitHypergradient,
    Neumann,
    OneStep,
    PersistentES,
    Problem,
    Truncated,
    Unrolled,
    diagnose,
    train,
)
from upstairs.errors import NonFiniteError, UpstairsError

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, in torch.func.jvp


def splits(seed: int, n: int = 14, d: int = 8) -> list[tuple[Tensor, Tensor]]:
    """Train, validation and test; two features of eight say something."""
    g = torch.Generator().manual_seed(seed)
    w = torch.cat([torch.ones(2), torch.zeros(d - 2)]).double()
    found = []
    for size in (n, n, 400):
        x = torch.randn(size, d, generator=g, dtype=torch.float64)
        found.append((x, x @ w + torch.randn(size, generator=g, dtype=torch.float64)))
    return found


def ridge(seed: int = 0, *, steps: int = 60) -> tuple[Problem, Problem]:
    """Learned on the validation split, and judged by the third."""
    learn, judge, test = splits(seed)

    def inner(p: dict[str, Tensor], meta: dict[str, Tensor], batch: Any) -> Tensor:
        x, y = learn
        return (x @ p["w"] - y).square().mean() / 2 + (meta["log_decay"].exp() * p["w"].square()).sum() / 2

    def outer(p: dict[str, Tensor], meta: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        return (batch[0] @ p["w"] - batch[1]).square().mean()

    start = {"w": torch.zeros(8, dtype=torch.float64)}
    problem = Problem(inner, outer, start=start, rule=SGD(0.2), steps=steps, outer_batch=lambda k: judge)
    return problem, replace(problem, outer_batch=lambda k: test)


def log_decay() -> dict[str, Tensor]:
    return {"log_decay": torch.full((8,), -2.0, dtype=torch.float64)}


FAST = partial(torch.optim.Adam, lr=0.2)


def test_it_learns_which_features_matter_and_says_how_much_it_overfits() -> None:
    problem, test = ridge()
    done = train(
        problem, log_decay(), test=test, method=ImplicitHypergradient(), outer_steps=15, optimizer=FAST, quiet=True
    )
    decays = done.meta_parameters["log_decay"]
    assert decays[2:].mean() > decays[:2].mean() + 1
    (before,), (after,) = done.validation
    (test_before,), (test_after,) = done.test
    assert after < before
    # 8 numbers were fitted to 14 examples: most of the gain there is chance
    assert done.overfit == pytest.approx(1 - (test_before - test_after) / (before - after)) and done.overfit > 0.2
    assert f"{100 * done.overfit:.0f}% of the gain is overfitting" in str(done)
    assert [p["step"] for p in done.history] == list(range(15)) and done.history[0]["outer"] == pytest.approx(before)


def test_over_tasks_the_gain_has_an_interval() -> None:
    done = train(
        lambda step: ridge(step)[0], log_decay(), test=[ridge(s)[1] for s in range(100, 112)], method=Unrolled(),
        outer_steps=20, optimizer=FAST, quiet=True,
    )  # fmt: skip
    assert done.gain.mean > done.gain.ci95 > 0 and len(done.validation[0]) == 12


@pytest.mark.parametrize(("method", "loop"), [(Truncated(5), 1), (PersistentES(pairs=2), 4)], ids=str)
def test_a_stopped_run_goes_on_to_the_same_bits(method: Any, loop: int, tmp_path: Path) -> None:
    problem, test = ridge(steps=6)
    run = partial(train, problem, log_decay(), test=test, method=method, loop=loop, optimizer=FAST, quiet=True)
    whole = run(outer_steps=8)
    run(outer_steps=4, checkpoint=tmp_path / "meta.safetensors")
    rest = run(outer_steps=8, checkpoint=tmp_path / "meta.safetensors")
    assert torch.equal(rest.meta_parameters["log_decay"], whole.meta_parameters["log_decay"])
    assert len(rest.history) == 8
    with pytest.raises(UpstairsError, match="another seed"):
        run(outer_steps=8, checkpoint=tmp_path / "meta.safetensors", seed=1)


def test_a_loop_that_goes_on_is_not_one_that_starts_anew() -> None:
    """One step at a time, as DARTS is used: the parameters converge along with the meta-parameters."""
    problem, test = ridge(steps=1)
    run = partial(train, problem, log_decay(), test=test, method=OneStep(), optimizer=FAST, quiet=True)
    anew, on = (run(outer_steps=30, loop=loop).history[-1]["outer"] for loop in (1, 30))
    assert on < anew


def test_what_is_not_finite_names_its_step_and_constraints_are_kept() -> None:
    problem, test = ridge(steps=3)

    def at(step: int) -> Problem:
        return replace(problem, rule=SGD(1e200)) if step == 2 else problem

    with pytest.raises(NonFiniteError, match=r"at outer step 2: the outer loss is .* after 3 inner steps"):
        train(at, log_decay(), test=test, method=Unrolled(), outer_steps=4, quiet=True)
    with pytest.raises(UpstairsError, match="outer_steps is 0"):
        train(problem, log_decay(), test=test, method=Unrolled(), outer_steps=0, quiet=True)
    kept = train(
        problem, log_decay(), test=test, method=Unrolled(), outer_steps=2, optimizer=FAST, quiet=True,
        project=lambda m: m["log_decay"].clamp_(max=-2.1),
    )  # fmt: skip
    assert (kept.meta_parameters["log_decay"] <= -2.1).all()


def test_the_diagnostic_measures_and_advises(tmp_path: Path) -> None:
    problem, _ = ridge(steps=16)
    fewer = {
        "es": EvolutionStrategies(pairs=2),
        "pes": PersistentES(pairs=2),
        "implicit_neumann": ImplicitHypergradient(Neumann(30)),
    }
    found = diagnose(problem, log_decay(), methods={**METHODS, **fewer}, repeats=3)
    rows = {r.name: r for r in found.rows}
    assert set(rows) == set(METHODS) and not any(r.note for r in found.rows)
    for name in ("unrolled", "recomputed", "forward"):
        assert rows[name].bias < 1e-10 and rows[name].cosine > 1 - 1e-10
    assert rows["truncated"].bias > 0.05 and rows["truncated"].noise < 1e-12
    assert rows["es"].noise > 0.1
    assert rows["recomputed"].mib < rows["unrolled"].mib / 2
    assert rows["one_step"].length < 0.5
    best = found.advice.split()[1].strip(":")
    assert rows[best].cosine >= 0.95
    assert all(rows[best].seconds <= r.seconds for r in found.rows if r.cosine >= 0.95)
    tight = replace(found, memory=rows["unrolled"].mib / 2)
    assert rows[tight.advice.split()[1].strip(":")].mib < rows["unrolled"].mib / 2
    assert all(name in str(found) for name in METHODS) and found.advice in str(found)
    found.draw(tmp_path / "methods.png")
    assert (tmp_path / "methods.png").stat().st_size > 5000


def test_a_method_that_fails_is_a_row_with_the_reason() -> None:
    problem, _ = ridge(steps=2)
    blind = replace(
        problem, inner=lambda p, m, b: problem.inner(p, m, b) + 0 * p["w"].detach().numpy().sum()
    )  # vmap has none
    rows = {r.name: r for r in diagnose(blind, log_decay(), repeats=2).rows}
    assert rows["forward"].note and not rows["unrolled"].note
    with pytest.raises(UpstairsError, match="exact hypergradient is zero"):
        diagnose(problem, {**log_decay(), "log_decay": torch.full((8,), -2000.0, dtype=torch.float64)})
