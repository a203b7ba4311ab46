"""Population statistics of normalisation layers, measured on training tasks before evaluation."""

from collections.abc import Iterable
from itertools import chain, islice

from torch import Tensor, nn

from upstairs.core import Learner, Task
from upstairs.data.episodes import Episodes
from upstairs.data.seeds import task_seed
from upstairs.functional.batching.vectorize import chosen
from upstairs.functional.exclusive import exclusive
from upstairs.nets.norm import measurable_layers, measuring
from upstairs.tree import to_device_of

CALIBRATION = 2**19  # calibration streams start here: training streams (0, 1, ...) never meet their tasks


@exclusive
def calibrate(
    learner: nn.Module, training: Episodes | Iterable[Task | Tensor], *, tasks: int = 8, seed: int = 0
) -> None:  # fmt: skip
    """Measures the population statistics of a learner's network, which replace batch statistics in evaluation.

        upstairs.calibrate(learner, train_tasks)

    They are the mean over tasks of each layer's batch mean and variance, for the current weights (see
    `nets.norm.measuring`). Call it after training, and again whenever the weights have changed. A learner without such
    statistics is left as it is.

    Args:
        learner: a learner; or any network, which then receives batches of inputs.
        training: the training episodes, of which `tasks` tasks are drawn, one at a time; or batches, which are all
            used.
        seed: the seed of the tasks that are drawn.
    """
    if not measurable_layers(learner):
        return
    if isinstance(training, Episodes):
        if isinstance(learner, Learner) and training.largest_way not in (None, learner.way):
            learner = learner.for_way(training.largest_way)
        draw = training.batch
        training = (draw([task_seed(CALIBRATION + seed, i)]) for i in range(tasks))
    batches, run = (to_device_of(learner, batch) for batch in training), learner
    if isinstance(learner, Learner):
        game = len(learner.players()) > 1  # its loss also sees generated inputs
        run, name = (learner.solve, "solve") if game else (learner, "meta_loss")
        if chosen(learner, name) is None:  # the first pass tries several ways to run, and each would be measured
            first = list(islice(batches, 1))
            for batch in first:
                with measuring(learner):
                    run(batch)
            batches = chain(first, batches)
    with measuring(learner):
        for batch in batches:
            run(batch)
