"""Rewritten products give the same numbers, and are fewer."""

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from upstairs.functional.rewrite import BADDBMM, BMM, rewrite_products

TASKS, N, K, M = 6, 5, 4, 3


def shared(x: Tensor, w: Tensor) -> Tensor:
    """One W for all tasks."""
    return torch.bmm(x, w[0].expand(TASKS, K, M))


def shared_with_bias(x: Tensor, w: Tensor) -> Tensor:
    return torch.baddbmm(w[:, :1], x, w[0].expand(TASKS, K, M))


def summed(x: Tensor, w: Tensor) -> Tensor:
    """A gradient of shared weights: a sum over tasks of products, with something else."""
    y = torch.bmm(x, w)
    return (torch.bmm(x.transpose(1, 2), y) + w * 2).sum(0)


def summed_keeping(x: Tensor, w: Tensor) -> Tensor:
    return torch.bmm(x, w).sum(0, keepdim=True)


def column(x: Tensor, w: Tensor) -> Tensor:
    return torch.bmm(x[:, :, :1], w[:, :1])


def row(x: Tensor, w: Tensor) -> Tensor:
    return torch.bmm(x[:, :1], w)


def vector(x: Tensor, w: Tensor) -> Tensor:
    return torch.baddbmm(x[:, :, :1], x, w[:, :, :1])


@pytest.mark.parametrize("function", [shared, shared_with_bias, summed, summed_keeping, column, row, vector])
def test_same_numbers_by_fewer_products(function) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(TASKS, N, K, generator=g, dtype=torch.float64)
    w = torch.randn(TASKS, K, M, generator=g, dtype=torch.float64)
    graph = make_fx(function, tracing_mode="fake")(x, w)
    before = sum(node.target in (BMM, BADDBMM) for node in graph.graph.nodes)
    rewrite_products(graph)
    after = sum(node.target in (BMM, BADDBMM) for node in graph.graph.nodes)
    assert after == before - 1
    torch.testing.assert_close(graph(x, w), function(x, w), rtol=1e-12, atol=1e-12)


def test_what_is_read_twice_or_differs_by_task_stays() -> None:
    def function(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.bmm(x, w)
        return y, y.sum(0)

    x, w = torch.randn(TASKS, N, K), torch.randn(TASKS, K, M)
    graph = make_fx(function, tracing_mode="fake")(x, w)
    rewrite_products(graph)
    assert sum(node.target is BMM for node in graph.graph.nodes) == 1
    for found, expected in zip(graph(x, w), function(x, w), strict=True):
        torch.testing.assert_close(found, expected)
