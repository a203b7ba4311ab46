"""Statistics of a batch in float32, as near to those in float64 as torch's own of its other layout."""

import pytest
import torch

from upstairs.stacked import kernels


@pytest.mark.parametrize(
    "shape", [(5, 128, 28, 28), (75, 64, 28, 28), (4, 6, 21, 21), (3, 5, 13, 7), (2, 20_000, 2, 2)]
)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_moments_do_not_drift(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    """Added up in one number, 3,920 values have means off by up to 4e-6 of a standard deviation."""
    generator = torch.Generator().manual_seed(0)
    level = torch.randn(1, shape[1], 1, 1, generator=generator) + 0.5
    x = (torch.randn(shape, generator=generator) + level).contiguous(memory_format=layout)
    mean, variance = kernels.moments(x)
    exact_variance, exact_mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    assert ((mean - exact_mean).abs() / exact_variance.sqrt()).max() < 1e-6
    assert ((variance - exact_variance).abs() / exact_variance).max() < 1e-6
