"""Reports on how a learner runs, and on operations that cannot be differentiated as often as it needs."""

from typing import NamedTuple

import torch

from upstairs.core import Learner, Task
from upstairs.engine.plan import Plan, plan
from upstairs.errors import UpstairsError
from upstairs.functional.batching.fallback import recording
from upstairs.functional.batching.vectorize import chosen, forget
from upstairs.functional.derivatives import check_differentiable, twice
from upstairs.functional.exclusive import exclusive
from upstairs.tree import index


class StepReport(NamedTuple):
    """The result of `explain`; printed, it is a table."""

    how: str  # stacked, vmap, loop, or plain for one simple task
    why: str  # why the faster ways failed
    functions: dict[tuple[str, str, str], str]  # (function, how, module) -> why
    plan: Plan | UpstairsError  # the plan of `meta_backward`, or why there is none

    def __str__(self) -> str:
        lines = [f"{self.how}" + (f" ({self.why})" if self.why else "")]
        if self.how == "stacked":
            width = max((len(f) for f, _, _ in self.functions), default=0)
            for (function, how, module), why in sorted(self.functions.items(), key=lambda item: item[0][1]):
                lines.append(f"  {function:{width}}  {how:8} {module}" + (f": {why}" if why else ""))
        return "\n".join([*lines, str(self.plan)])


@exclusive
def explain(learner: Learner, tasks: Task) -> StepReport:
    """Runs the meta-loss of up to 2 tasks and reports how: all tasks stacked, under vmap, or one by one, and why.

    For a stacked run it lists each function of torch: run by its own rule (stacked), by vmap, or by a loop over tasks.
    The plan is that of `meta_backward` for all of the tasks.
    """
    forget(learner)
    with recording() as functions, torch.random.fork_rng(devices=[]):
        learner(index(tasks, slice(0, 2)))
    way = chosen(learner, "meta_loss")
    try:
        planned: Plan | UpstairsError = plan(learner, tasks)
    except UpstairsError as error:
        planned = error
    how, why = way or ("plain", "one task, of layers that gain nothing from being stacked")
    return StepReport(how, why, functions, planned)


@exclusive
def preflight(learner: Learner, tasks: Task) -> None:
    """Computes the meta-gradient of one task, as a check; nothing is kept.

    Raises:
        UpstairsError: an operation cannot be differentiated as often as the learner needs; it names a replacement.
    """
    parameters = [p for p in learner.parameters() if p.requires_grad]
    try:
        losses, _ = learner(index(tasks, slice(0, 1)))
        check_differentiable(losses)
        torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
    except RuntimeError as error:
        if advice := twice(str(error)):
            raise UpstairsError(advice) from error
        raise
