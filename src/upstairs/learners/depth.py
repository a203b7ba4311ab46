"""How deep: a depth for each task, decided from its support set."""

from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.core import Examples, Learner, LossFn, Task, cross_entropy, evaluating
from upstairs.errors import UpstairsError
from upstairs.learners.metric import Prototypes, by_distance, class_means
from upstairs.nets.cells import Exit
from upstairs.nets.norm import is_transductive


class Exits(NamedTuple):
    """At each depth the prototypes, and the probability to end there if not before."""

    prototypes: list[Prototypes]
    gates: list[Float[Tensor, ""]]


class EarlyExit(Learner[Exits]):
    """A ProtoNet that may end after any stage of its encoder; a task's support set decides where, for all its queries.

        d_l = scale_l |f_l(x) - c_lk|^2                     logits of exit l are -d_l
        s_l = log of mean over classes of -log p_l(k | c_k)  how little the class means stand apart at depth l
        g_l = sigmoid(10 (u_l - v_l s_l)),  g_L = 1          the probability to end at l, if not before
        q_l = g_l * product over j < l of (1 - g_j)
        loss = sum over l of q_l (CE_l + price * cost_l) + mean over l of CE_l

    In training depth is a mixture (adaptive computation, Graves 2016; with exits, Teerapittayanon et al. 2016); in
    use a task ends at the first depth with g_l above a half: `solve_early` computes nothing beyond it. The
    price makes depth worth its while: it is what a whole pass may cost in nats. Embeddings are not trained to please
    the gates: s_l is a constant to them.

    Args:
        stages: modules, each reading the last one's output.
        sizes: of the vector at each exit, which scale the distance.
        costs: of all stages up to each, as shares of the whole; the last is 1.
        way: classes that `predict` answers; the meta-parameters serve any number (`for_way`).
        scale: of the squared distance over the square root of its size, at the start.
        price: of a full pass, in nats.
    """

    loss_fn: LossFn = staticmethod(cross_entropy)

    def __init__(
        self, stages: nn.Sequential, *, sizes: list[int], costs: list[float], way: int, scale: float = 0.8,
        price: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        if len(stages) < 2:
            raise UpstairsError(f"the network has {len(stages)} stage: to end early it needs 2 or more")
        self.stages, self.exit, self.way = stages, Exit(), way
        self.price, self.costs = price, costs
        self.log_scale = nn.Parameter(torch.tensor([scale / size**0.5 for size in sizes]).log())
        self.bias = nn.Parameter(torch.full((len(stages) - 1,), -0.2))
        self.slope = nn.Parameter(torch.full((len(stages) - 1,), 0.1))

    @property
    def transductive(self) -> bool:
        return is_transductive(self)

    def embeddings(self, x: Tensor) -> list[Float[Tensor, "n d"]]:
        return [self.exit(x := stage(x)) for stage in self.stages]

    def logits(self, depth: int, prototypes: Prototypes, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return by_distance(prototypes, z, self.log_scale[depth].exp())

    def gate(self, depth: int, prototypes: Prototypes) -> Float[Tensor, ""]:
        """g_l: the probability to end after stage `depth`, if the task has come so far."""
        each = self.logits(depth, prototypes, prototypes.mean).log_softmax(-1)
        own = (each * torch.eye(self.way, dtype=each.dtype, device=each.device)).sum(-1)
        confused = torch.where(prototypes.seen, -own, 0.0).sum() / prototypes.seen.sum().clamp(min=1)
        return (10 * (self.bias[depth] - self.slope[depth] * (confused.detach() + 1e-6).log())).sigmoid()

    def fit(self, found: list[Tensor], support: Examples) -> Exits:
        prototypes = [class_means(z, support, self.way) for z in found]
        gates = list(map(self.gate, range(len(found) - 1), prototypes))
        return Exits(prototypes, [*gates, torch.ones_like(gates[0])])

    def adapt(self, support: Examples, /) -> Exits:
        return self.fit(self.embeddings(support.x), support)

    def predict(self, state: Exits, x: Tensor, /) -> Float[Tensor, "n way"]:
        return self.ended(state, self.embeddings(x))

    def ended(self, state: Exits, found: list[Tensor]) -> Float[Tensor, "n way"]:
        ends = endings([(gate > 0.5).to(gate.dtype) for gate in state.gates])
        each = map(self.logits, range(len(found)), state.prototypes, found)
        return reduce(torch.add, [torch.where(end > 0.5, z, 0.0) for end, z in zip(ends, each, strict=True)])

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        found, n = self.embeddings(torch.cat([task.support.x, task.query.x])), len(task.support.x)
        state, queries = self.fit([z[:n] for z in found], task.support), [z[n:] for z in found]
        total = torch.zeros_like(state.gates[0])
        for depth, share in enumerate(endings(state.gates)):
            logits = self.logits(depth, state.prototypes[depth], queries[depth])
            loss = task.query.mean(self.loss_fn(logits, task.query.y))
            total = total + share * (loss + self.price * self.costs[depth]) + loss / len(queries)
        return total, self.ended(state, queries)


def endings(gates: list[Tensor]) -> list[Tensor]:
    """q_l, the probability to end at each depth, from the probability to end there if not before."""
    left, shares = torch.ones_like(gates[0]), []
    for gate in gates:
        shares.append(left * gate)
        left = left * (1 - gate)
    return shares


@torch.no_grad()
def solve_early(learner: EarlyExit, support: Examples, x: Tensor) -> tuple[Float[Tensor, "n way"], int]:
    """The predictions of one task and the stage it ended after; no later stage is computed, not even for the support.

    What `learner.predict(learner.adapt(support), x)` gives, which runs every stage since it answers many tasks at once.
    """
    z = support.x
    for depth, stage in enumerate(learner.stages):
        z = stage(z)
        prototypes = class_means(learner.exit(z), support, learner.way)
        if depth == len(learner.stages) - 1 or learner.gate(depth, prototypes) > 0.5:
            return learner.logits(depth, prototypes, learner.exit(learner.stages[: depth + 1](x))), depth
    raise AssertionError("a task ends at the last stage")


def costs_of(stages: nn.Sequential, shape: tuple[int, ...]) -> list[float]:
    """Multiplications of all stages up to each, as shares of the whole."""
    counts: list[int] = []

    def count(layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        counts[-1] += layer.get_parameter("weight").numel() * out[0].numel() // out.shape[1]

    layers = [m for m in stages.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with evaluating(stages):
            x = torch.zeros(1, *shape)
            for stage in stages:
                counts.append(0)
                x = stage(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [sum(counts[: i + 1]) / sum(counts) for i in range(len(counts))]
