"""A metric learner that compares local features, each with the most similar ones of a class: DN4."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.core import Examples
from upstairs.learners.metric.protonet import MetricLearner, members, only_seen


class Places(NamedTuple):
    """The unit feature vector at each place of the support set's maps, for each view, and class membership."""

    z: Float[Tensor, "view n place c"]
    member: Float[Tensor, "n way"]


def directions(z: Float[Tensor, "n c *space"]) -> Float[Tensor, "n place c"]:
    """Returns the unit vector at each place of a map; a vector counts as a map of one place."""
    return F.normalize(z.reshape(*z.shape[:2], -1).transpose(1, 2), dim=-1)


def as_it_is(x: Tensor) -> Tensor:
    """Returns the inputs as their only view."""
    return x[None]


class DN4(MetricLearner[Places]):
    """DN4: similarity of a query to a class by their local features (Li et al. 2019, "image-to-class").

        s(x, x_i) = 1/2 mean over places p of max over q of cos(f_p(x), f_q(x_i)), + 1/2 the same with x and x_i changed
        logits_k  = scale * mean of s(x, x_i) over the support examples of class k

    A window limits the distance of q from p along the last axis, for sounds the time. The paper compares only from the
    query's side, with the 3 nearest among all places of a class, and has no scale; here the scale is learned.

    Args:
        encoder: any module from inputs to maps [n, c, *space] or vectors [n, c].
        way: number of classes that `predict` answers; the meta-parameters serve any number (`for_way`).
        window: largest distance that is compared, as a share of the last axis; None is no limit.
        scale: initial factor of the similarity.
        views: [n, *feature] -> [view, n, *feature], for `adapt` and `predict`; training uses one view. The similarity
            to an example is that of its nearest view; a query's logits are the mean over its views.
    """

    averages_views = False  # it has its own views, of which the nearest counts

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
        """Returns s(x, x_i) for all pairs; `width` is the length of the maps' last axis."""
        (n, places, _), m = own.shape, len(other)
        pairs = (own.flatten(0, 1) @ other.flatten(0, 1).T).reshape(n, places, m, places)
        if self.window is not None and places > 1:
            moment = torch.arange(places, device=own.device) % width
            near = (moment[:, None] - moment).abs() <= self.window * width
            pairs = torch.where(near[:, None], pairs, -1.0)
        return (pairs.max(3).values.mean(1) + pairs.max(1).values.mean(2)) / 2


def dn4(encoder: nn.Module, *, way: int, window: float | None = None, scale: float = 10.0) -> DN4:
    """DN4 (Li et al. 2019): logits are similarities of a query's local features to the nearest ones of each class.

    Args:
        encoder: any module from inputs to maps [n, c, *space], or to vectors [n, c].
        window: see `DN4`.
        scale: initial factor of the similarity; it is learned.
    """
    return DN4(encoder, way=way, window=window, scale=scale)
