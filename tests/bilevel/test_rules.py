"""The inner rules are torch.optim's, and differentiable in their own numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from upstairs.bilevel import SGD, Adam, AdamW, Problem, RMSprop, Unrolled, hypergradient
from upstairs.functional.rules import LearnedRates

PAIRS: dict[str, tuple[Any, Callable[[list[Tensor]], torch.optim.Optimizer]]] = {
    "sgd": (SGD(0.05, decay=0.1), lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1)),
    "momentum": (SGD(0.004, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.004, momentum=0.9)),
    "nesterov": (
        SGD(0.004, momentum=0.9, decay=0.01, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.004, momentum=0.9, weight_decay=0.01, nesterov=True),
    ),
    "adam": (Adam(0.03, decay=0.1), lambda p: torch.optim.Adam(p, lr=0.03, weight_decay=0.1)),
    "adamw": (AdamW(0.03, decay=0.3), lambda p: torch.optim.AdamW(p, lr=0.03, weight_decay=0.3)),
    "rmsprop": (RMSprop(0.01), lambda p: torch.optim.RMSprop(p, lr=0.01)),
    "rmsprop with momentum": (
        RMSprop(0.01, momentum=0.8, decay=0.1),
        lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.8, weight_decay=0.1),
    ),
}


def start() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {"w": torch.randn(3, 2, dtype=torch.float64), "b": torch.randn(2, dtype=torch.float64)}


def bend(params: dict[str, Tensor], step: int) -> Tensor:
    """Not convex, another one in each step; one weight has no gradient at all."""
    w = params["w"].clone()
    w[0, 0] = 0.0
    return (torch.sin(w + 0.1 * step).sum() + (w @ params["b"]).square().sum()) / (1 + step % 3)


@pytest.mark.parametrize("name", PAIRS)
def test_a_rule_is_torch_optims_over_100_steps(name: str) -> None:
    rule, make = PAIRS[name]
    params = start()
    problem = Problem(
        inner=lambda p, meta, step: bend(p, step), outer=lambda p, meta, batch: p["w"].sum() * meta["unused"],
        start=params, rule=rule, steps=100, inner_batch=lambda k: k,
    )  # fmt: skip
    unused = {"unused": torch.ones((), dtype=torch.float64)}
    got = hypergradient(problem, unused, method=Unrolled()).carry.parameters
    theirs = [p.clone().requires_grad_() for p in params.values()]
    optimizer = make(theirs)
    for step in range(100):
        optimizer.zero_grad()
        bend(dict(zip(params, theirs, strict=True)), step).backward()
        optimizer.step()
    for mine, other in zip(got.values(), theirs, strict=True):
        torch.testing.assert_close(mine, other.detach(), rtol=1e-6, atol=1e-9)


OWN: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "sgd": lambda m: SGD({"w": m["lr"], "b": 2 * m["lr"]}, momentum=m["beta"], decay=m["decay"]),
    "nesterov": lambda m: SGD(m["lr"], momentum=m["beta"], decay=m["decay"], nesterov=True),
    "adam": lambda m: Adam(m["lr"], betas=(m["beta"], 1 - (1 - m["beta"]) ** 2), decay=m["decay"]),
    "adamw": lambda m: AdamW(m["lr"], betas=(m["beta"], 0.99), decay={"w": m["decay"], "b": 0 * m["decay"]}),
    "rmsprop": lambda m: RMSprop(m["lr"], alpha=m["beta"], momentum=m["beta"] / 2, decay=m["decay"]),
}


@pytest.mark.parametrize("name", OWN)
def test_the_derivative_in_a_rules_numbers_is_that_of_finite_differences(name: str) -> None:
    problem = Problem(
        inner=lambda p, meta, step: bend(p, step), outer=lambda p, meta, batch: bend(p, 7), start=start(),
        rule=OWN[name], steps=6, inner_batch=lambda k: k,
    )  # fmt: skip
    meta = {n: torch.tensor(v, dtype=torch.float64) for n, v in (("lr", 0.03), ("beta", 0.8), ("decay", 0.1))}
    found = hypergradient(problem, meta, method=Unrolled())
    for key in meta:
        sides = [hypergradient(problem, {**meta, key: meta[key] + e}, method=Unrolled()).outer for e in (1e-5, -1e-5)]
        torch.testing.assert_close(found.gradients[key], (sides[0] - sides[1]) / 2e-5, rtol=1e-5, atol=1e-7)


def test_an_update_rule_of_the_learners_serves_as_it_is() -> None:
    """Meta-SGD's rates: at equal ones it is gradient descent."""
    params = start()
    losses = {"inner": lambda p, m, k: m["scale"] * bend(p, k), "outer": lambda p, m, b: bend(p, 7)}
    meta = {"scale": torch.ones((), dtype=torch.float64)}
    found = []
    for rule in (SGD(0.02), LearnedRates(params, 0.02)):
        problem = Problem(**losses, start=params, rule=rule, steps=5, inner_batch=lambda k: k)
        found.append(hypergradient(problem, meta, method=Unrolled()).gradients["scale"])
    torch.testing.assert_close(found[1], found[0])
