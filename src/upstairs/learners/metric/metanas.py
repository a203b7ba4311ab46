"""MetaNAS: a differentiable architecture search across tasks, pruned to a discrete network that trains further."""

from jaxtyping import Float
from torch import Tensor, nn

from upstairs.core import Examples, Task
from upstairs.errors import UpstairsError
from upstairs.functional.call import functional_call
from upstairs.functional.inner_loop import inner_loop
from upstairs.functional.rules import SGD, Params
from upstairs.learners.metric.protonet import ProtoNet
from upstairs.nets.cells import discretise, mixtures


class MetaNAS(ProtoNet):
    """A differentiable architecture search across tasks, then the found network as a ProtoNet
    (Elsken et al. 2020, "Meta-learning of neural architectures for few-shot learning"; T-NAS, Lian et al. 2020).

        search:  a_task = a - inner_lr * d L_support(a, w) / d a,   minimise over tasks L_query(a_task, w) in a and w
        prune:   each edge keeps the operation with the largest a, and its weights
        train:   minimise L_query(w)

    L is ProtoNet's loss; L_support uses the support examples as queries. As in MetaNAS the temperature of the mixture
    falls from 1 to 0.1 during the search, so that pruning changes little and the network need not be retrained. The
    papers adapt the weights w to each task too; here they are shared, since the prototypes adapt.

    Args:
        encoder: a network with `Mixed` operations, such as `nets.cells` makes.
        way: number of classes that `predict` answers; the meta-parameters serve any number (`for_way`).
        scale: factor of the squared distance.
        until: share of training that is search.
        inner_lr: learning rate of a task's step on the architecture.
    """

    def __init__(
        self, encoder: nn.Module, *, way: int, scale: float | None = 1.0, until: float = 1 / 3, inner_lr: float = 0.01
    ) -> None:
        super().__init__(encoder, way=way, scale=scale)
        self.until, self.rule, self.searching = until, SGD(inner_lr), False

    def at(self, progress: float) -> None:
        self.searching = progress < self.until
        for mixed in mixtures(self.encoder).values():
            if self.searching:
                mixed.soften(0.1 ** (progress / self.until))
            else:
                mixed.choose()

    @property
    def second_order(self) -> bool:
        return self.searching

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        if not (self.searching and self.training):
            return super().meta_loss(task)
        shared: Params = {n: p for n, p in self.encoder.named_parameters() if n.endswith("architecture")}
        architecture = inner_loop(self.support_loss, shared, task.support, rule=self.rule, steps=1)
        support, query = (functional_call(self.encoder, architecture, examples.x) for examples in task)
        prediction = self.logits(self.fit(support, task.support), query)
        return task.query.mean(self.loss_fn(prediction, task.query.y)), prediction

    def support_loss(self, architecture: Params, support: Examples) -> Float[Tensor, ""]:
        z = functional_call(self.encoder, architecture, support.x)
        return support.mean(self.loss_fn(self.logits(self.fit(z, support), z), support.y))

    def found(self) -> nn.Module:
        """Returns a copy of the discrete encoder as an ordinary module."""
        return discretise(self.encoder)


def metanas(encoder: nn.Module, *, way: int, scale: float | None = None, until: float = 1 / 3) -> MetaNAS:
    """MetaNAS (Elsken et al. 2020): an architecture search across tasks, then the found network as a ProtoNet.

        a_task = a - inner_lr * d L_support(a, w) / d a,   minimise over tasks L_query(a_task, w) in a and w

    Args:
        encoder: a network with `Mixed` operations, such as `upstairs.nets.cells((1, 28, 28))`.
        scale: None is 0.8 over the square root of the embeddings' length.
        until: share of training that is search; the loop calls `learner.at(progress)`.

    Raises:
        UpstairsError: an encoder without `Mixed` operations.
    """
    if not mixtures(encoder):
        raise UpstairsError(
            f"{type(encoder).__name__} has no choice to search among: use upstairs.nets.cells(shape), or put "
            "upstairs.nets.Mixed into a network of your own"
        )
    return MetaNAS(encoder, way=way, scale=scale, until=until)
