"""Metric learners, which compare embeddings of queries and support examples: ProtoNet, MatchingNet, RelationNet.

Each is an encoder with a head that is computed for each task (`fit`) and predicts the queries (`logits`); heads with a
convex solver are in closed_form.py.
"""

from abc import abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from upstairs.core import Examples, Learner, LossFn, State, Task, cross_entropy
from upstairs.data.encoded.format import EncodedFormat
from upstairs.data.images.augment import crops
from upstairs.data.source import Source
from upstairs.data.text.embeddings import FrozenFormat
from upstairs.nets.embedding import embedding_size
from upstairs.nets.mlp import mlp
from upstairs.nets.norm import is_transductive

SCALE = 0.8  # default factor of the squared distance, before division by the square root of the dimension


class Prototypes(NamedTuple):
    """A point (or a map) for each class, and which classes occur in the support set."""

    mean: Float[Tensor, "way *d"]
    seen: Bool[Tensor, " way"]


def members(support: Examples, way: int, like: Tensor) -> Float[Tensor, "n way"]:
    """Returns class membership as 0 and 1 in the dtype of `like`; padding belongs to no class."""
    return (F.one_hot(support.y, way) * support.mask[:, None]).to(like.dtype)


def class_means(z: Float[Tensor, "n *d"], support: Examples, way: int) -> Prototypes:
    """Returns the mean of each class; zero for a class without examples."""
    member = members(support, way, z)
    count = member.sum(0)
    mean = member.T @ z.flatten(1) / count[:, None].clamp(min=1)
    return Prototypes(mean.reshape(way, *z.shape[1:]), count > 0)


def only_seen(logits: Float[Tensor, "n way"], seen: Bool[Tensor, " way"]) -> Float[Tensor, "n way"]:
    """Sets the logits of classes without a support example to the lowest number."""
    return torch.where(seen, logits, torch.finfo(logits.dtype).min)


def by_distance(means: Prototypes, z: Float[Tensor, "n d"], scale: float | Tensor) -> Float[Tensor, "n way"]:
    """Returns -scale * |z - c_k|^2 by one matrix product: n x way memory.

    |z|^2 is equal for all classes, but the open-set threshold (open_set.py) needs the true distance.
    """
    c = means.mean
    distance = z.square().sum(-1, keepdim=True) - 2 * z @ c.T + c.square().sum(-1)
    return only_seen(-scale * distance, means.seen)


class EncoderLearner(Learner[State]):
    """A learner on an encoder, by cross-entropy; it is transductive where a layer uses the statistics of the batch."""

    loss_fn: LossFn = staticmethod(cross_entropy)

    @property
    def transductive(self) -> bool:
        return is_transductive(self)


class MetricLearner(EncoderLearner[State]):
    """An encoder, which does not adapt, with a head that is computed from a task's support embeddings.

    Args:
        encoder: any module from inputs to vectors (to maps, for RelationNet).
        way: number of classes that `predict` answers; the meta-parameters serve any number (`for_way`).
    """

    averages_views = True

    def __init__(self, encoder: nn.Module, *, way: int | None) -> None:
        super().__init__()
        self.encoder, self.way = encoder, way

    @abstractmethod
    def fit(self, z: Float[Tensor, "n *d"], support: Examples) -> State:
        """Returns the state, from a support set whose inputs are embedded as `z`."""

    @abstractmethod
    def logits(self, state: State, z: Float[Tensor, "n *d"]) -> Float[Tensor, "n out"]:
        """Returns the predictions for inputs that are embedded as `z`."""

    @property
    def embeds_alone(self) -> bool:
        """False where batch statistics are used, or where a subclass overrides `adapt` or `predict`."""
        own = (type(self).adapt, type(self).predict) != (MetricLearner.adapt, MetricLearner.predict)
        return not own and not self.transductive

    def features(self, x: Tensor) -> Float[Tensor, "n *d"]:
        """Returns the encoder's features; in evaluation their mean over `views` views of each picture (see `crops`)."""
        if self.training or self.views == 1:
            return self.encoder(x)
        return torch.stack([self.encoder(view) for view in crops(x, self.views)]).mean(0)

    def embed(self, x: Tensor) -> Float[Tensor, "n *d"]:
        """Returns the embeddings that the head reads."""
        return self.features(x)

    def adapt(self, support: Examples, /) -> State:
        return self.fit(self.embed(support.x), support)

    def predict(self, state: State, x: Tensor, /) -> Float[Tensor, "n out"]:
        return self.logits(state, self.embed(x))

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        """Returns the query loss; support and query are embedded as one batch, with one set of statistics."""
        z = self.embed(torch.cat([task.support.x, task.query.x]))
        n = len(task.support.x)
        prediction = self.logits(self.fit(z[:n], task.support), z[n:])
        return task.query.mean(self.loss_fn(prediction, task.query.y)), prediction


class ProtoNet(MetricLearner[Prototypes]):
    """ProtoNet: a class is the mean embedding of its support examples (Snell, Swersky and Zemel 2017).

        p(y = k | x)  ~  exp(-scale * |f(x) - c_k|^2),   c_k = mean of f(x_i) over the support examples of class k

    Args:
        encoder: any module from inputs to vectors.
        way: number of classes that `predict` answers; the meta-parameters serve any number (`for_way`).
        scale: factor of the squared distance (1 in the paper; smaller trains faster in high dimension). None is 0.8
            over the square root of the embeddings' length.
    """

    def __init__(self, encoder: nn.Module, *, way: int, scale: float | None = 1.0) -> None:
        super().__init__(encoder, way=way)
        self.scale = scale

    def fit(self, z: Float[Tensor, "n d"], support: Examples) -> Prototypes:
        return class_means(z, support, self.way)

    def logits(self, state: Prototypes, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return by_distance(state, z, SCALE / z.shape[-1] ** 0.5 if self.scale is None else self.scale)


class Cosine(ProtoNet):
    """A ProtoNet with cosine similarity: logits = scale * cos(f(x), c_k)."""

    def logits(self, state: Prototypes, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        cosine = F.normalize(z, dim=-1) @ F.normalize(state.mean, dim=-1).T
        return only_seen(cosine if self.scale is None else self.scale * cosine, state.seen)


class First(nn.Module):
    """Returns the first row of each input."""

    def forward(self, x: Float[Tensor, "n rows d"]) -> Float[Tensor, "n d"]:
        return x[:, 0]


class UnitLength(nn.Module):
    """Scales each input to length 1."""

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return F.normalize(x, dim=-1)


def nearest_centroid(source: Source | None = None, *, way: int) -> ProtoNet:
    """A baseline without learning: the nearest class mean of the raw inputs, by Euclidean distance.

    For a source with several readings of each text (`FrozenFormat`) it uses the first, the transformer's own; the
    features of other encoders (`EncodedFormat`) are scaled to length 1, since theirs varies with contrast.
    """
    form = source.format if source else None
    if isinstance(form, EncodedFormat):
        return ProtoNet(UnitLength(), way=way)
    several = isinstance(form, FrozenFormat) and form.rows > 1
    return ProtoNet(First() if several else nn.Flatten(), way=way)


class SupportSet(NamedTuple):
    """Embeddings of length 1 of the support examples, and class membership."""

    z: Float[Tensor, "n d"]
    member: Float[Tensor, "n way"]


class MatchingNet(MetricLearner[SupportSet]):
    """MatchingNet: a query attends to the support examples and takes their labels (Vinyals et al. 2016).

        p(y = k | x) = sum of a(x, x_i) over the support examples of class k,   a = softmax_i(scale * cos(f(x), f(x_i)))

    The scale is learned (in the paper it is 1, which makes the softmax nearly flat). The paper's full context
    embeddings are left out: their LSTM reads the support set in an order, on which the prediction would depend.

    Args:
        encoder: any module from inputs to vectors.
        way: number of classes that `predict` answers; the meta-parameters serve any number (`for_way`).
        scale: initial factor of the cosine.
    """

    def __init__(self, encoder: nn.Module, *, way: int, scale: float = 10.0) -> None:
        super().__init__(encoder, way=way)
        self.log_scale = nn.Parameter(torch.tensor(scale).log())

    def fit(self, z: Float[Tensor, "n d"], support: Examples) -> SupportSet:
        return SupportSet(F.normalize(z, dim=-1), members(support, self.way, z))

    def logits(self, state: SupportSet, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        # log of the sum of exp(scale * cos) over each class: its softmax over classes is the attention on each class
        score = self.log_scale.exp() * F.normalize(z, dim=-1) @ state.z.T
        own = torch.where(state.member > 0, score[:, :, None], torch.finfo(z.dtype).min)
        return only_seen(own.logsumexp(1), state.member.sum(0) > 0)


def relation_error(score: Float[Tensor, "n way"], y: Tensor) -> Float[Tensor, " n"]:
    """Returns the squared error of the relations, sigmoid(score), against one-hot labels (or y's shares)."""
    target = y if y.ndim == score.ndim else F.one_hot(y, score.shape[-1])
    return (score.sigmoid() - target).square().sum(-1)


class RelationNet(MetricLearner[Prototypes]):
    """RelationNet: the similarity of a query and a class is learned (Sung et al. 2018).

        r_k(x) = sigmoid(g([c_k, f(x)])),   loss = sum over k of (r_k - 1[y = k])^2

    c_k is the mean of the class's maps; the paper uses the sum, which is equal at 1 shot and depends on the number of
    shots otherwise. Predictions are the scores before the sigmoid.

    Args:
        encoder: any module from inputs to maps [n, c, *space] or vectors [n, c].
        relation: any module from two of them, concatenated in c, to one number.
        way: number of classes that `predict` answers; the meta-parameters serve any number (`for_way`).
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
        scale: initial factor of the cosine; it is learned.
    """
    return MatchingNet(encoder, way=way, scale=scale)


def relationnet(
    encoder: nn.Module, relation: nn.Module | None = None, *, way: int, shape: tuple[int, ...] | None = None
) -> RelationNet:
    """Relation network (Sung et al. 2018): r_k(x) = sigmoid(g([c_k, f(x)])), trained to be 1 for the true class.

    Args:
        encoder: any module from inputs to vectors [n, c], or to maps [n, c, *space].
        relation: g, any module from two of these, concatenated in c, to one number. None is two linear layers, for
            vectors.
        shape: shape of one input; needed where the encoder does not determine it (see `embedding_size`).
    """
    if relation is None:
        relation = mlp((2 * embedding_size(encoder, shape),), widths=(64,), out=1)
    return RelationNet(encoder, relation, way=way)
