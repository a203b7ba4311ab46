"""The outer loop: gradient descent on meta-parameters; overfitting is measured on a third split."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan
from pathlib import Path

import torch
from torch import Tensor

from upstairs.bilevel.hypergradient import hypergradient
from upstairs.bilevel.problem import Carry, Method, Problem, outer_loss, walk
from upstairs.console import counting
from upstairs.errors import NonFiniteError, UpstairsError
from upstairs.functional.call import Params
from upstairs.statistics import Interval, paired_interval
from upstairs.storage import load_tensors, pack_optimizer, save_tensors, unpack_optimizer

Problems = Problem | Callable[[int], Problem]  # one, or a function of the outer step: tasks
Optimizer = Callable[[list[Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Trained:
    """Meta-parameters after the outer loop, with their losses on the training problems and on a third split.

    Args:
        history: for each outer step: `step`, `outer` (the validation loss) and `seconds`.
        validation: outer losses of whole inner loops before and after, on the training problems.
        test: the same on the third split.
    """

    meta_parameters: Params
    history: list[dict[str, float]]
    validation: tuple[list[float], list[float]]
    test: tuple[list[float], list[float]]

    @property
    def overfit(self) -> float:
        """The share of the validation gain that is lost on the third split: above 1, the test loss has risen."""
        gains = [sum(before) / len(before) - sum(after) / len(after) for before, after in (self.validation, self.test)]
        return 1 - gains[1] / gains[0] if gains[0] > 0 else float("nan")

    @property
    def gain(self) -> Interval:
        """The mean fall of the loss on the third split, with its interval if there are several problems."""
        return paired_interval(*self.test)

    def __str__(self) -> str:
        shown = [
            f"{name} loss {sum(b) / len(b):.4f} -> {sum(a) / len(a):.4f}"
            for name, (b, a) in (("validation", self.validation), ("test", self.test))
        ]
        share = self.overfit
        what = "nothing was gained on validation" if isnan(share) else f"{100 * share:.0f}% of the gain is overfitting"
        return f"{shown[0]}, {shown[1]}: {what}"


def optimize(
    problems: Problems, meta_parameters: Mapping[str, Tensor], *, test: Problem | Sequence[Problem], method: Method,
    outer_steps: int, optimizer: Optimizer | None = None, loop: int = 1, seed: int = 0,
    project: Callable[[Params], None] | None = None, checkpoint: Path | None = None, quiet: bool = False,
) -> Trained:  # fmt: skip
    """Minimises the outer loss over the meta-parameters, for `outer_steps` steps of an optimiser.

    Args:
        problems: one, or a function from the outer step to its problem (another task, another start).
        test: problems with unseen data for the outer loss: `replace(problem, outer_batch=...)`, or new tasks. Some
            dozens of them give an interval.
        optimizer: a function from a list of tensors to an optimiser. None: Adam with a learning rate of 0.01.
        loop: the number of outer steps within one inner loop; then the inner loop starts anew.
        seed: the seed of the random numbers of each outer step.
        project: a function that projects the meta-parameters, in place, onto the allowed set after each step.
        checkpoint: a file to resume from, written at the end of an inner loop at most every ten seconds; the result is
            that of an uninterrupted run.
        quiet: show no progress bar.

    Raises:
        UpstairsError: an invalid argument.
        NonFiniteError: a loss or a hypergradient is NaN or infinite; it names the outer step.
    """
    if outer_steps < 1 or loop < 1:
        raise UpstairsError(f"outer_steps is {outer_steps} and loop is {loop}: both take 1 or more")
    at = problems if callable(problems) else lambda step: problems
    meta = {n: p.detach().clone() for n, p in meta_parameters.items()}
    first = {n: p.clone() for n, p in meta.items()}
    outer = (optimizer or partial(torch.optim.Adam, lr=1e-2))(list(meta.values()))
    history: list[dict[str, float]] = []
    if checkpoint is not None and checkpoint.is_file():
        history = _restore(checkpoint, meta, outer, seed)
    started = saved = time.monotonic()
    carry: Carry | None = None
    with counting("outer steps", quiet=quiet) as tell:
        for step in range(len(history), outer_steps):
            problem = at(step)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed * 1_000_003 + step)
                try:
                    found = hypergradient(problem, meta, method=method, carry=carry if step % loop else None)
                except NonFiniteError as error:
                    raise NonFiniteError(f"at outer step {step}: {error}", index=step) from error
            carry = found.carry
            for name, p in meta.items():
                p.grad = found.gradients[name].detach()
            outer.step()
            if project is not None:
                project(meta)
            now = time.monotonic()
            history.append({"step": step, "outer": float(found.outer), "seconds": now - started})
            if checkpoint is not None and (step + 1) % loop == 0 and (now - saved > 10 or step + 1 == outer_steps):
                _save(checkpoint, meta, outer, history, seed)
                saved = now
            if tell is not None:
                tell(step + 1, outer_steps)
    unseen = [test] if isinstance(test, Problem) else list(test)
    known = [at(k) for k in range(min(outer_steps, len(unseen)))] if callable(problems) else [problems]
    for p in meta.values():
        p.grad = None
    return Trained(
        meta, history, (_scores(known, first, loop, seed), _scores(known, meta, loop, seed)),
        (_scores(unseen, first, loop, seed), _scores(unseen, meta, loop, seed)),
    )  # fmt: skip


def _scores(problems: Sequence[Problem], meta: Params, loop: int, seed: int) -> list[float]:
    """Returns the outer loss of each problem after a whole inner loop."""
    losses = []
    for number, problem in enumerate(problems):
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 1_000_003 + number)
            carry = walk(problem, meta, None, loop * problem.steps)
            losses.append(float(outer_loss(problem, carry.parameters, meta, carry.step)))
    return losses


def _save(path: Path, meta: Params, outer: torch.optim.Optimizer, history: list[dict[str, float]], seed: int) -> None:
    tensors, rest = pack_optimizer(outer)
    own = {f"meta.{n}": p for n, p in meta.items()}
    save_tensors(path, {**own, **tensors}, {"optimizer": rest, "history": history, "seed": seed}, kind="bilevel")


def _restore(path: Path, meta: Params, outer: torch.optim.Optimizer, seed: int) -> list[dict[str, float]]:
    tensors, header = load_tensors(path, kind="bilevel")
    shapes = {n.removeprefix("meta."): t.shape for n, t in tensors.items() if n.startswith("meta.")}
    if shapes != {n: p.shape for n, p in meta.items()} or header["seed"] != seed:
        raise UpstairsError(f"{path} is of other meta-parameters or of another seed: give another file, or remove it")
    for name, p in meta.items():
        p.copy_(tensors[f"meta.{name}"])
    unpack_optimizer(outer, tensors, header["optimizer"])
    return header["history"]
