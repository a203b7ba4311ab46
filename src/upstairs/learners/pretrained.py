"""Learners that do not meta-learn: an encoder is trained to classify, and a task only sees its features.

SimpleShot and Baseline++. Published encoders are trained with one output for each training class. A task does not know
the true numbers of its classes, so here each training task, of many classes, is one classification problem: an example
of one half is classified by its cosine with the class means of the other half (`CosineTrained`).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.core import Examples, Learner, LossFn, State, Task, cross_entropy
from upstairs.inner import FirstOrder
from upstairs.learners.metric import Prototypes, class_means, only_seen
from upstairs.learners.rules import SGD, Params
from upstairs.minimise import minimise
from upstairs.nets.norm import Centre, is_transductive


def cosines(z: Float[Tensor, "n d"], means: Prototypes, scale: Tensor) -> Float[Tensor, "n way"]:
    """scale * cos(z, mean), for the classes that were seen."""
    return only_seen(scale * F.normalize(z, dim=-1) @ F.normalize(means.mean, dim=-1).T, means.seen)


class CosineTrained(Learner[State]):
    """Trained by classification, in both directions: queries by the support set's means, support by the queries'.

        loss = 1/2 (CE(scale cos(f(x_query), c_support)) + CE(scale cos(f(x_support), c_query)))

    Args:
        encoder: any module from inputs to vectors.
        way: classes that `predict` answers; the meta-parameters serve any number (`for_way`).
        centred: how many numbers an embedding has, where the training tasks' mean is subtracted from it in evaluation.
        scale: of the cosine, at the start (it is learned).
    """

    loss_fn: LossFn = staticmethod(cross_entropy)

    def __init__(self, encoder: nn.Module, *, way: int, centred: int | None = None, scale: float = 10.0) -> None:
        super().__init__()
        self.encoder, self.way = encoder, way
        self.centre = nn.Identity() if centred is None else Centre(centred)
        self.log_scale = nn.Parameter(torch.tensor(scale).log())

    @property
    def transductive(self) -> bool:
        return is_transductive(self)

    def features(self, x: Tensor) -> Float[Tensor, "n d"]:
        """Embeddings, centred where that was asked for."""
        return self.centre(self.encoder(x))

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        z = self.features(torch.cat([task.support.x, task.query.x]))
        n, scale = len(task.support.x), self.log_scale.exp()
        prediction = cosines(z[n:], class_means(z[:n], task.support, self.way), scale)
        back = cosines(z[:n], class_means(z[n:], task.query, self.way), scale)
        losses = [
            part.mean(self.loss_fn(logits, part.y)) for part, logits in ((task.query, prediction), (task.support, back))
        ]
        return (losses[0] + losses[1]) / 2, prediction


class SimpleShot(CosineTrained[Prototypes]):
    """The nearest class mean of centred features of length 1 (Wang et al. 2019, "CL2N").

        z = (f(x) - mu) / |f(x) - mu|,   p(y = k | x)  ~  exp(-scale/2 |z - c_k|^2),   c_k = mean of z over class k

    mu is the mean feature of the training classes, measured before each validation. Nothing adapts.
    """

    def adapt(self, support: Examples, /) -> Prototypes:
        return class_means(F.normalize(self.features(support.x), dim=-1), support, self.way)

    def predict(self, state: Prototypes, x: Tensor, /) -> Float[Tensor, "n way"]:
        z, c = F.normalize(self.features(x), dim=-1), state.mean
        distance = 1 - 2 * z @ c.T + c.square().sum(-1)
        return only_seen(-0.5 * self.log_scale.exp() * distance, state.seen)


class BaselinePlusPlus(CosineTrained[Prototypes]):
    """On each task a cosine classifier is trained over the frozen encoder (Chen et al. 2019, "Baseline++").

        logits = scale cos(f(x), w_k),   w by `steps` of gradient descent on the support set's cross-entropy

    The paper starts w at random; here it starts at the class means (weight imprinting; Qi, Brown and Lowe 2018), so
    that the answer does not depend on chance or on the order of the classes.

    Args:
        rate: of the gradient steps.
        steps: how many.
    """

    def __init__(
        self, encoder: nn.Module, *, way: int, scale: float = 10.0, rate: float = 0.01, steps: int = 100
    ) -> None:
        super().__init__(encoder, way=way, scale=scale)
        self.rule, self.steps = SGD(rate), steps

    def adapt(self, support: Examples, /) -> Prototypes:
        z = self.features(support.x)
        means = class_means(F.normalize(z, dim=-1), support, self.way)

        def loss(params: Params, z: Tensor, y: Tensor, mask: Tensor) -> Float[Tensor, ""]:
            logits = cosines(z, Prototypes(params["weight"], means.seen), self.log_scale.exp())
            return Examples(z, y, mask).mean(self.loss_fn(logits, y))

        start = {"weight": means.mean}
        fitted = minimise(
            loss, start, z, support.y, support.mask, rule=self.rule, steps=self.steps, differentiate=FirstOrder()
        )
        return Prototypes(fitted["weight"], means.seen)

    def predict(self, state: Prototypes, x: Tensor, /) -> Float[Tensor, "n way"]:
        return cosines(self.features(x), state, self.log_scale.exp())
