"""A meta-step as one compiled program: traced through all inner steps, forward and backward, compiled by inductor."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from upstairs.core import Learner, Task
from upstairs.engine.plan import estimate, known_of, silent_tracing
from upstairs.functional.batching.norms import tracks_statistics
from upstairs.functional.purity import put_back, snapshot
from upstairs.functional.rewrite import rewrite_products

MOST = 8  # shapes of one learner that are compiled; others run eagerly
PATIENCE = 20  # steps of one shape before `auto` compiles
SMALL = 256 * 1024  # bytes of the largest tensor of a task, below which the overhead of calls dominates
TOLERANCE = 1e-3  # relative error of losses and gradients, compared with the eager step

log = logging.getLogger("upstairs.compile")


class CompiledStep(NamedTuple):
    """The result of a compiled step."""

    size: Tensor  # the sum of absolute values of losses and gradients: finite only if all of them are
    losses: Tensor
    predictions: Tensor
    gradients: Sequence[Tensor]  # of the mean loss


class Compiled:
    """The compiled step for tasks of one shape."""

    def __init__(self, learner: Learner, tasks: Task) -> None:
        named = {n: p for n, p in learner.named_parameters() if p.requires_grad}
        rest = {n: p for n, p in learner.named_parameters() if not p.requires_grad} | dict(learner.named_buffers())
        self.parameters, self.constants = list(named.values()), list(rest.values())
        names = [*named, *rest]
        leaves, structure = tree_flatten(tasks)

        def step(*values: Tensor) -> tuple[Tensor, ...]:
            weights = [v.detach().requires_grad_() for v in values[: len(named)]]
            state = dict(zip(names, [*weights, *values[len(named) : len(names)]], strict=True))
            batch = tree_unflatten(list(values[len(names) :]), structure)
            losses, predictions = functional_call(learner, state, (batch,))
            grads = torch.autograd.grad(losses.mean(), weights, allow_unused=True, materialize_grads=True)
            # one non-finite number makes the sum of absolute values non-finite
            size = torch.stack([t.abs().sum() for t in (losses, *grads)]).sum()
            return size.detach(), losses.detach(), predictions.detach(), *grads

        graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(
            *self.parameters, *self.constants, *leaves
        )
        rewrite_products(graph)
        self.cuda = leaves[0].is_cuda
        options: dict[str, Any] = {"fallback_random": True}
        options |= {"triton.cudagraphs": True} if self.cuda else {"cpp_wrapper": True}
        # not torch.compile: its guards took a tenth of a small network's step, and no Python code is left to guard
        from torch import _inductor  # late: it takes a second

        with torch.no_grad():
            self.run = _inductor.compile(graph, [*self.parameters, *self.constants, *leaves], options=options)
        self.check(learner, tasks)

    def __call__(self, tasks: Task) -> CompiledStep:
        with torch.no_grad():
            out = self.run(*self.parameters, *self.constants, *tasks.support, *tasks.query)
        if self.cuda:  # a replayed graph writes to the same memory each time
            out = [t.clone() for t in out]
        size, losses, predictions, *grads = out
        return CompiledStep(size, losses, predictions, grads)

    def check(self, learner: Learner, tasks: Task) -> None:
        """Compares with the eager step.

        Raises:
            ValueError: they differ.
        """
        with torch.random.fork_rng(devices=[]):
            losses, _ = learner(tasks)
            grads = torch.autograd.grad(losses.mean(), self.parameters, allow_unused=True, materialize_grads=True)
        with torch.random.fork_rng(devices=[]):
            found = self(tasks)
        for what, a, b in (("losses", [found.losses], [losses.detach()]), ("gradients", found.gradients, grads)):
            difference = sum(float((x - y).double().square().sum()) for x, y in zip(a, b, strict=True))
            size = sum(float(y.double().square().sum()) for y in b)
            error = (difference / max(size, 1e-30)) ** 0.5
            if not error <= TOLERANCE:
                raise ValueError(f"its {what} differ from the eager step's by {error:.1e}")


class _Shape:
    """The number of steps of one shape, its program, or why there is none."""

    def __init__(self) -> None:
        self.met = 0
        self.program: Compiled | None = None
        self.refused = ""


def compiled_step(learner: Learner, tasks: Task, mode: str, key: Any) -> Compiled | None:
    """Returns the program for tasks of this shape; None where the step runs eagerly (`compile_report` says why).

    Args:
        key: the program's other dependencies: the signature of learner and tasks, and whether inner steps are
            recomputed.
    """
    shapes: dict[Any, _Shape] = known_of(learner).programs
    shape = shapes.setdefault((mode, key), _Shape())
    shape.met += 1
    if shape.program or shape.refused:
        return shape.program
    if mode == "auto" and shape.met <= PATIENCE:
        return None
    if mode == "auto" and (size := estimate(learner, tasks).largest) > SMALL:
        shape.refused = f"its tensors are large ({size / 2**20:.1f} MiB): a compiled step would gain little"
    elif tracks_statistics(learner):
        shape.refused = "batch norm with running statistics: its program could not gather them"
    elif sum(s.program is not None for s in shapes.values()) >= MOST:
        shape.refused = f"{MOST} shapes are compiled already: give tasks of equal way, shot and query"
    else:
        before = snapshot(learner)
        try:
            with silent_tracing():
                shape.program = Compiled(learner, tasks)
        except Exception as error:
            shape.refused = f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0]}"
            log.warning("the meta-step runs eagerly, since it was not compiled: %s", shape.refused)
        finally:
            put_back(before)
    return shape.program


def compile_report(learner: Learner) -> list[str]:
    """Returns one line for each shape of tasks so far."""
    lines = []
    for shape in known_of(learner).programs.values():
        state = "compiled" if shape.program else f"eager: {shape.refused}" if shape.refused else "eager so far"
        lines.append(f"{state} ({shape.met} steps)")
    return lines
