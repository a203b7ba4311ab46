"""Gradient learners whose last layer is computed for each task: ProtoMAML, Unicorn-MAML.

The head is a function of the support set's embeddings; the inner loop then adapts it together with the encoder.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.core import Examples
from upstairs.functional.differentiate import EXACT, Differentiation
from upstairs.functional.rules import SGD, Params, UpdateRule
from upstairs.learners.gradient.maml import GradientLearner
from upstairs.learners.metric.protonet import Prototypes, class_means

MakeHead = Callable[[Prototypes], tuple[Float[Tensor, "way d"], Float[Tensor, " way"]]]  # -> weight, bias


class TaskHead(nn.Module):
    """A linear layer without parameters: each task provides the weights."""

    weight: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return F.linear(z, self.weight, self.bias)


class HeadPerTask(GradientLearner):
    """A gradient learner whose inner loop adapts an encoder and a linear head computed from the class means.

    The meta-gradient also passes through `make_head`. No output is tied to a class, so the meta-parameters serve any
    number of classes, and renumbering the classes permutes the predictions.
    """

    def __init__(
        self, encoder: nn.Module, rule: UpdateRule, *, way: int, make_head: MakeHead, steps: int = 5,
        differentiate: Differentiation = EXACT,
    ) -> None:  # fmt: skip
        net = nn.Sequential(OrderedDict(encoder=encoder, head=TaskHead()))
        super().__init__(net, rule, way=way, steps=steps, differentiate=differentiate)
        self.make_head, self.outputs = make_head, None

    def start(self, support: Examples) -> Params:
        means = class_means(self.net.get_submodule("encoder")(support.x), support, self.way)
        weight, bias = self.make_head(means)
        unseen = torch.finfo(bias.dtype).min
        # The head depends on the weights, but the inner gradient must not pass through it: so these are views.
        own = {n: p.view_as(p) for n, p in self.adapting().items()}
        return {**own, "head.weight": weight, "head.bias": torch.where(means.seen, bias, unseen)}


def proto_maml(
    encoder: nn.Module, *, way: int, inner_lr: float = 0.1, steps: int = 5, scale: float = 1.0,
    differentiate: Differentiation = EXACT,
) -> HeadPerTask:  # fmt: skip
    """ProtoMAML: MAML whose head starts as the linear layer equivalent to ProtoNet (Triantafillou et al. 2020).

        w_k = 2 scale c_k,   b_k = -scale |c_k|^2,   then inner gradient steps on encoder and head

    Without inner steps it is ProtoNet: the logits differ only by a term that is equal for all classes.
    """

    def make_head(means: Prototypes) -> tuple[Tensor, Tensor]:
        return 2 * scale * means.mean, -scale * means.mean.square().sum(-1)

    return HeadPerTask(encoder, SGD(inner_lr), way=way, make_head=make_head, steps=steps, differentiate=differentiate)


def unicorn_maml(encoder: nn.Module, *, way: int, inner_lr: float = 0.4, steps: int = 5) -> HeadPerTask:
    """Unicorn-MAML: the inner loop starts with the same weight vector for every class (Ye and Chao 2022).

        w_k = w for every class k,   then inner gradient steps on encoder and head

    The paper learns w. Here w is zero: w f(x) is added to every logit alike, so neither the softmax nor any gradient of
    the cross-entropy depends on w, at any inner step (the tests compare other values).
    """

    def make_head(means: Prototypes) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(means.mean), torch.zeros_like(means.mean[:, 0])

    return HeadPerTask(encoder, SGD(inner_lr), way=way, make_head=make_head, steps=steps)
