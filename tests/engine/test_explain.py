"""What ran how and why; what cannot be differentiated twice; numbers of half precision."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from helpers.tasks import WAY, blobs
from upstairs.engine.explain import explain, preflight
from upstairs.engine.meta_backward import meta_backward
from upstairs.errors import NonFiniteError, UpstairsError
from upstairs.functional.derivatives import twice
from upstairs.functional.differentiate import FirstOrder
from upstairs.learners import ProtoNet, fomaml, maml
from upstairs.nets import conv4, mlp


def test_native_rules_are_told() -> None:
    report = explain(maml(conv4((1, 16, 16), width=4, norm="batch", out=WAY), way=WAY), blobs(2, shape=(1, 16, 16)))
    assert report.how == "stacked"
    hows = {(function, how) for function, how, _ in report.functions}
    assert {("conv2d", "stacked"), ("batch_norm", "stacked"), ("linear", "stacked")} <= hows
    assert all(how == "stacked" for _, how in hows)
    assert "conv2d" in str(report)


def test_a_function_without_a_rule_goes_by_vmap_and_a_branch_by_a_loop() -> None:
    class Odd(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tril(super().forward(x), 2)

    report = explain(maml(Odd(8, WAY), way=WAY), blobs(2))
    assert report.how == "stacked"
    assert report.functions["tril", "vmap", "Odd"] == "it has no rule"

    class Branch(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (2 if x.mean() > 0 else 1)

    report = explain(maml(Branch(8, WAY), way=WAY), blobs(2))
    assert report.how == "loop"
    assert "a branch depends on the values of one task" in report.why and "vmap:" in report.why


def test_one_simple_task_is_plain() -> None:
    assert explain(maml(mlp((8,), out=WAY), way=WAY), blobs(1)).how == "plain"


class Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 0.5 * x

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return 0.5 * grad


def test_preflight_names_what_cannot_be_differentiated_twice() -> None:
    class Once(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return Half.apply(super().forward(x))

    tasks = blobs(2)
    for check in (preflight, meta_backward):
        with pytest.raises(UpstairsError, match=r"once_differentiable.*FirstOrder"):
            check(maml(Once(8, WAY), way=WAY), tasks)
    preflight(fomaml(Once(8, WAY), way=WAY), tasks)

    message = "derivative for aten::_scaled_dot_product_flash_attention_for_cpu_backward is not implemented"
    assert "'_scaled_dot_product_flash_attention_for_cpu' cannot be differentiated twice" in (twice(message) or "")
    assert "sdpa_kernel(SDPBackend.MATH)" in (twice(message) or "")
    assert twice("something else") is None


def test_half_precision_is_refused_for_second_derivatives() -> None:
    torch.manual_seed(0)
    tasks = blobs(2)
    exact = maml(mlp((8,), out=WAY), way=WAY)
    with pytest.raises(UpstairsError, match="second derivatives, which bf16 ruins"):
        meta_backward(exact, tasks, precision="bf16")
    meta_backward(exact, tasks, precision="bf16-unsafe")
    meta_backward(exact, tasks, precision="bf16", differentiate=FirstOrder())
    metric = ProtoNet(mlp((8,)), way=WAY)
    full, half = meta_backward(metric, tasks).losses, meta_backward(metric, tasks, precision="bf16").losses
    torch.testing.assert_close(half.float(), full, rtol=0.1, atol=0.1)
    assert not torch.equal(half.float(), full)


def test_one_bad_task_does_not_touch_the_others() -> None:
    torch.manual_seed(0)
    learner, tasks = maml(mlp((8,), out=WAY), way=WAY, inner_lr=0.1), blobs(4)
    good = learner(tasks)[0]
    tasks.support.x[2] = float("nan")
    losses = learner(tasks)[0]
    assert losses[2].isnan()
    torch.testing.assert_close(losses[[0, 1, 3]], good[[0, 1, 3]])
    with pytest.raises(NonFiniteError, match="task 2"):
        meta_backward(learner, tasks)
