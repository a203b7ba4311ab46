"""A ProtoNet with early exits: each query leaves the encoder once its prediction is certain enough."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from upstairs.core import Examples, Task, evaluating
from upstairs.errors import UpstairsError
from upstairs.learners.metric.protonet import EncoderLearner, Prototypes, by_distance, class_means
from upstairs.nets.cells import Exit
from upstairs.nets.embedding import example_inputs


class Answers(NamedTuple):
    """The logits at each depth, and each query's probability to exit there if it has not exited before."""

    logits: tuple[Float[Tensor, "n way"], ...]
    gates: tuple[Float[Tensor, " n"], ...]


class EarlyExit(EncoderLearner[list[Prototypes]]):
    """A ProtoNet in which each query may exit after any stage of the encoder.

        p_l(k | x) = softmax over k of -scale_l |f_l(x) - c_lk|^2    the prediction at depth l
        H_l = entropy of p_l                                         its uncertainty, in nats
        g_l = sigmoid(10 (u_l - v_l log H_l)),  g_L = 1              the probability to exit at l, if not before
        q_l = g_l * product over j < l of (1 - g_j)
        loss = mean over queries of  sum over l of q_l (CE_l + price * cost_l) + mean over l of CE_l

    In training the depth is a mixture (adaptive computation, Graves 2016; exits by entropy, Teerapittayanon et al.
    2016). In evaluation a query exits at the first depth with g_l above a half, and `solve_early` computes nothing
    beyond it. `price` is the cost of a full pass in nats. H_l is treated as a constant, so that the gates do not train
    the embeddings.

    Args:
        stages: modules, each of which reads the output of the one before.
        sizes: length of the vector at each exit; they scale the distances.
        costs: cost of all stages up to each, as a share of the whole; the last is 1.
        way: number of classes that `predict` answers; the meta-parameters serve any number (`for_way`).
        scale: initial factor of the squared distance, divided by the square root of the vector's length.
        price: cost of a full pass, in nats.
    """

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

    def embeddings(self, x: Tensor) -> list[Float[Tensor, "n d"]]:
        return [self.exit(x := stage(x)) for stage in self.stages]

    def answer(
        self, depth: int, prototypes: Prototypes, z: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n way"], Float[Tensor, " n"]]:
        """Returns each query's logits at exit `depth`, and g_l: its probability to exit there if not before."""
        logits = by_distance(prototypes, z, self.log_scale[depth].exp())
        if depth == len(self.stages) - 1:
            return logits, torch.ones_like(z[:, 0])
        log_p = logits.detach().log_softmax(-1)
        unsure = -(log_p.exp() * log_p).sum(-1)
        return logits, (10 * (self.bias[depth] - self.slope[depth] * (unsure + 1e-6).log())).sigmoid()

    def answers(self, state: list[Prototypes], found: list[Float[Tensor, "n d"]]) -> Answers:
        return Answers(*zip(*map(self.answer, range(len(found)), state, found), strict=True))

    def adapt(self, support: Examples, /) -> list[Prototypes]:
        return [class_means(z, support, self.way) for z in self.embeddings(support.x)]

    def predict(self, state: list[Prototypes], x: Tensor, /) -> Float[Tensor, "n way"]:
        return ended(self.answers(state, self.embeddings(x)))

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        found, n = self.embeddings(torch.cat([task.support.x, task.query.x])), len(task.support.x)
        state = [class_means(z[:n], task.support, self.way) for z in found]
        answers, losses = self.answers(state, [z[n:] for z in found]), []
        for share, logits, cost in zip(endings(answers.gates), answers.logits, self.costs, strict=True):
            loss = self.loss_fn(logits, task.query.y)
            losses.append(share * (loss + self.price * cost) + loss / len(found))
        return task.query.mean(torch.stack(losses).sum(0)), ended(answers)


def endings(gates: Sequence[Tensor]) -> list[Tensor]:
    """Returns q_l, the probability to exit at each depth, from the gates g_l."""
    left, shares = torch.ones_like(gates[0]), []
    for gate in gates:
        shares.append(left * gate)
        left = left * (1 - gate)
    return shares


def ended(answers: Answers) -> Float[Tensor, "n way"]:
    """Returns each query's logits at the first depth whose gate is above a half."""
    ends = endings([(gate > 0.5).to(gate.dtype) for gate in answers.gates])
    each = [torch.where(end[:, None] > 0.5, z, 0.0) for end, z in zip(ends, answers.logits, strict=True)]
    return torch.stack(each).sum(0)


@torch.no_grad()
def solve_early(learner: EarlyExit, support: Examples, x: Tensor) -> tuple[Float[Tensor, "n way"], Int[Tensor, " n"]]:
    """Returns the predictions of one task and the stage after which each query exited; later stages do not run for it.

    The predictions are those of `learner.predict(learner.adapt(support), x)`, which runs every stage. The support set
    is computed as deep as the deepest query.

    Raises:
        UpstairsError: the network is normalised with the statistics of the queries, which must then stay together.
    """
    if learner.transductive:
        raise UpstairsError(
            "this network is normalised with the statistics of its batch, so that an answer depends on which queries "
            "are left: train it with `norm` population"
        )
    z, left, last = support.x, torch.arange(len(x), device=x.device), len(learner.stages) - 1
    ends, result = torch.full_like(left, last), None
    for depth, stage in enumerate(learner.stages):
        z, x = stage(z), stage(x)
        prototypes = class_means(learner.exit(z), support, learner.way)
        logits, gate = learner.answer(depth, prototypes, learner.exit(x))
        result = torch.zeros_like(logits) if result is None else result
        done = gate > 0.5
        result[left[done]], ends[left[done]] = logits[done], depth
        left, x = left[~done], x[~done]
        if not len(left):
            break
    assert result is not None
    return result, ends


def costs_of(stages: nn.Sequential, shape: tuple[int, ...]) -> list[float]:
    """Returns the multiplications of all stages up to each, as shares of the whole."""
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


def early_exit(
    stages: nn.Sequential, *, way: int, shape: tuple[int, ...] | None = None, scale: float = 0.8, price: float = 0.1
) -> EarlyExit:
    """A ProtoNet with early exits, one depth for each query (Graves 2016, Teerapittayanon 2016).

        loss = mean over queries of  sum over l of q_l (CE_l + price * cost_l) + mean over l of CE_l

    Args:
        stages: modules of an encoder, each of which reads the output of the one before: vectors, or maps of pictures.
        shape: shape of one input; it may be None where the first layer is linear.
        scale, price: see `EarlyExit`.

    Raises:
        UpstairsError: the shape is needed; fewer than two stages.
    """
    inputs = example_inputs(stages, shape)
    if len(inputs) != 1:
        raise UpstairsError("how far the stages are apart depends on their inputs: give the `shape` of one input")
    sizes, x = [], inputs[0]
    with evaluating(stages):
        for stage in stages:
            sizes.append(Exit()(x := stage(x)).shape[1])
    costs = costs_of(stages, tuple(inputs[0].shape[1:]))
    return EarlyExit(stages, sizes=sizes, costs=costs, way=way, scale=scale, price=price)
