"""A mask that hides nothing is skipped; one that was written to, by itself or through a view, is not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from helpers.tasks import sinusoids
from upstairs.core import Examples, mean_loss, squared_error
from upstairs.engine.explain import explain
from upstairs.functional.batching import vectorize
from upstairs.functional.batching.tensor import BatchedTensor, front, known_true, stack
from upstairs.learners import SGD, GradientLearner
from upstairs.nets import mlp

CHANGES: dict[str, Callable[[Tensor], object]] = {
    "by index": lambda mask: mask.__setitem__(slice(0, 2), False),
    "in place": lambda mask: (
        mask.logical_and_(torch.tensor(False)) if not isinstance(mask, BatchedTensor) else mask.zero_()
    ),
    "through a view": lambda mask: mask[:2].fill_(False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_full_mask_that_is_written_to_hides_again(name: str) -> None:
    values, mask = stack((torch.ones(3, 4), torch.ones(3, 4, dtype=torch.bool)))
    assert known_true(mask)
    assert torch.equal(front(torch.where(mask, values, 0.0)), torch.ones(3, 4))
    CHANGES[name](mask)
    assert not known_true(mask)
    assert torch.equal(front(torch.where(mask, values, 0.0)), front(mask).float())
    assert not front(mask).all()


@pytest.mark.parametrize("way", ["loop", "vmap", "stacked"])
@pytest.mark.parametrize("masked", [False, True])
def test_mean_losses_are_those_of_the_real_examples(way: str, masked: bool) -> None:
    """One operation where nothing is masked, five where something may be: against the sum that both stand for."""
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(3, 4, 2, generator=g, dtype=torch.float64) for _ in range(2))
    x.requires_grad_()
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[0, 1] = not masked

    def one(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        examples = Examples(x, y, mask)
        return mean_loss(squared_error, x, examples) + 3 * examples.mean(squared_error(x, y))

    ways: dict[str, Callable[..., Tensor]] = {
        "loop": lambda *args: torch.stack([one(*task) for task in zip(*args, strict=True)]),
        "vmap": torch.vmap(one),
        "stacked": lambda *args: vectorize(one, args, owner=nn.Identity()),
    }
    found = ways[way](x, y, mask)
    expected = 4 * ((x - y).square().sum(-1) * mask).sum(1) / mask.sum(1)
    assert torch.allclose(found, expected, atol=1e-13)
    grads = [torch.autograd.grad(t.sum(), x, retain_graph=True)[0] for t in (found, expected)]
    assert torch.allclose(*grads, atol=1e-13)


def test_no_real_example_has_a_loss_of_zero() -> None:
    empty = Examples(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0, dtype=torch.bool))
    assert empty.mean(torch.zeros(0)) == 0
    assert mean_loss(squared_error, empty.x, empty) == 0


def test_the_squared_error_of_torch_runs_stacked() -> None:
    learner = GradientLearner(mlp((1,), out=1), SGD(0.1), loss_fn=lambda p, y: nn.MSELoss()(p, y).expand(len(p)))
    found = explain(learner, sinusoids(2)).functions
    assert {how for function, how, _ in found if function == "mse_loss"} == {"stacked"}
