"""Metric learners against plain numpy, one example after another."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.tasks import WAY, blobs, double
from upstairs.core import Examples, Task
from upstairs.engine.calibrate import calibrate
from upstairs.learners import BDCSPN, BaselinePlusPlus, CoTraining, MatchingNet, ProtoNet, RelationNet, SimpleShot
from upstairs.nets import BatchNorm, relation_conv
from upstairs.tree import index


def task_and_embeddings(net: nn.Module, seed: int = 0) -> tuple[Task, np.ndarray, np.ndarray, np.ndarray]:
    """A task in float64, and as arrays: support embeddings, their classes, query embeddings."""
    task = index(double(blobs(1, seed, shot=3)), 0)
    return task, net(task.support.x).detach().numpy(), task.support.y.numpy(), net(task.query.x).detach().numpy()


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh()).double()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


def answer(learner: nn.Module, task: Task) -> np.ndarray:
    return learner.predict(learner.adapt(task.support), task.query.x).detach().numpy()


def test_protonet_logits_are_scaled_squared_distances() -> None:
    task, z, y, queries = task_and_embeddings(net := encoder())
    means = [z[y == k].mean(0) for k in range(WAY)]
    expected = [[-0.3 * ((q - c) ** 2).sum() for c in means] for q in queries]
    np.testing.assert_allclose(answer(ProtoNet(net, way=WAY, scale=0.3), task), expected, rtol=1e-10)


def test_matchingnet_is_attention_by_cosine() -> None:
    task, z, y, queries = task_and_embeddings(net := encoder())
    expected = []
    for q in queries:
        weight = np.array([math.exp(4 * cosine(q, s)) for s in z])
        expected.append([weight[y == k].sum() / weight.sum() for k in range(WAY)])
    logits = torch.from_numpy(answer(MatchingNet(net, way=WAY, scale=4.0).double(), task))
    np.testing.assert_allclose(logits.softmax(-1), expected, rtol=1e-6)


@pytest.mark.parametrize("images", [False, True])
def test_relationnet_asks_about_each_pair_alone(images: bool) -> None:
    torch.manual_seed(0)
    if images:
        net, relation = relation_conv((1, 16, 16), width=4, norm="group")
        task = index(double(blobs(1, shape=(1, 16, 16))), 0)
    else:
        net, relation = nn.Linear(8, 3), nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
        task = index(double(blobs(1)), 0)
    learner = RelationNet(net, relation, way=WAY).double()
    with torch.no_grad():
        z, queries = net(task.support.x), net(task.query.x)
        means = [z[task.support.y == k].mean(0) for k in range(WAY)]
        expected = torch.stack([torch.cat([relation(torch.cat([c, q])[None])[0] for c in means]) for q in queries])
    torch.testing.assert_close(torch.from_numpy(answer(learner, task)), expected, rtol=1e-9, atol=1e-9)
    relations = 1 / (1 + np.exp(-expected.numpy()))
    errors = [
        sum((r - (k == label)) ** 2 for k, r in enumerate(row))
        for row, label in zip(relations, task.query.y.tolist(), strict=True)
    ]
    assert learner.meta_loss(task)[0].item() == pytest.approx(np.mean(errors))


def test_simpleshot_centres_normalises_and_takes_the_nearest_mean() -> None:
    task, z, y, queries = task_and_embeddings(net := encoder())
    learner = SimpleShot(net, 6, classes=9, way=WAY, centred=True, scale=2.0).double().eval()
    learner.centre.mean.copy_(mean := torch.linspace(-1, 1, 6, dtype=torch.float64))

    def normal(v: np.ndarray) -> np.ndarray:
        v = v - mean.numpy()
        return v / math.sqrt(v @ v)

    means = [np.mean([normal(s) for s in z[y == k]], axis=0) for k in range(WAY)]
    expected = [[-((normal(q) - c) ** 2).sum() for c in means] for q in queries]
    np.testing.assert_allclose(answer(learner, task), expected, rtol=1e-6)


def test_co_training_has_both_losses_on_one_batch() -> None:
    """Against numpy: the classes of the task have the numbers 7, 2 and 5 of nine."""
    torch.manual_seed(0)
    learner = CoTraining(nn.Linear(8, 4), 4, classes=9, way=3).double()
    x, y = torch.randn(1, 9, 8).double(), torch.tensor([[7, 7, 2, 5, 2, 5, 7, 5, 2]])
    real = torch.tensor([[True] * 8 + [False]])
    task = Task(Examples(x[:, :4], y[:, :4], real[:, :4]), Examples(x[:, 4:], y[:, 4:], real[:, 4:]))
    losses, predictions = learner(task)
    w = learner.head.weight.detach().numpy()
    z = learner.encoder(x[0]).detach().numpy()
    z, w = z / np.linalg.norm(z, axis=1, keepdims=True), w / np.linalg.norm(w, axis=1, keepdims=True)

    def cross_entropy(logits: np.ndarray, k: int) -> float:
        return float(np.log(np.exp(logits).sum()) - logits[k])

    all_classes = np.mean([cross_entropy(20 * z[i] @ w.T, int(y[0, i])) for i in range(8)])
    means = np.stack([z[:2].mean(0), z[2], z[3]])
    squares = ((z[4:, None] - means) ** 2).sum(-1)
    places = enumerate([1, 2, 0, 2])  # of 2, 5, 7 and 5 among the task's classes
    episode = np.mean([cross_entropy(-5 * squares[i], k) for i, k in places])
    assert losses[0].item() == pytest.approx((all_classes + episode) / 2)
    mine = predictions[0][:, [7, 2, 5]].detach().numpy()
    expected = -5 * (squares - 1)  # the same for every class of a query: its own square
    np.testing.assert_allclose(
        mine - mine.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True), atol=1e-9
    )
    assert (predictions[0][:, [0, 1, 3]] < -1e30).all()


def test_the_centre_is_the_mean_feature_of_the_training_tasks() -> None:
    net = encoder()
    learner = SimpleShot(net, 6, classes=9, way=WAY, centred=True).double()
    tasks = [double(blobs(2, seed)) for seed in range(3)]
    calibrate(learner, tasks)
    every = torch.cat([part.x.flatten(0, 1) for t in tasks for part in t])
    torch.testing.assert_close(learner.centre.mean, net(every).mean(0))
    assert learner.training
    expected = torch.nn.functional.normalize(net(every), dim=-1)
    torch.testing.assert_close(learner.embed(every), expected)  # in training nothing is centred


def test_an_encoder_is_trained_by_ordinary_classification() -> None:
    torch.manual_seed(0)
    learner = SimpleShot(nn.Linear(8, 4), 4, classes=9, way=3, centred=True, scale=7.0)
    x, y = torch.randn(1, 10, 8), torch.randint(9, (1, 10))
    real = torch.tensor([[True] * 9 + [False]])
    task = Task(Examples(x[:, :4], y[:, :4], real[:, :4]), Examples(x[:, 4:], y[:, 4:], real[:, 4:]))
    losses, predictions = learner(task)
    z, w = learner.encoder(x[0]), learner.head.weight
    logits = 7 * (z @ w.T) / z.norm(dim=1, keepdim=True) / w.norm(dim=1)
    torch.testing.assert_close(losses[0], torch.nn.functional.cross_entropy(logits[:9], y[0, :9]))
    torch.testing.assert_close(predictions[0], logits[4:])


def test_baseline_pp_descends_on_the_head_alone() -> None:
    """Against torch's own optimiser on a weight matrix."""
    task, z, y, queries = task_and_embeddings(net := encoder())
    learner = BaselinePlusPlus(net, 6, classes=9, way=WAY, scale=5.0, inner_lr=0.3, steps=7).double()
    lengths = np.linalg.norm(z, axis=1, keepdims=True)
    start = np.stack([(z / lengths)[y == k].mean(0) for k in range(WAY)])
    w = torch.from_numpy(start.copy()).requires_grad_()

    def logits(points: np.ndarray) -> Tensor:
        return 5 * torch.nn.functional.cosine_similarity(torch.from_numpy(points)[:, None], w[None], dim=-1)

    optimizer = torch.optim.SGD([w], lr=0.3)
    for _ in range(7):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits(z), torch.from_numpy(y)).backward()
        optimizer.step()
    np.testing.assert_allclose(answer(learner, task), logits(queries).detach(), rtol=1e-5, atol=1e-5)
    assert not np.allclose(w.detach(), start, atol=1e-3)


@pytest.mark.parametrize("most", [1, 2, 8])
def test_bd_cspn_by_loops(most: int) -> None:
    task, z, y, queries = task_and_embeddings(net := encoder())
    learner = BDCSPN(net, 6, classes=9, way=WAY, scale=3.0).double()
    learner.most = most
    z, q = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (z, queries))
    q = q + z.mean(0) - q.mean(0)
    means = [z[y == k].mean(0) for k in range(WAY)]
    near = np.array([[cosine(v, c) for c in means] for v in q])
    labels, rectified = near.argmax(1), []
    for k in range(WAY):
        surest = sorted(range(len(q)), key=lambda i: -near[i, k])[:most]
        own = [*z[y == k], *(q[i] / math.sqrt(q[i] @ q[i]) for i in surest if labels[i] == k)]
        weight = np.array([math.exp(10 * cosine(v, means[k])) for v in own])
        rectified.append(sum(w * v for w, v in zip(weight / weight.sum(), own, strict=True)))
    expected = [[3 * cosine(v, c) for c in rectified] for v in q]
    np.testing.assert_allclose(answer(learner, task), expected, rtol=1e-6)


def test_bd_cspn_gains_where_the_queries_are_shifted() -> None:
    """A cross-class bias of the queries is what it takes away: 40 tasks, none lost, many won."""
    torch.manual_seed(0)
    tasks = blobs(40, shot=1, query=10)
    shifted = tasks._replace(query=tasks.query._replace(x=tasks.query.x + 4 * torch.randn(40, 1, 8)))

    def accuracy(learner: nn.Module) -> float:
        return (learner.solve(shifted).argmax(-1) == shifted.query.y).float().mean().item()

    own, plain = (make(nn.Identity(), 8, classes=9, way=WAY) for make in (BDCSPN, SimpleShot))
    assert own.transductive
    assert not plain.transductive
    assert accuracy(own) > accuracy(plain) + 0.2


@pytest.mark.parametrize("make", [ProtoNet, MatchingNet, SimpleShot, BaselinePlusPlus, BDCSPN])
def test_a_class_that_is_not_in_the_support_set_is_never_the_answer(make) -> None:
    own = {} if make in (ProtoNet, MatchingNet) else {"size": 6, "classes": 9}
    learner = make(nn.Linear(8, 6), way=WAY, **own)
    support, query = index(blobs(1), 0)
    without = support._replace(mask=support.mask & (support.y != 2))
    prediction = learner.predict(learner.adapt(without), query.x)
    assert (prediction.argmax(-1) != 2).all()
    assert prediction.isfinite().all()


def test_norm_inside_the_relation_makes_it_transductive() -> None:
    plain = RelationNet(nn.Linear(8, 3), nn.Linear(6, 1), way=WAY)
    assert not plain.transductive
    assert RelationNet(nn.Linear(8, 3), nn.Sequential(BatchNorm(6), nn.Linear(6, 1)), way=WAY).transductive


def test_more_classes_than_in_training() -> None:
    learner = MatchingNet(nn.Linear(8, 6), way=2).for_way(WAY)
    task = index(blobs(1), 0)
    assert learner.predict(learner.adapt(Examples(*task.support)), task.query.x).shape == (15, WAY)
