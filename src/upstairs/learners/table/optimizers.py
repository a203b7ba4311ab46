"""Learned optimisers: the inner loop's rule is itself a network."""

from upstairs.learners.learned_rules import learned_optimizer
from upstairs.learners.table.building import FUNCTIONS, INNER_LOOP, Entry, on_net

OPTIMIZERS: dict[str, Entry] = {
    "learned_optimizer": Entry(
        on_net(learned_optimizer), INNER_LOOP | {"inner_steps": 2, "inner_rate": 0.2, "rate": 6e-3},
        "a learned optimiser: an LSTM writes the inner steps, from a learned start (Ravi 2017)", FUNCTIONS,
    ),
}  # fmt: skip
