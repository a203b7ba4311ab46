"""Learners that compare an example part by part, each with the parts that it is most like: DN4."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.core import Examples, LossFn, cross_entropy
from upstairs.learners.metric.protonet import MetricLearner, members, only_seen


class Places(NamedTuple):
    """The direction at each place of the support set's maps, for each view of it, and whose they are."""

    z: Float[Tensor, "view n place c"]
    member: Float[Tensor, "n way"]


def directions(z: Float[Tensor, "n c *space"]) -> Float[Tensor, "n place c"]:
    """The vector at each place of a map, of length 1; a vector is a map of one place."""
    return F.normalize(z.reshape(*z.shape[:2], -1).transpose(1, 2), dim=-1)


def as_it_is(x: Tensor) -> Tensor:
    """The one view of inputs where there are no others."""
    return x[None]


class DN4(MetricLearner[Places]):
    """A query is as near as its parts are to the parts of a class (Li et al. 2019, "image-to-class").

        s(x, x_i) = 1/2 mean over places p of max over q of cos(f_p(x), f_q(x_i)), + 1/2 the same with x and x_i changed
        logits_k  = scale * mean of s(x, x_i) over the support examples of class k

    With a window, q is at most so far from p along the last axis: in a sound the same moment, said sooner or later. The
    paper looks from the query alone, at the 3 nearest among all of a class's places, and has no scale; here it is
    learned.

    Args:
        encoder: any module from inputs to maps [n, c, *space] or vectors [n, c].
        way: classes that `predict` answers; the meta-parameters serve any number (`for_way`).
        window: the farthest that is compared, as a share of the last axis; None is everything.
        scale: of the similarity, at the start.
        views: of inputs [n, *feature] -> [view, n, *feature], for `adapt` and `predict`; training has one. An example
            is as near as its nearest view; a query's logits are the mean over its views.
    """

    loss_fn: LossFn = staticmethod(cross_entropy)
    averages_views = False  # of its own kind of views: an example is as near as its nearest one

    def __init__(
        self, encoder: nn.Module, *, way: int, window: float | None = None, scale: float = 10.0,
        views: Callable[[Tensor], Tensor] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(encoder, way=way)
        self.window, self.seen_as = window, views or as_it_is
        self.log_scale = nn.Parameter(torch.tensor(scale).log())

    def adapt(self, support: Examples, /) -> Places:
        return self.fit(self.embed(self.seen_as(support.x).flatten(0, 1)), support)

    def predict(self, state: Places, x: Tensor, /) -> Float[Tensor, "n way"]:
        return torch.stack([self.logits(state, self.embed(view)) for view in self.seen_as(x)]).mean(0)

    def fit(self, z: Float[Tensor, "view_n c *space"], support: Examples) -> Places:
        return Places(directions(z).unflatten(0, (-1, len(support.y))), members(support, self.way, z))

    def logits(self, state: Places, z: Float[Tensor, "n c *space"]) -> Float[Tensor, "n way"]:
        own, width, count = directions(z), z.shape[-1], state.member.sum(0)
        alike = torch.stack([self.alike(own, view, width) for view in state.z]).amax(0)
        return only_seen(self.log_scale.exp() * alike @ state.member / count.clamp(min=1), count > 0)

    def alike(
        self, own: Float[Tensor, "n place c"], other: Float[Tensor, "m place c"], width: int
    ) -> Float[Tensor, "n m"]:
        """s(x, x_i) of every two; `width` is the length of the maps' last axis."""
        (n, places, _), m = own.shape, len(other)
        pairs = (own.flatten(0, 1) @ other.flatten(0, 1).T).reshape(n, places, m, places)
        if self.window is not None and places > 1:
            moment = torch.arange(places, device=own.device) % width
            near = (moment[:, None] - moment).abs() <= self.window * width
            pairs = torch.where(near[:, None], pairs, -1.0)
        return (pairs.max(3).values.mean(1) + pairs.max(1).values.mean(2)) / 2


def dn4(encoder: nn.Module, *, way: int, window: float | None = None, scale: float = 10.0) -> DN4:
    """DN4 (Li et al. 2019): a class scores the similarity of a query's local features to its most alike ones.

    Args:
        encoder: any module from inputs to maps [n, c, *space], or to vectors [n, c].
        window: see `DN4`.
        scale: of the similarity, at the start; it is learned.
    """
    return DN4(encoder, way=way, window=window, scale=scale)
