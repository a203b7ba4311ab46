"""The meta-gradient from losses alone, by evolution strategies: for learners without a useful gradient.

    grad J(theta)  ~  mean over tasks t and pairs of  (L_t(theta + sigma e) - L_t(theta - sigma e)) / (2 sigma) e

with e ~ N(0, I) drawn anew for each task and pair: ES-MAML (Song et al. 2020, algorithm 2; antithetic). It estimates
the gradient of J smoothed by a Gaussian of width sigma. One forward pass of all tasks evaluates a perturbation of each;
nothing is differentiated, so the inner loop may be anything.

With d meta-parameters, the estimate from N pairs has the cosine c with the gradient g, where

    c^2 ~ Beta(N / 2, (d - 1) / 2),   E c^2 = N / (N + d - 1):

the components along g add up to S ~ chi^2 with N degrees of freedom, and the rest is sqrt(S) times a Gaussian
orthogonal to g, with squared length Q ~ chi^2 with d - 1; c^2 = S / (S + Q). So a good direction needs about as many
pairs as there are meta-parameters: a small network.
"""

from typing import Any

import torch
from torch import Tensor, nn

from upstairs.core import Learner, Task
from upstairs.engine.meta_backward import MetaStep, check_finite
from upstairs.engine.plan import chunks
from upstairs.functional.batching import BatchedTensor, vectorize
from upstairs.functional.call import Params, functional_call
from upstairs.functional.differentiate import inside_transform
from upstairs.functional.evolution import antithetic_gradient, draw_noise, perturb
from upstairs.functional.exclusive import exclusive
from upstairs.tree import index


class _Solve(nn.Module):
    """The query loss of one task and the predictions, whatever the learner's `meta_loss` is."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, task: Task) -> tuple[Tensor, Tensor]:
        prediction = self.learner.predict(self.learner.adapt(task.support), task.query.x)
        return task.query.mean(self.learner.loss_fn(prediction, task.query.y)), prediction


def query_losses(learner: Learner, tasks: Task, params: Params) -> tuple[Tensor, Tensor]:
    """Returns the query loss and the predictions of every task, each task with its own meta-parameters.

    Args:
        params: by name, the parameters to replace; each with a leading task axis.
    """
    solve = _Solve(learner)

    def one(task: Task, own: Params) -> Any:
        for p in own.values():
            if not isinstance(p, BatchedTensor) and not inside_transform():
                p.requires_grad_()  # as the parameter it replaces: a learner may treat frozen ones differently
        return functional_call(solve, {f"learner.{name}": p for name, p in own.items()}, task)

    with torch.no_grad():
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        return vectorize(one, (tasks, leaves), owner=learner, name="query_losses")


@exclusive
def es_step(learner: Learner, tasks: Task, *, pairs: int, sigma: float, chunk: int | None = None) -> MetaStep:
    """Adds the antithetic estimate of the meta-gradient to the `.grad` of the learner's parameters.

    The noise is drawn from torch's global generator. Both sides of a pair use the same random numbers in the learner.

    Args:
        tasks: a batch, every leaf with a leading task axis.
        pairs: the number of perturbations of each task, each in both directions.
        sigma: their standard deviation: small is exact and noisy in float32, large smooths more.
        chunk: tasks at a time; the result is the same.

    Raises:
        NonFiniteError: a task's loss is NaN or infinite; the parameters' `.grad` is unchanged.
    """
    theta = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    count = len(tasks.query.mask)
    totals = {name: torch.zeros_like(p) for name, p in theta.items()}
    for _ in range(pairs):
        noise = draw_noise(theta, sigma, count)
        rises = next(iter(theta.values())).new_zeros(count)
        dice = torch.get_rng_state()
        for places, part in chunks(tasks, chunk or count):
            here, sides = index(noise, torch.tensor(places)), []
            for sign in (1, -1):
                torch.set_rng_state(dice)
                losses, _ = query_losses(learner, part, perturb(theta, here, sign))
                check_finite(losses, places)
                sides.append(losses)
            rises[places] = sides[0] - sides[1]
        for name, grad in antithetic_gradient(noise, rises / pairs, sigma).items():
            totals[name] += grad
    losses, predictions = query_losses(learner, tasks, {n: p.expand(count, *p.shape) for n, p in theta.items()})
    for name, p in theta.items():
        p.grad = totals[name] if p.grad is None else p.grad + totals[name]
    return MetaStep(losses, predictions)
