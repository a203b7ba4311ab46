"""Gradient learners whose last layer is made anew for each task: ProtoMAML, Unicorn-MAML.

The head is a function of the support set's embeddings, so no class has a place in it; the inner loop then adapts it
together with the encoder.
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
    """A linear layer without weights of its own: each task brings them."""

    weight: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return F.linear(z, self.weight, self.bias)


class HeadPerTask(GradientLearner):
    """Inner gradient steps on an encoder and on a linear head that `make_head` makes from the class means.

    The meta-gradient passes through the head's making too. No class is tied to a place in the head, so the
    meta-parameters serve any number of classes, and renumbering them permutes the predictions.
    """

    def __init__(
        self,
        encoder: nn.Module,
        rule: UpdateRule,
        *,
        way: int,
        make_head: MakeHead,
        steps: int = 5,
        differentiate: Differentiation = EXACT,
    ) -> None:
        net = nn.Sequential(OrderedDict(encoder=encoder, head=TaskHead()))
        super().__init__(net, rule, way=way, steps=steps, differentiate=differentiate)
        self.make_head, self.outputs = make_head, None

    def start(self, support: Examples) -> Params:
        means = class_means(self.net.get_submodule("encoder")(support.x), support, self.way)
        weight, bias = self.make_head(means)
        unseen = torch.finfo(bias.dtype).min
        # The head depends on the weights, and an inner gradient in them must not pass through it: so they are others.
        own = {n: p.view_as(p) for n, p in self.adapting().items()}
        return {**own, "head.weight": weight, "head.bias": torch.where(means.seen, bias, unseen)}


def proto_maml(
    encoder: nn.Module,
    *,
    way: int,
    inner_lr: float = 0.1,
    steps: int = 5,
    scale: float = 1.0,
    differentiate: Differentiation = EXACT,
) -> HeadPerTask:
    """ProtoMAML: MAML from the head that ProtoNet amounts to (Triantafillou et al. 2020).

        w_k = 2 scale c_k,   b_k = -scale |c_k|^2,   then inner gradient steps on encoder and head

    Without a step it is ProtoNet, whose logits these are but for a term that no class differs in.
    """

    def make_head(means: Prototypes) -> tuple[Tensor, Tensor]:
        return 2 * scale * means.mean, -scale * means.mean.square().sum(-1)

    return HeadPerTask(encoder, SGD(inner_lr), way=way, make_head=make_head, steps=steps, differentiate=differentiate)


def unicorn_maml(encoder: nn.Module, *, way: int, inner_lr: float = 0.4, steps: int = 5) -> HeadPerTask:
    """Unicorn-MAML: the inner loop starts with the same weight vector for every class (Ye and Chao 2022).

        w_k = w for every class k,   then inner gradient steps on encoder and head

    The paper learns w. It need not be: with w every logit has the same term w f(x), which softmax does not see, and so
    does no gradient of the cross-entropy, at any inner step. So w is zero here (the tests hold it against others).
    """

    def make_head(means: Prototypes) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(means.mean), torch.zeros_like(means.mean[:, 0])

    return HeadPerTask(encoder, SGD(inner_lr), way=way, make_head=make_head, steps=steps)
