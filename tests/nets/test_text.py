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
from upstairs.data.episodes import Episodes
from upstairs.data.splits import Splits, split_by_ratio
from upstairs.data.text.hashed import TOKENS, TextFormat, text_source
from upstairs.engine.evaluate import evaluate
from upstairs.learners import ProtoNet, make_learner
from upstairs.learners.gradient.maml import adapting
from upstairs.nets import TfIdf, begin_at_idf, begin_centred, projection, text_net
from upstairs.nets.mlp import Projection
from upstairs.nets.text import PLACES, READINGS, Tokens

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


def make(name: str, width: int = 8, words: int = 4) -> nn.Module:
    """With weights that are not those at the start."""
    torch.manual_seed(0)
    net = text_net(name, width, words=words)
    for tokens in (module for module in net.modules() if isinstance(module, Tokens)):
        nn.init.normal_(tokens.loudness.weight)
        nn.init.normal_(tokens.of_place)
    return net


def test_a_bag_is_the_weighted_sum_of_its_tokens() -> None:
    net = make("bag", 5)
    tokens, sketch = net.bag.tokens, net.bag.sketch
    x = ids("my my bill", "jazz")
    for row, out in zip(x.long().tolist(), net(x), strict=True):
        count = Counter(t for word in row for t in word if t)
        places, vector = torch.zeros(PLACES), torch.zeros(5)
        for place, t in ((place, t) for word in row for place, t in enumerate(word) if t):
            loud = tokens.loudness.weight[t].exp() * tokens.of_place[place].exp()
            weight = (1 + math.log(count[t])) / count[t] * loud.item()
            places[sketch.place[t]] += weight * sketch.sign[t]
            vector += weight * tokens.vectors.weight[t]
        both = torch.cat([F.normalize(places, dim=0), 0.3 * F.normalize(vector, dim=0)])
        torch.testing.assert_close(out, 10 * F.normalize(both, dim=0))


@pytest.mark.parametrize("name", READINGS)
def test_a_text_net_starts_as_tf_idf(name: str) -> None:
    """What stands at each place is the sum of the TF-IDF of the tokens there, each with its sign."""
    rows = np.stack([TextFormat(4).read(text) for text in ("pay my bill", "my my bill", "play jazz")])
    net, x = text_net(name, 8, words=4), torch.from_numpy(rows.astype(np.float32))
    begin_at_idf(net, [rows])
    own = getattr(net, name)
    sketch = net(x)[:, :PLACES]
    signed = torch.zeros(3, PLACES).index_add(1, own.sketch.place, TfIdf(rows)(x) * own.sketch.sign)
    torch.testing.assert_close(F.normalize(sketch, dim=1), F.normalize(signed, dim=1))
    share = F.normalize(net(x), dim=1)[:, PLACES:].norm(dim=1)
    torch.testing.assert_close(share, torch.full((3,), 0.3 / math.hypot(1, 0.3)))


@pytest.mark.parametrize("name", READINGS)
def test_padding_says_nothing(name: str) -> None:
    """Nor do the other texts of a batch."""
    net = make(name, words=6)
    wide = F.pad(ids("pay my bill", "play jazz now please"), (0, 0, 0, 2))
    out = net(wide)
    if name != "transformer":  # it has a vector for each of its words' places
        torch.testing.assert_close(net(wide[:1, :3]), out[:1])
    torch.testing.assert_close(net(wide[1:]), out[1:])
    noise = wide.clone()
    noise[1] = 7.0
    torch.testing.assert_close(net(noise)[:1], out[:1])


def test_the_order_of_words_matters_to_a_cnn_and_a_transformer() -> None:
    x, y = torch.zeros(2, 1, 4, TOKENS)
    x[0, :3, 0], y[0, :3, 0] = torch.tensor([5.0, 6.0, 7.0]), torch.tensor([7.0, 5.0, 6.0])
    for name in READINGS:
        net = make(name)
        assert torch.allclose(net(x), net(y), atol=1e-5) == (name == "bag"), name


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
    assert set(adapting(text_net("bag", 4, words=4, out=2))) == {"head.weight", "head.bias", "bag.log_share"}


def test_a_projection_starts_as_none() -> None:
    x = F.normalize(torch.randn(4, 9), dim=-1)
    torch.testing.assert_close(Projection((9,))(x), 3 * x)


def test_a_projection_of_readings_takes_their_mean_away() -> None:
    """Of three readings it reads two, the earlier layer's with less weight; the mean of what it began at becomes 0."""
    x = F.normalize(torch.randn(50, 3, 8), dim=-1)
    net = projection((3, 8), out=4)
    body = net.get_submodule("projection")
    assert isinstance(body, Projection) and net(x).shape == (50, 4)
    first, both = x[:, 1] @ x[:, 1].T, x[:, 2] @ x[:, 2].T
    torch.testing.assert_close(body(x) @ body(x).T / 16, (first + 0.36 * both) / 1.36)
    begin_centred(net, [x[:20].numpy(), x[20:].numpy()])
    torch.testing.assert_close(body.linear(body.read(x)).mean(0), torch.zeros(16), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", READINGS)
def test_all_tasks_at_once_are_each_task_alone(name: str) -> None:
    """The rule of bags under shared vectors, with their gradients."""
    learner = ProtoNet(make(name), way=2)
    x = ids("pay my bill", "jazz now", "pay it", "play jazz").expand(3, 4, 4, -1).clone()
    x[1] = x[1].flip(0)
    y, mask = torch.tensor([0, 1]).expand(3, 2), torch.ones(3, 2, dtype=torch.bool)
    tasks = Task(Examples(x[:, :2], y, mask), Examples(x[:, 2:], y, mask))
    losses, _ = learner(tasks)
    losses.sum().backward()
    grads = {n: p.grad.clone() for n, p in learner.named_parameters()}
    learner.zero_grad()
    alone = torch.stack([learner(Task(*(Examples(*(v[i : i + 1] for v in e)) for e in tasks)))[0][0] for i in range(3)])
    alone.sum().backward()
    torch.testing.assert_close(losses, alone)
    for n, p in learner.named_parameters():
        torch.testing.assert_close(p.grad, grads[n], atol=1e-4, rtol=1e-3, msg=n)


def test_a_learner_of_pictures_learns_texts(tmp_path: Path) -> None:
    """By the table's own defaults, on sentences of classes that were not trained on."""
    import upstairs

    splits = sentences(60)
    asked = {"steps": 25, "way": 5, "query": 3, "width": 8, "validations": 1, "validation_tasks": 10}
    run = upstairs.train("r2d2", data=splits, out=tmp_path / "run", quiet=True, **asked)
    assert run.settings.net == "bag"
    episodes = Episodes(splits.test, way=5, shot=1, query=5)
    scores = evaluate(run.learner, episodes, tasks=60)
    untrained = make_learner(run.settings, splits.train.feature_shape, run.settings.way)
    before = evaluate(untrained, episodes, tasks=60)
    assert scores["accuracy"] > before["accuracy"] + 0.03, (scores["accuracy"], before["accuracy"])
    model = run.adapt({"a": ["zokami turelo"], "b": ["paveni sumizo"]})
    assert model.predict(["zokami"]) == ["a"]
