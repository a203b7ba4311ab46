"""Conformance checks for learners: `check_learner(learner, tasks)`.

A law that a learner cannot keep is listed with its reason, as in scikit-learn:
`check_learner(learner, tasks, expected_failures={"support_order": "reads the support set in order"})`.
"""

from collections.abc import Callable, Mapping

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.utils._pytree import tree_leaves

from upstairs.core import Examples, Learner, Task, evaluating
from upstairs.tree import index

Law = Callable[[Learner, Task], None]


def check_learner(learner: Learner, tasks: Task, *, expected_failures: Mapping[str, str] | None = None) -> None:
    """Checks all laws on a batch of at least 2 tasks with integer labels or regression targets.

    Raises:
        AssertionError: lists each law that is broken, or is kept although expected to fail.
    """
    expected = expected_failures or {}
    if unknown := set(expected) - set(LAWS):
        raise AssertionError(f"no such law: {', '.join(sorted(unknown))}; the laws are {', '.join(LAWS)}")
    problems = []
    for name, law in LAWS.items():
        try:
            with torch.random.fork_rng(devices=[]):
                law(learner, tasks)
        except Exception as error:
            if name not in expected:
                problems.append(f"{name}: {type(error).__name__}: {error}")
        else:
            if name in expected:
                problems.append(f"{name}: kept, though expected to fail because it {expected[name]}")
    if problems:
        raise AssertionError("\n".join([f"{type(learner).__name__} breaks {len(problems)} laws:", *problems]))


def _answer(learner: Learner, support: Examples, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return learner.predict(learner.adapt(support), x)


def _close(a: Tensor, b: Tensor, what: str) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=lambda text: f"{what}: {text}")


def check_pure(learner: Learner, tasks: Task) -> None:
    """Adapting and predicting change neither the weights and buffers nor the attributes."""
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in learner.named_modules()}
    learner(tasks)
    task = index(tasks, 0)
    learner.predict(learner.adapt(task.support), task.query.x)
    for name, value in learner.state_dict().items():
        assert torch.equal(before[name], value), f"'{name}' was written to"
    for name, module in learner.named_modules():
        assert attributes[name] == set(vars(module)), f"module '{name}' got or lost an attribute"


def check_state_of_tensors(learner: Learner, tasks: Task) -> None:
    """The state is a pytree of tensors."""
    leaves = tree_leaves(learner.adapt(index(tasks, 0).support))
    assert leaves, "the state is empty"
    assert all(isinstance(leaf, Tensor) for leaf in leaves), "the state has a leaf that is no tensor"


def check_vectorised(learner: Learner, tasks: Task) -> None:
    """A batch of tasks gives the same results as its tasks one by one."""
    losses, predictions = learner(tasks)
    for i in range(len(losses)):
        loss, prediction = learner.meta_loss(index(tasks, i))
        _close(losses[i], loss, f"loss of task {i}")
        _close(predictions[i], prediction, f"predictions of task {i}")


def check_padding(learner: Learner, tasks: Task) -> None:
    """Examples whose mask is False change nothing."""
    support, query = index(tasks, 0)
    none = torch.zeros(len(support.x[:3]), dtype=torch.bool)
    padded = Examples(
        torch.cat([support.x, support.x[:3]]), torch.cat([support.y, support.y[:3]]), torch.cat([support.mask, none])
    )
    _close(_answer(learner, padded, query.x), _answer(learner, support, query.x), "with padding")


def check_support_order(learner: Learner, tasks: Task) -> None:
    """The order of the support set changes nothing."""
    support, query = index(tasks, 0)
    order = torch.randperm(len(support.mask), generator=torch.Generator().manual_seed(1))
    shuffled = Examples(*(leaf[order] for leaf in support))
    _close(_answer(learner, shuffled, query.x), _answer(learner, support, query.x), "with the support set shuffled")


def check_queries_apart(learner: Learner, tasks: Task) -> None:
    """A query's prediction does not depend on the other queries (unless the learner says it is transductive)."""
    if learner.transductive:
        return
    support, query = index(tasks, 0)
    _close(_answer(learner, support, query.x)[:1], _answer(learner, support, query.x[:1]), "of a query alone")


def check_gradients(learner: Learner, tasks: Task) -> None:
    """Every meta-parameter that can learn receives a finite gradient that is not zero."""
    parameters = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    if not parameters:
        return
    grads = torch.autograd.grad(learner(tasks)[0].sum(), list(parameters.values()), allow_unused=True)
    for name, grad in zip(parameters, grads, strict=True):
        assert grad is not None, f"'{name}' receives no gradient"
        assert grad.isfinite().all(), f"'{name}' receives a gradient that is not finite"
        assert grad.abs().sum() > 0, f"'{name}' receives a gradient of zero"


def check_no_grad(learner: Learner, tasks: Task) -> None:
    """Under no_grad the predictions are the same, and no graph is built."""
    support, query = index(tasks, 0)
    with torch.no_grad():
        answer = _answer(learner, support, query.x)
    assert not answer.requires_grad, "a graph was built under no_grad"
    _close(answer, _answer(learner, support, query.x), "under no_grad")


def check_saved(learner: Learner, tasks: Task) -> None:
    """Weights saved to safetensors and loaded give equal predictions."""
    support, query = index(tasks, 0)
    with evaluating(learner):
        before = _answer(learner, support, query.x)
        learner.load_state_dict(load(save({k: v.contiguous().clone() for k, v in learner.state_dict().items()})))
        torch.testing.assert_close(_answer(learner, support, query.x), before, rtol=0, atol=0)


def check_relabelled(learner: Learner, tasks: Task) -> None:
    """Renumbering the classes permutes the predictions; regression has no classes."""
    support, query = index(tasks, 0)
    if learner.task_kind == "regression":
        return
    order = torch.arange(learner.way).roll(1)
    relabelled = _answer(learner, support._replace(y=order[support.y]), query.x)
    _close(relabelled[:, order], _answer(learner, support, query.x), "with the classes renumbered")


LAWS: dict[str, Law] = {
    "pure": check_pure,
    "state_of_tensors": check_state_of_tensors,
    "vectorised": check_vectorised,
    "padding": check_padding,
    "support_order": check_support_order,
    "queries_apart": check_queries_apart,
    "gradients": check_gradients,
    "no_grad": check_no_grad,
    "saved": check_saved,
    "relabelled": check_relabelled,
}
