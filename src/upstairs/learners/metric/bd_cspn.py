"""A transductive learner, which reads all queries of a task before it answers any: BD-CSPN."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.core import Examples
from upstairs.learners.metric.pretrained import Pretrained
from upstairs.learners.metric.protonet import SupportSet, members, only_seen
from upstairs.nets.embedding import embedding_size


class BDCSPN(Pretrained[SupportSet]):
    """Prototypes rectified by the queries, in cosine similarity (Liu, Song and Qin 2020, "BD-CSPN").

        xi = mean of z_support - mean of z_query,   every z_query is shifted by xi               (cross-class bias)
        each query gets the class of the nearest prototype c_k; X_k: support set of class k and its Z surest queries
        c'_k = sum over X_k of softmax(epsilon cos(z, c_k)) z,   logits = scale cos(z, c'_k)     (intra-class bias)

    Transductive: the prediction for a query depends on the other queries.

    Args:
        epsilon: sharpness of the weights (10 in the paper).
        most: Z, number of queries added to a class (8 in the paper).
    """

    epsilon: float = 10.0
    most: int = 8

    @property
    def transductive(self) -> bool:
        return True

    def fit(self, z: Float[Tensor, "n d"], support: Examples) -> SupportSet:
        return SupportSet(z, members(support, self.way, z))

    def logits(self, state: SupportSet, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        known, member = state
        count = member.sum(0)
        means, seen = F.normalize(member.T @ known / count[:, None].clamp(min=1), dim=-1), count > 0
        centre = (member.T @ known).sum(0) / count.sum().clamp(min=1)
        queries = F.normalize(z + centre - z.mean(0), dim=-1)
        near = only_seen(queries @ means.T, seen)
        surest = near.topk(min(self.most, len(z)), dim=0)[0][-1]
        taken = F.one_hot(near.argmax(-1), self.way).to(z.dtype) * (near >= surest)
        pool, whose = torch.cat([known, queries]), torch.cat([member, taken])
        weight = whose * (self.epsilon * (pool @ means.T - 1)).exp()
        rectified = weight.T @ pool  # its length does not matter to a cosine
        return only_seen(self.log_scale.exp() * queries @ F.normalize(rectified, dim=-1).T, seen)


def bd_cspn(
    encoder: nn.Module, *, way: int, classes: int, shape: tuple[int, ...] | None = None, centred: bool = True
) -> BDCSPN:
    """BD-CSPN (Liu, Song and Qin 2020): prototypes rectified by the queries, in cosine similarity; transductive.

        c'_k = sum over X_k of softmax(epsilon cos(z, c_k)) z,   X_k: support examples of class k and its surest queries

    Args:
        encoder, classes, shape, centred: as for `simpleshot`.
    """
    return BDCSPN(encoder, embedding_size(encoder, shape), classes=classes, way=way, centred=centred)
