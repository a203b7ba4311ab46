"""Networks of texts against plain loops, and one learner class on texts as on pictures."""

import math
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from upstairs.core import Examples, Task
from upstairs.evaluate import evaluate
from upstairs.learners import ProtoNet, make_learner
from upstairs.learners.gradient import adapting
from upstairs.nets import TfIdf, bag
from upstairs.nets.mlp import Projection
from upstairs.tasks.episodes import Episodes
from upstairs.tasks.sources import Splits, split_by_ratio
from upstairs.tasks.text import TextFormat, text_source

FIRST = ["zo", "ka", "mi", "tu", "re", "lo", "pa", "ve", "su", "ni"]


def sentences(classes: int, seed: int = 0) -> Splits:
    """Each class has three words of its own, among others that say nothing."""
    rng = np.random.default_rng(seed)

    def word() -> str:
        return "".join(rng.choice(FIRST, 3))

    common = [word() for _ in range(30)]
    texts, labels = [], []
    for k in range(classes):
        own = [word() for _ in range(3)]
        for _ in range(8):
            texts.append(" ".join(rng.permutation([*rng.choice(own, 2, replace=False), *rng.choice(common, 5)])))
            labels.append(f"class {k:02d}")
    return split_by_ratio(text_source(texts, labels, name="sentences"))


def ids(*texts: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([TextFormat(4).read(text) for text in texts]).astype(np.float32))


def test_a_bag_is_the_weighted_sum_of_its_tokens() -> None:
    torch.manual_seed(0)
    net = bag(5)
    tokens = net.bag.tokens
    torch.nn.init.normal_(tokens.loudness.weight)
    x = ids("pay my bill", "jazz")
    for row, out in zip(x.long().tolist(), net(x), strict=True):
        total = sum(tokens.loudness.weight[t].exp() * tokens.vectors.weight[t] for word in row for t in word if t)
        torch.testing.assert_close(out, F.normalize(total, dim=0) * 5**0.5)


def test_tf_idf_by_hand() -> None:
    texts = ["pay my bill", "my my bill", "play jazz"]
    rows = np.stack([TextFormat(4).read(text) for text in texts])
    own = [Counter(row[row > 0].tolist()) for row in rows]
    idf = {t: 1 + math.log(4 / (1 + sum(t in other for other in own))) for counter in own for t in counter}
    out = TfIdf(rows)(torch.from_numpy(rows.astype(np.float32)))
    for counter, row in zip(own, out, strict=True):
        expected = {t: (1 + math.log(n)) * idf[t] for t, n in counter.items()}
        length = math.sqrt(sum(v * v for v in expected.values()))
        assert sorted(row.nonzero()[:, 0].tolist()) == sorted(expected)
        assert all(row[t].item() == pytest.approx(v / length, rel=1e-5) for t, v in expected.items())


def test_only_a_network_s_own_tokens_are_shared() -> None:
    """A module of the user's that is called `tokens` adapts as any other."""
    own = nn.Sequential(OrderedDict(body=nn.Sequential(OrderedDict(tokens=nn.Linear(3, 4))), head=nn.Linear(4, 2)))
    assert set(adapting(own)) == {n for n, _ in own.named_parameters()}
    assert set(adapting(bag(4, out=2))) == {"head.weight", "head.bias"}


def test_a_projection_starts_as_none() -> None:
    x = F.normalize(torch.randn(4, 9), dim=-1)
    torch.testing.assert_close(Projection(9)(x), 3 * x)


def test_all_tasks_at_once_are_each_task_alone() -> None:
    """The rule of bags under shared vectors, with their gradients."""
    torch.manual_seed(0)
    learner = ProtoNet(bag(6), way=2)
    x = ids("pay my bill", "jazz now", "pay it", "play jazz").expand(3, 4, 4, -1).clone()
    x[1] = x[1].flip(0)
    y, mask = torch.tensor([0, 1]).expand(3, 2), torch.ones(3, 2, dtype=torch.bool)
    tasks = Task(Examples(x[:, :2], y, mask), Examples(x[:, 2:], y, mask))
    losses, _ = learner(tasks)
    losses.sum().backward()
    grad = learner.encoder.bag.tokens.vectors.weight.grad.clone()
    learner.zero_grad()
    alone = torch.stack([learner(Task(*(Examples(*(v[i : i + 1] for v in e)) for e in tasks)))[0][0] for i in range(3)])
    alone.sum().backward()
    torch.testing.assert_close(losses, alone)
    torch.testing.assert_close(learner.encoder.bag.tokens.vectors.weight.grad, grad)


@pytest.mark.parametrize("name", ["protonet", "maml", "r2d2"])
def test_the_same_learner_learns_texts(name: str, tmp_path: Path) -> None:
    """By the table's own defaults, on sentences of classes that were not trained on."""
    import upstairs

    splits = sentences(60)
    run = upstairs.train(name, data=splits, out=tmp_path / name, steps=60, way=5, query=3, quiet=True, validations=1)
    assert run.settings.net == "bag"
    episodes = Episodes(splits.test, way=5, shot=1, query=5)
    scores = evaluate(run.learner, episodes, tasks=100)
    untrained = make_learner(run.settings, splits.train.feature_shape, run.settings.way)
    before = evaluate(untrained, episodes, tasks=100)
    assert scores["accuracy"] > before["accuracy"] + 0.03, (scores["accuracy"], before["accuracy"])
    model = run.adapt({"a": ["zokami turelo"], "b": ["paveni sumizo"]})
    assert model.predict(["zokami"]) == ["a"]
