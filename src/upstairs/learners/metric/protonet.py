"""Learners that compare a query's embedding with the support set's: ProtoNet, MatchingNet, RelationNet.

Each is an encoder with a head that is made anew for each task (`fit`) and asked about the queries (`logits`); the heads
that solve for their weights are in closed_form.py.
"""

from abc import abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from upstairs.core import Examples, Learner, LossFn, State, Task, cross_entropy
from upstairs.data.images.augment import crops
from upstairs.data.source import Source
from upstairs.data.text.embeddings import FrozenFormat
from upstairs.nets.embedding import embedding_size
from upstairs.nets.mlp import mlp
from upstairs.nets.norm import is_transductive

SCALE = 0.8  # factor of the squared distance, times the square root of its dimension


class Prototypes(NamedTuple):
    """A point (or a map) for each class, and which classes the support set had."""

    mean: Float[Tensor, "way *d"]
    seen: Bool[Tensor, " way"]


def members(support: Examples, way: int, like: Tensor) -> Float[Tensor, "n way"]:
    """1 where an example is of a class, in the kind of numbers of `like`; padding is of none."""
    return (F.one_hot(support.y, way) * support.mask[:, None]).to(like.dtype)


def class_means(z: Float[Tensor, "n *d"], support: Examples, way: int) -> Prototypes:
    """The mean of each class; zero where there is no example of it."""
    member = members(support, way, z)
    count = member.sum(0)
    mean = member.T @ z.flatten(1) / count[:, None].clamp(min=1)
    return Prototypes(mean.reshape(way, *z.shape[1:]), count > 0)


def only_seen(logits: Float[Tensor, "n way"], seen: Bool[Tensor, " way"]) -> Float[Tensor, "n way"]:
    """A class without a support example is never the answer."""
    return torch.where(seen, logits, torch.finfo(logits.dtype).min)


def by_distance(means: Prototypes, z: Float[Tensor, "n d"], scale: float | Tensor) -> Float[Tensor, "n way"]:
    """-scale * |z - c_k|^2 by one matrix product: n x way memory.

    No class differs in z's own square, but how far a query is from all of them says whether it is of any (openset.py).
    """
    c = means.mean
    distance = z.square().sum(-1, keepdim=True) - 2 * z @ c.T + c.square().sum(-1)
    return only_seen(-scale * distance, means.seen)


class MetricLearner(Learner[State]):
    """An encoder, and a head that a task's support embeddings decide; the encoder does not adapt.

    Args:
        encoder: any module from inputs to vectors (to maps, for RelationNet).
        way: classes that `predict` answers; the meta-parameters serve any number (`for_way`).
    """

    averages_views = True

    def __init__(self, encoder: nn.Module, *, way: int | None) -> None:
        super().__init__()
        self.encoder, self.way = encoder, way

    @abstractmethod
    def fit(self, z: Float[Tensor, "n *d"], support: Examples) -> State:
        """What is kept of the support set, whose inputs are embedded as `z`."""

    @abstractmethod
    def logits(self, state: State, z: Float[Tensor, "n *d"]) -> Float[Tensor, "n out"]:
        """Predictions for the inputs that are embedded as `z`."""

    @property
    def transductive(self) -> bool:
        return is_transductive(self)

    @property
    def embeds_alone(self) -> bool:
        """Not where a batch's statistics are used, nor where a subclass adapts or predicts in a way of its own."""
        own = (type(self).adapt, type(self).predict) != (MetricLearner.adapt, MetricLearner.predict)
        return not own and not self.transductive

    def features(self, x: Tensor) -> Float[Tensor, "n *d"]:
        """The encoder's; in use, the mean over as many views of each picture as `views` says (see `crops`)."""
        if self.training or self.views == 1:
            return self.encoder(x)
        return torch.stack([self.encoder(view) for view in crops(x, self.views)]).mean(0)

    def embed(self, x: Tensor) -> Float[Tensor, "n *d"]:
        """What the head sees of inputs."""
        return self.features(x)

    def adapt(self, support: Examples, /) -> State:
        return self.fit(self.embed(support.x), support)

    def predict(self, state: State, x: Tensor, /) -> Float[Tensor, "n out"]:
        return self.logits(state, self.embed(x))

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        """The query loss, with support and query embedded as one batch: one pass, and one set of statistics."""
        z = self.embed(torch.cat([task.support.x, task.query.x]))
        n = len(task.support.x)
        prediction = self.logits(self.fit(z[:n], task.support), z[n:])
        return task.query.mean(self.loss_fn(prediction, task.query.y)), prediction


class ProtoNet(MetricLearner[Prototypes]):
    """A class is the mean embedding of its support examples (Snell, Swersky and Zemel 2017).

        p(y = k | x)  ~  exp(-scale * |f(x) - c_k|^2),   c_k = mean of f(x_i) over the support examples of class k

    Args:
        encoder: any module from inputs to vectors.
        way: classes that `predict` answers; the meta-parameters serve any number (`for_way`).
        scale: factor of the squared distance (1 in the paper; smaller trains faster in high dimension). None is 0.8
            over the square root of the embeddings' length.
    """

    loss_fn: LossFn = staticmethod(cross_entropy)

    def __init__(self, encoder: nn.Module, *, way: int, scale: float | None = 1.0) -> None:
        super().__init__(encoder, way=way)
        self.scale = scale

    def fit(self, z: Float[Tensor, "n d"], support: Examples) -> Prototypes:
        return class_means(z, support, self.way)

    def logits(self, state: Prototypes, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return by_distance(state, z, SCALE / z.shape[-1] ** 0.5 if self.scale is None else self.scale)


class Cosine(ProtoNet):
    """Prototypes by the angle to them: logits = scale * cos(f(x), c_k), whatever the length of a class's mean."""

    def logits(self, state: Prototypes, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        cosine = F.normalize(z, dim=-1) @ F.normalize(state.mean, dim=-1).T
        return only_seen(cosine if self.scale is None else self.scale * cosine, state.seen)


class First(nn.Module):
    """The first row of each input."""

    def forward(self, x: Float[Tensor, "n rows d"]) -> Float[Tensor, "n d"]:
        return x[:, 0]


def nearest_centroid(source: Source | None = None, *, way: int) -> ProtoNet:
    """A baseline without learning: the nearest mean of the raw inputs, by Euclidean distance.

    Of a source with several readings of each text (`FrozenFormat`) by the first, the transformer's own.
    """
    form = source.format if source else None
    several = isinstance(form, FrozenFormat) and form.rows > 1
    return ProtoNet(First() if several else nn.Flatten(), way=way)


class Memory(NamedTuple):
    """The support set's directions, and whose they are."""

    z: Float[Tensor, "n d"]
    member: Float[Tensor, "n way"]


class MatchingNet(MetricLearner[Memory]):
    """A query's class is looked up in the support set by attention (Vinyals et al. 2016).

        p(y = k | x) = sum of a(x, x_i) over the support examples of class k,   a = softmax_i(scale * cos(f(x), f(x_i)))

    The scale (1 in the paper, where the softmax is then nearly flat) is learned. The paper's full context embeddings
    are left out: their LSTM reads the support set in an order, which a set does not have, so that the answer would
    depend on it.

    Args:
        encoder: any module from inputs to vectors.
        way: classes that `predict` answers; the meta-parameters serve any number (`for_way`).
        scale: of the cosine, at the start.
    """

    loss_fn: LossFn = staticmethod(cross_entropy)

    def __init__(self, encoder: nn.Module, *, way: int, scale: float = 10.0) -> None:
        super().__init__(encoder, way=way)
        self.log_scale = nn.Parameter(torch.tensor(scale).log())

    def fit(self, z: Float[Tensor, "n d"], support: Examples) -> Memory:
        return Memory(F.normalize(z, dim=-1), members(support, self.way, z))

    def logits(self, state: Memory, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        # log of sum of exp(scale * cos) over each class: its softmax over classes is the attention that they receive
        score = self.log_scale.exp() * F.normalize(z, dim=-1) @ state.z.T
        own = torch.where(state.member > 0, score[:, :, None], torch.finfo(z.dtype).min)
        return only_seen(own.logsumexp(1), state.member.sum(0) > 0)


def relation_error(score: Float[Tensor, "n way"], y: Tensor) -> Float[Tensor, " n"]:
    """Squared difference of each relation, sigmoid(score), and 1 for the true class, 0 for others (or y's shares)."""
    target = y if y.ndim == score.ndim else F.one_hot(y, score.shape[-1])
    return (score.sigmoid() - target).square().sum(-1)


class RelationNet(MetricLearner[Prototypes]):
    """The comparison itself is learned (Sung et al. 2018).

        r_k(x) = sigmoid(g([c_k, f(x)])),   loss = sum over k of (r_k - 1[y = k])^2

    c_k is the mean of the class's maps, where the paper has the sum: the same at 1 shot, and right at any other.
    Predictions are the scores before the sigmoid.

    Args:
        encoder: any module from inputs to maps [n, c, *space] or vectors [n, c].
        relation: any module from two of them, one after the other in c, to one number.
        way: classes that `predict` answers; the meta-parameters serve any number (`for_way`).
    """

    loss_fn: LossFn = staticmethod(relation_error)

    def __init__(self, encoder: nn.Module, relation: nn.Module, *, way: int) -> None:
        super().__init__(encoder, way=way)
        self.relation = relation

    def fit(self, z: Float[Tensor, "n *d"], support: Examples) -> Prototypes:
        return class_means(z, support, self.way)

    def logits(self, state: Prototypes, z: Float[Tensor, "n *d"]) -> Float[Tensor, "n way"]:
        n, way, *shape = len(z), self.way, *z.shape[1:]
        pairs = torch.cat([state.mean[None].expand(n, way, *shape), z[:, None].expand(n, way, *shape)], 2)
        return only_seen(self.relation(pairs.flatten(0, 1)).reshape(n, way), state.seen)


def protonet(encoder: nn.Module, *, way: int, scale: float | None = None) -> ProtoNet:
    """Prototypical network (Snell, Swersky and Zemel 2017): p(y = k | x) ~ exp(-scale |f(x) - c_k|^2); see `ProtoNet`.

    Args:
        encoder: any module from inputs to vectors.
        scale: None is 0.8 over the square root of the embeddings' length.
    """
    return ProtoNet(encoder, way=way, scale=scale)


def matchingnet(encoder: nn.Module, *, way: int, scale: float = 10.0) -> MatchingNet:
    """Matching network (Vinyals et al. 2016): p(y = k | x) = sum of softmax_i(scale cos(f(x), f(x_i))) over class k.

    Args:
        encoder: any module from inputs to vectors.
        scale: of the cosine, at the start; it is learned.
    """
    return MatchingNet(encoder, way=way, scale=scale)


def relationnet(
    encoder: nn.Module, relation: nn.Module | None = None, *, way: int, shape: tuple[int, ...] | None = None
) -> RelationNet:
    """Relation network (Sung et al. 2018): r_k(x) = sigmoid(g([c_k, f(x)])), trained to be 1 for the true class.

    Args:
        encoder: any module from inputs to vectors [n, c], or to maps [n, c, *space].
        relation: g, any module from two of these, one after the other in c, to one number. None is two linear layers,
            for vectors.
        shape: of one input; needed where the encoder does not say it (see `embedding_size`).
    """
    if relation is None:
        relation = mlp((2 * embedding_size(encoder, shape),), widths=(64,), out=1)
    return RelationNet(encoder, relation, way=way)
