"""Rewrites the batched matrix products of a traced meta-step as fewer and larger ones, summed in another order.

    x_t W              with one W for all tasks     ->  one product of all rows
    sum_t a_t^T b_t    the sum over tasks           ->  one product over all rows
    a b^T, of one column or one row                 ->  a product of single values, which inductor fuses with others

The time of a small network is the number of products: each costs some 10 microseconds, however small it is.

A scaled sum, p + alpha g, is written as two operations: inductor (torch 2.13) fuses p + a b and drops alpha.
"""

from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

aten = torch.ops.aten
BMM, BADDBMM, SUM, ADD = aten.bmm.default, aten.baddbmm.default, aten.sum.dim_IntList, aten.add.Tensor


def rewrite_products(module: GraphModule) -> None:
    """Rewrites in place; nodes without the `meta["val"]` of make_fx on fake tensors stay as they are."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is ADD and "alpha" in node.kwargs:
            with graph.inserting_before(node):
                to, added = _args(node)
                scaled = _call(graph, aten.mul.Tensor, added, node.kwargs["alpha"])
                _replace(node, _call(graph, ADD, to, scaled))
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target is not SUM or "dtype" in node.kwargs:
            continue
        if len(node.args) > 1 and list(_args(node)[1]) == [0]:  # over tasks
            with graph.inserting_before(node):
                total = _summed(graph, _args(node)[0])
                if total is not None:
                    _replace(node, total)
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in (BMM, BADDBMM) and node.users:
            with graph.inserting_before(node):
                product = _product(graph, node)
                if product is not None:
                    _replace(node, product)
    graph.eliminate_dead_code()
    module.recompile()


def _args(node: Node) -> tuple[Any, ...]:
    return node.args


def _replace(node: Node, value: Node) -> None:
    size = list(node.meta["val"].shape)
    if list(value.meta["val"].shape) != size:
        value = _call(node.graph, aten.view.default, value, size)
    node.replace_all_uses_with(value)


def _call(graph: Graph, function: Any, *args: Any) -> Node:
    """Adds a node, with the shape and strides of its value."""
    node = graph.call_function(function, args)
    node.meta["val"] = function(*(a.meta["val"] if isinstance(a, Node) else a for a in args))
    return node


def _summed(graph: Graph, node: Any) -> Node | None:
    """Returns the sum over axis 0 of [task, k, m] as one product, if it contains a product of matrices."""
    if node.op != "call_function" or len(node.users) > 1 or "val" not in node.meta:
        return None
    if node.target is ADD and not node.kwargs:
        parts = [_summed(graph, part) if isinstance(part, Node) else None for part in _args(node)]
        if all(part is None for part in parts):
            return None
        shapes = {tuple(part.meta["val"].shape) for part in node.args if isinstance(part, Node)}
        if len(shapes) > 1 or len(node.args) != 2 or not all(isinstance(part, Node) for part in node.args):
            return None
        sums = [
            _call(graph, SUM, part, [0]) if done is None else done
            for part, done in zip(_args(node), parts, strict=True)
        ]  # fmt: skip
        return _call(graph, ADD, *sums)
    if node.target is not BMM:
        return None
    a, b = _args(node)  # [task, k, n], [task, n, m]
    k, m = a.meta["val"].shape[1], b.meta["val"].shape[2]
    left = _call(graph, aten.permute.default, a, [1, 0, 2])
    left = _call(graph, aten.reshape.default, left, [k, -1])
    right = _call(graph, aten.reshape.default, b, [-1, m])
    return _call(graph, aten.mm.default, left, right)


def _product(graph: Graph, node: Node) -> Node | None:
    """Returns x_t W with a shared W, or a product of one column or one row."""
    bias, a, b = _args(node) if node.target is BADDBMM else (None, *_args(node))
    if not all("val" in part.meta for part in (a, b)) or node.kwargs:
        return None
    (tasks, n, k), m = a.meta["val"].shape, b.meta["val"].shape[2]
    if k == 1:
        out = _call(graph, aten.mul.Tensor, a, b)
    elif n == 1 or m == 1:
        rows = _call(graph, aten.unsqueeze.default, a, -1)  # [task, n, k, 1]
        columns = _call(graph, aten.unsqueeze.default, b, 1)  # [task, 1, k, m]
        out = _call(graph, SUM, _call(graph, aten.mul.Tensor, rows, columns), [2])
    elif b.meta["val"].stride(0) == 0 and tasks > 1 and a.meta["val"].is_contiguous():
        shared = _call(graph, aten.select.int, b, 0, 0)
        rows = _call(graph, aten.reshape.default, a, [-1, k])
        out = _call(graph, aten.view.default, _call(graph, aten.mm.default, rows, shared), [tasks, n, m])
    else:
        return None
    return out if bias is None else _call(graph, ADD, bias, out)
