"""ResNet-12 against another way to write it, and its size against the published one."""

import pytest
import torch
import torch.nn.functional as F

from helpers.tasks import blobs
from upstairs.errors import UpstairsError
from upstairs.learners import ProtoNet
from upstairs.nets import resnet12
from upstairs.nets.norm import BatchNorm


def test_its_size() -> None:
    """Convolutions and norms of 64, 160, 320 and 640 channels: counted by hand, 12.4 million as is reported."""
    expected, before = 0, 3
    for own in (64, 160, 320, 640):
        expected += 9 * before * own + 2 * 9 * own * own + before * own + 4 * 2 * own
        before = own
    net = resnet12((3, 32, 32))
    assert sum(p.numel() for p in net.parameters()) == expected == 12_424_320
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 2560)


def test_it_is_a_residual_network() -> None:
    """Each block by torch's own batch norm, the activation before the pooling."""
    torch.manual_seed(0)
    net = resnet12((3, 32, 32), width=2, norm="batch", out=3).double()
    for m in net.modules():
        if isinstance(m, BatchNorm):
            torch.nn.init.normal_(m.weight), torch.nn.init.normal_(m.bias)
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    mine = net(x)
    for block in list(net)[:4]:
        norms = [lambda z, m=m: F.batch_norm(z, None, None, m.weight, m.bias, training=True) for m in block.norms]
        z = F.leaky_relu(norms[0](F.conv2d(x, block.convs[0].weight, padding=1)), 0.1)
        z = F.leaky_relu(norms[1](F.conv2d(z, block.convs[1].weight, padding=1)), 0.1)
        z = norms[2](F.conv2d(z, block.convs[2].weight, padding=1)) + norms[3](F.conv2d(x, block.convs[3].weight))
        x = F.max_pool2d(F.leaky_relu(z, 0.1), 2)
    assert torch.allclose(mine, F.linear(x.flatten(1), net.head.weight, net.head.bias), atol=1e-10)


def test_tasks_at_once_are_as_one_by_one() -> None:
    torch.manual_seed(0)
    learner = ProtoNet(resnet12((3, 16, 16), width=2), way=5).double()
    tasks = blobs(3, shot=1, query=1, shape=(3, 16, 16))
    tasks = type(tasks)(*(part._replace(x=part.x.double()) for part in tasks))
    losses, _ = learner(tasks)
    for i in range(3):
        one = type(tasks)(*(type(part)(*(leaf[i] for leaf in part)) for part in tasks))
        assert torch.allclose(losses[i], learner.meta_loss(one)[0], atol=1e-9)


def test_small_pictures_are_refused() -> None:
    with pytest.raises(UpstairsError, match="16x16"):
        resnet12((3, 12, 12))
