"""Comparison of hypergradient methods on one problem: bias, noise, time and memory of each."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from upstairs.bilevel.evolution import EvolutionStrategies, PersistentES
from upstairs.bilevel.hypergradient import METHODS, hypergradient
from upstairs.bilevel.implicit import ImplicitHypergradient, Nystrom
from upstairs.bilevel.problem import Method, Problem
from upstairs.bilevel.through import Unrolled
from upstairs.engine.plan import MIB, Tracker
from upstairs.errors import UpstairsError

ENOUGH = 0.95  # cosine of a single estimate with the exact hypergradient: 18 degrees


class MethodRow(NamedTuple):
    """The measurements of one method. Lengths are relative to that of the exact hypergradient."""

    name: str
    bias: float  # |mean estimate - exact|; with noise, no less than about noise / sqrt(repeats)
    noise: float  # root mean square distance of an estimate from their mean
    cosine: float  # mean cosine of a single estimate with the exact one
    length: float  # of the mean estimate
    seconds: float  # median
    mib: float  # peak memory of tensors made by the method
    note: str = ""  # the error of a method that failed


@dataclass(frozen=True)
class Diagnosis:
    """The result of `diagnose`; printed, it is a table with a sentence of advice below."""

    rows: list[MethodRow]
    steps: int
    memory: float | None = None  # MiB that a method may take

    @property
    def advice(self) -> str:
        """The method to use: the fastest with a large enough cosine, within the memory."""
        able = [r for r in self.rows if not r.note and (self.memory is None or r.mib <= self.memory)]
        good = [r for r in able if r.cosine >= ENOUGH]
        if good:
            best = min(good, key=lambda r: r.seconds)
            scale = (
                f", and multiply the outer learning rate by about {1 / best.length:.2g}" if best.length < 0.5 else ""
            )
            return (
                f"use {best.name}: of the methods whose estimates have a cosine of {ENOUGH} or more with the exact "
                f"hypergradient it is the fastest ({best.seconds:.3g} s, {best.mib:.3g} MiB){scale}"
            )
        if not able:
            return "no method runs within the memory given: take fewer steps or smaller batches"
        best = max(able, key=lambda r: r.cosine)
        return (
            f"none within the memory has a cosine of {ENOUGH}: {best.name} is nearest ({best.cosine:.2f}): give it "
            "more pairs, steps or terms"
        )

    def __str__(self) -> str:
        head = f"{'method':<18} {'bias':>8} {'noise':>8} {'cosine':>7} {'length':>7} {'seconds':>8} {'MiB':>8}"
        lines = [
            f"{r.name:<18} "
            + (r.note or f"{r.bias:8.2g} {r.noise:8.2g} {r.cosine:7.3f} {r.length:7.2f} {r.seconds:8.3f} {r.mib:8.2f}")
            for r in self.rows
        ]
        return "\n".join([f"{self.steps} inner steps; lengths over that of the exact one", head, *lines, self.advice])

    def draw(self, path: str | Path) -> None:
        """Draws the error of a single estimate against time and against memory."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        shown = [r for r in self.rows if not r.note]
        for axis, (label, of) in zip(
            figure.subplots(1, 2, sharey=True),
            (("seconds", lambda r: r.seconds), ("MiB", lambda r: r.mib)),
            strict=True,
        ):
            for r in shown:
                wrong = max(1e-8, (r.bias**2 + r.noise**2) ** 0.5)
                axis.plot(max(of(r), 1e-4), wrong, "o", color="C0" if r.cosine >= ENOUGH else "C3")
                axis.annotate(r.name.replace("_", " "), (max(of(r), 1e-4), wrong), xytext=(4, 3),
                              textcoords="offset points", fontsize=8)  # fmt: skip
            axis.set(xscale="log", yscale="log", xlabel=label)
            axis.grid(alpha=0.3)
        figure.axes[0].set_ylabel("error of one estimate / exact length")
        figure.suptitle(f"{self.steps} inner steps; red: cosine below {ENOUGH}")
        figure.savefig(path)


def diagnose(
    problem: Problem, meta_parameters: Mapping[str, Tensor], *, methods: Mapping[str, Method] = METHODS,
    repeats: int = 8, memory: float | None = None, seed: int = 0,
) -> Diagnosis:  # fmt: skip
    """Runs every method on the problem, whose inner loop must be short enough to be unrolled.

    Args:
        methods: by name; default: all, with their default settings.
        repeats: the number of estimates of a stochastic method, and of timings of the others (at most three).
        memory: the memory limit of the advice, in MiB.
        seed: the seed of the losses' random numbers, the same for all methods.

    Raises:
        UpstairsError: the exact hypergradient is zero, so that nothing can be compared with it.
    """
    exact = _flat(_run(problem, meta_parameters, Unrolled(), seed)[0])
    if not bool(exact.any()):
        raise UpstairsError("the exact hypergradient is zero: the outer loss does not depend on the meta-parameters")
    rows = [_row(name, problem, meta_parameters, method, exact, repeats, seed) for name, method in methods.items()]
    return Diagnosis(rows, problem.steps, memory)


def _row(
    name: str, problem: Problem, meta: Mapping[str, Tensor], method: Method, exact: Tensor, repeats: int, seed: int
) -> MethodRow:  # fmt: skip
    chance = isinstance(method, EvolutionStrategies | PersistentES) or (
        isinstance(method, ImplicitHypergradient) and isinstance(method.solver, Nystrom)
    )
    found, seconds = [], []
    try:
        for number in range(repeats if chance else min(repeats, 3)):
            gradients, took = _run(problem, meta, method, seed + number * chance)
            found.append(_flat(gradients))
            seconds.append(took)
        with Tracker() as tracker:
            _run(problem, meta, method, seed)
    except (UpstairsError, NotImplementedError, RuntimeError) as error:
        return MethodRow(name, *[float("nan")] * 6, note=str(error).splitlines()[0])
    estimates, size = torch.stack(found), exact.norm()
    mean = estimates.mean(0)
    noise = (estimates - mean).square().sum(1).mean().sqrt() / size
    cosine = torch.cosine_similarity(estimates, exact[None]).mean()
    return MethodRow(
        name, float((mean - exact).norm() / size), float(noise), float(cosine), float(mean.norm() / size),
        sorted(seconds)[len(seconds) // 2], tracker.peak / MIB,
    )  # fmt: skip


def _run(problem: Problem, meta: Mapping[str, Tensor], method: Method, seed: int) -> tuple[Any, float]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        start = time.perf_counter()
        gradients = hypergradient(problem, meta, method=method).gradients
        return gradients, time.perf_counter() - start


def _flat(gradients: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients.values()])
