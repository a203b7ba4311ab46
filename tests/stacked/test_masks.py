"""A mask that hides nothing is skipped; one that was written to, by itself or through a view, is not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from upstairs.stacked.tensor import Stacked, front, known_true, stack

CHANGES: dict[str, Callable[[Tensor], object]] = {
    "by index": lambda mask: mask.__setitem__(slice(0, 2), False),
    "in place": lambda mask: mask.logical_and_(torch.tensor(False)) if not isinstance(mask, Stacked) else mask.zero_(),
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
