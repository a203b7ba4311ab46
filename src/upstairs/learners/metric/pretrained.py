"""Metric learners whose encoder is trained to classify all training classes: SimpleShot, Baseline++, co-training.

BD-CSPN is in bd_cspn.py; meta-transfer learning (gradient/mtl.py) uses `Pretrained` as its first stage.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.core import Examples, State, Task
from upstairs.functional.differentiate import FirstOrder
from upstairs.functional.inner_loop import inner_loop
from upstairs.functional.rules import SGD, Params
from upstairs.learners.metric.protonet import MetricLearner, Prototypes, class_means, only_seen
from upstairs.nets.embedding import embedding_size
from upstairs.nets.norm import Centre


class Pretrained(MetricLearner[State]):
    """A learner that is trained by ordinary classification, with one output for each training class.

        loss = mean over support and query examples of CE(scale cos(f(x), w_c), the class's own number)

    Cosines (Chen et al. 2019) learn thousands of classes far faster than a linear layer.

    Args:
        encoder: any module from inputs to vectors.
        size: length of these vectors.
        classes: number of training classes, each of which has a weight vector.
        way: number of classes that `predict` answers; the encoder serves any number (`for_way`).
        centred: subtract the mean feature of the training classes in evaluation; it is measured before each validation.
        scale: initial factor of the cosine; it is learned.
    """

    global_labels = True

    def __init__(
        self, encoder: nn.Module, size: int, *, classes: int, way: int, centred: bool = False, scale: float = 20.0
    ) -> None:
        super().__init__(encoder, way=way)
        self.centre = Centre(size) if centred else nn.Identity()
        self.head = nn.Linear(size, classes, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(scale).log())

    def embed(self, x: Tensor) -> Float[Tensor, "n d"]:
        """Returns features of length 1, centred where `centred` is set."""
        return F.normalize(self.centre(self.features(x)), dim=-1)

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        both = task.together()
        logits = self.log_scale.exp() * self.embed(both.x) @ F.normalize(self.head.weight, dim=-1).T
        return both.mean(self.loss_fn(logits, both.y)), logits[len(task.support.x) :]


class SimpleShot(Pretrained[Prototypes]):
    """SimpleShot: the nearest class mean of centred features of length 1 (Wang et al. 2019, "CL2N").

        z = (f(x) - mu) / |f(x) - mu|,   p(y = k | x)  ~  exp(-scale/2 |z - c_k|^2),   c_k = mean of z over class k

    mu is the mean feature of the training classes. Nothing adapts.
    """

    def fit(self, z: Float[Tensor, "n d"], support: Examples) -> Prototypes:
        return class_means(z, support, self.way)

    def logits(self, state: Prototypes, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        c = state.mean
        distance = 1 - 2 * z @ c.T + c.square().sum(-1)
        return only_seen(-0.5 * self.log_scale.exp() * distance, state.seen)


class CoTraining(SimpleShot):
    """Co-training of episodes and a classification of all training classes (Oreshkin et al. 2018, section 3.4).

        loss = 1/2 CE(s cos(f(x), w_c), the class's own number) + 1/2 CE(-t/2 |z - c_k|^2, k among the task's classes)

    The first term is `Pretrained`'s over support and query, the second SimpleShot's over the queries; s and t are
    learned. In the paper the share of the first term falls in training; here it is constant.
    """

    needs_hard_labels = "reads them in two ways"

    def __init__(self, encoder: nn.Module, size: int, **options: Any) -> None:
        super().__init__(encoder, size, **options)
        self.log_sharpness = nn.Parameter(torch.tensor(10.0).log())

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        """Labels are global class numbers, so the episode is a task of all classes, of which only a few are seen."""
        both, n = task.together(), len(task.support.x)
        z = self.embed(both.x)
        classify = self.log_scale.exp() * z @ F.normalize(self.head.weight, dim=-1).T
        means = class_means(z[:n], task.support, len(self.head.weight))
        episode = self.logits(means, z[n:])
        auxiliary = both.mean(self.loss_fn(classify, both.y))
        return (auxiliary + task.query.mean(self.loss_fn(episode, task.query.y))) / 2, episode

    def logits(self, state: Prototypes, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return only_seen(self.log_sharpness.exp() * (z @ state.mean.T - state.mean.square().sum(-1) / 2), state.seen)


class BaselinePlusPlus(Pretrained[Prototypes]):
    """Baseline++: on each task a cosine classifier is trained on the frozen encoder (Chen et al. 2019).

        logits = scale cos(f(x), w_k),   w by `steps` of gradient descent on the support set's cross-entropy

    The paper initialises w at random; here it starts at the class means (weight imprinting; Qi, Brown and Lowe 2018),
    so that the prediction is deterministic and independent of the order of the classes.

    Args:
        encoder, size, options: as for `Pretrained`.
        inner_lr: learning rate of the gradient steps.
        steps: number of gradient steps.
    """

    def __init__(
        self, encoder: nn.Module, size: int, *, inner_lr: float = 0.01, steps: int = 100, **options: Any
    ) -> None:
        super().__init__(encoder, size, **options)
        self.rule, self.steps = SGD(inner_lr), steps

    def fit(self, z: Float[Tensor, "n d"], support: Examples) -> Prototypes:
        start = class_means(z, support, self.way)

        def loss(params: Params, z: Tensor, y: Tensor, mask: Tensor) -> Float[Tensor, ""]:
            logits = self.logits(Prototypes(params["weight"], start.seen), z)
            return Examples(z, y, mask).mean(self.loss_fn(logits, y))

        fitted = inner_loop(
            loss, {"weight": start.mean}, z, support.y, support.mask,
            rule=self.rule, steps=self.steps, differentiate=FirstOrder(),
        )  # fmt: skip
        return Prototypes(fitted["weight"], start.seen)

    def logits(self, state: Prototypes, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return only_seen(self.log_scale.exp() * z @ F.normalize(state.mean, dim=-1).T, state.seen)


def simpleshot(
    encoder: nn.Module, *, way: int, classes: int, shape: tuple[int, ...] | None = None, centred: bool = True
) -> SimpleShot:
    """SimpleShot (Wang et al. 2019): ordinary classification, then the nearest mean of features of length 1.

        z = (f(x) - mu) / |f(x) - mu|,   p(y = k | x)  ~  exp(-scale/2 |z - c_k|^2)

    Args:
        encoder: any module from inputs to vectors.
        classes: number of training classes. Train on `Episodes(..., global_labels=True)`.
        shape: shape of one input; needed where the encoder does not determine it (see `embedding_size`).
        centred: subtract mu, the mean feature of the training classes, which `calibrate` measures.
    """
    return SimpleShot(encoder, embedding_size(encoder, shape), classes=classes, way=way, centred=centred)


def co_training(
    encoder: nn.Module, *, way: int, classes: int, shape: tuple[int, ...] | None = None, centred: bool = True
) -> CoTraining:
    """Co-training (Oreshkin et al. 2018): the mean of an episode's loss and a classification of all training classes.

    Args:
        encoder, classes, shape, centred: as for `simpleshot`.
    """
    return CoTraining(encoder, embedding_size(encoder, shape), classes=classes, way=way, centred=centred)


def baseline_pp(
    encoder: nn.Module, *, way: int, classes: int, shape: tuple[int, ...] | None = None, inner_lr: float = 0.01,
    steps: int = 100,
) -> BaselinePlusPlus:  # fmt: skip
    """Baseline++ (Chen et al. 2019): ordinary classification, then a cosine classifier trained on each task's features.

        logits = scale cos(f(x), w_k),   w by `steps` of gradient descent on the support set's cross-entropy

    Args:
        encoder, classes, shape: as for `simpleshot`.
    """
    size = embedding_size(encoder, shape)
    return BaselinePlusPlus(encoder, size, classes=classes, way=way, inner_lr=inner_lr, steps=steps)
