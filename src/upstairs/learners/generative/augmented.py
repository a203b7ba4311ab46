"""A classifier whose support sets grow by what a generator makes of them."""

from typing import Any

import torch
from torch import Tensor

from upstairs.core import Examples, Learner, LossFn
from upstairs.learners.model_based.conditioned import Noise


class Augmented(Learner[Any]):
    """A classifier that is given a generator, which draws `count` more examples of each class of a support set.

        S' = S and, for each class k, count draws of the generator whose support set is S's examples of k

    `Augmented(run.learner, generator_run.learner, count=5)`. The generator is fixed: it was trained before. Its noise
    is the same for all classes, in training other in each step, in evaluation always the same.

    Args:
        classifier: any learner that names classes.
        generator: of the same kind of inputs.
        count: examples drawn for each class.
    """

    def __init__(self, classifier: Learner[Any], generator: Learner[Any], *, count: int) -> None:
        super().__init__()
        self.classifier, self.generator = classifier, generator.requires_grad_(False)
        self.loss_fn: LossFn = classifier.loss_fn
        self.way, self.global_labels = classifier.way, classifier.global_labels
        self.noise = Noise(generator.noise_size, samples=count, judged=count)

    def at(self, progress: float) -> None:
        self.noise.at(progress)
        self.classifier.at(progress)

    def grown(self, support: Examples) -> Examples:
        """The support set with what was drawn, masked out for a class that it has no example of."""
        noise, parts = self.noise().to(support.x.dtype), [support]
        for k in range(self.way):
            own = support.mask & (support.y == k)
            drawn = self.generator.draw(self.generator.adapt(support._replace(y=0 * support.y, mask=own)), noise)
            y = torch.full((len(noise),), k, dtype=support.y.dtype, device=support.y.device)
            parts.append(Examples(drawn, y, own.any(0)[None].expand(len(noise))))
        return Examples(*(torch.cat(leaves) for leaves in zip(*parts, strict=True)))

    def adapt(self, support: Examples, /) -> Any:
        return self.classifier.adapt(self.grown(support))

    def predict(self, state: Any, x: Tensor, /) -> Tensor:
        return self.classifier.predict(state, x)

    def for_way(self, way: int) -> "Learner[Any]":
        return Augmented(self.classifier.for_way(way), self.generator, count=len(self.noise.fixed))

    @property
    def transductive(self) -> bool:
        return self.classifier.transductive

    @property
    def second_order(self) -> bool:
        return self.classifier.second_order

    @property
    def max_way(self) -> int | None:
        return self.classifier.max_way
