"""Learning of structure, against MAML where both are one, and against closed forms."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from helpers.tasks import WAY, blobs, double, sinusoids
from upstairs.core import squared_error
from upstairs.engine.meta_backward import meta_backward
from upstairs.errors import UpstairsError
from upstairs.learners import maml, sparse_maml, t_net, transformed
from upstairs.nets import conv4
from upstairs.tree import index


def test_a_mask_of_ones_is_maml() -> None:
    torch.manual_seed(0)
    net, tasks = conv4((1, 16, 16), width=6, norm="batch", out=WAY).double(), double(blobs(3, shape=(1, 16, 16)))
    expected = meta_backward(maml(net, way=WAY, steps=2), tasks)
    grads = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    found = meta_backward(sparse_maml(net, way=WAY, steps=2), tasks)
    # up to rounding: plain descent scales the loss, and this rule the gradient
    torch.testing.assert_close(found.predictions, expected.predictions, rtol=1e-12, atol=1e-12)
    for p, g in zip(net.parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-12, atol=1e-12)


def test_a_mask_by_hand() -> None:
    """f(x) = w x, w = (1, 1), one example (2, 1) -> 0, squared error: inner gradient 2 * 3 * (2, 1) = (12, 6).

    Only the first weight adapts, at rate 0.1: phi = (-0.2, 1). The query (1, 1) -> 0 has loss 0.64 and
    gradient in phi 2 * 0.8 * (1, 1). Straight through, d loss / d m = -0.1 * (12, 6) * (1.6, 1.6).
    """
    net = nn.Sequential(nn.Linear(2, 1, bias=False)).double()
    nn.init.ones_(net[0].weight)
    learner = sparse_maml(net, way=None, inner_lr=0.1, steps=1)
    learner.rule.scores[0].data = torch.tensor([[0.3, -0.3]], dtype=torch.float64)
    tasks = double(sinusoids(1, n=1))
    support = tasks.support._replace(x=torch.tensor([[[2.0, 1.0]]]).double(), y=torch.zeros(1, 1, 1).double())
    query = support._replace(x=torch.ones(1, 1, 2).double())
    tasks = tasks._replace(support=support, query=query)
    step = meta_backward(learner, tasks)
    torch.testing.assert_close(step.losses, torch.tensor([0.64]).double())
    torch.testing.assert_close(learner.rule.scores[0].grad, torch.tensor([[-1.92, -0.96]]).double())
    assert learner.rule.adapting() == {"0.weight": 0.5}


def test_identity_transforms_are_maml() -> None:
    torch.manual_seed(0)
    net, tasks = conv4((1, 16, 16), width=6, norm="batch", out=WAY).double(), double(blobs(3, shape=(1, 16, 16)))
    learner = t_net(transformed(net), way=WAY, steps=2)
    expected, found = meta_backward(maml(net, way=WAY, steps=2), tasks), meta_backward(learner, tasks)
    torch.testing.assert_close(found.predictions, expected.predictions, rtol=1e-10, atol=1e-10)
    own = {name.replace(".layer", ""): p for name, p in learner.net.named_parameters()}
    for name, p in net.named_parameters():
        torch.testing.assert_close(own[name].grad, p.grad, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("make", [lambda: nn.Linear(3, 2), lambda: nn.Conv2d(2, 3, 3)])
def test_transformed_is_a_layer_and_a_map_after_it(make) -> None:
    torch.manual_seed(0)
    layer = make().double()
    own = transformed(nn.Sequential(layer))
    matrix = torch.randn_like(own[0].transform)
    own[0].transform.data = matrix
    x = torch.randn(4, 3).double() if isinstance(layer, nn.Linear) else torch.randn(4, 2, 5, 5).double()
    expected = torch.einsum("oc,nc...->no...", matrix, layer(x))
    torch.testing.assert_close(own(x), expected)


def test_t_net_descends_in_its_metric() -> None:
    """A linear model y = T W x: a step moves T W by -rate * T T' G, G the gradient of a plain model in T W."""
    torch.manual_seed(0)
    net = transformed(nn.Sequential(nn.Linear(3, 2, bias=False))).double()
    net[0].transform.data = torch.randn(2, 2).double()
    learner = t_net(net, way=None, inner_lr=0.05, steps=1)
    x, y = torch.randn(6, 3).double(), torch.randn(6, 2).double()
    support = index(double(sinusoids(1, n=6)), 0).support._replace(x=x, y=y)
    matrix, weight = net[0].transform.detach(), net[0].layer.weight.detach()
    before = matrix @ weight
    gradient = 2 * (x @ before.T - y).T @ x / 6  # of the mean squared error
    after = matrix @ learner.adapt(support)["0.layer.weight"]
    torch.testing.assert_close(after, before - 0.05 * matrix @ matrix.T @ gradient)


def test_t_net_gradcheck() -> None:
    torch.manual_seed(0)
    net = transformed(nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))).double()
    learner, tasks = t_net(net, way=None, inner_lr=0.05, steps=2, loss_fn=squared_error), double(sinusoids(2))
    names = [name for name, _ in learner.named_parameters()]

    def loss(*values: torch.Tensor) -> torch.Tensor:
        return functional_call(learner, dict(zip(names, values, strict=True)), (tasks,))[0].mean()

    assert torch.autograd.gradcheck(loss, tuple(learner.parameters()))


def test_nothing_to_transform_is_refused() -> None:
    with pytest.raises(UpstairsError, match="no linear layer or convolution inside"):
        transformed(nn.Sequential(nn.Flatten()))
