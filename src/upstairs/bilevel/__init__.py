"""Hypergradients: gradients of an outer loss, after any training loop, in its meta-parameters; a dozen methods.

problem = Problem(inner, outer, start=net.parameters, rule=SGD(0.1), steps=100)
found = hypergradient(problem, {"log_decay": torch.tensor(-3.0)}, method=ImplicitHypergradient())
"""

from upstairs.bilevel.diagnose import Diagnosis, diagnose
from upstairs.bilevel.evolution import EvolutionStrategies, PersistentES
from upstairs.bilevel.first_order import FiniteDifference, FirstOrderHypergradient
from upstairs.bilevel.hypergradient import METHODS, hypergradient
from upstairs.bilevel.implicit import ConjugateGradients, ImplicitHypergradient, Neumann, Nystrom
from upstairs.bilevel.outer_loop import Trained, optimize
from upstairs.bilevel.problem import Carry, Hypergradient, Problem
from upstairs.bilevel.pure import Pure, pure
from upstairs.bilevel.through import Forward, OneStep, Recomputed, Truncated, Unrolled
from upstairs.functional.rules import SGD, Adam, AdamW, RMSprop, UpdateRule

__all__ = [
    "METHODS",
    "SGD",
    "Adam",
    "AdamW",
    "Carry",
    "ConjugateGradients",
    "Diagnosis",
    "EvolutionStrategies",
    "FiniteDifference",
    "FirstOrderHypergradient",
    "Forward",
    "Hypergradient",
    "ImplicitHypergradient",
    "Neumann",
    "Nystrom",
    "OneStep",
    "PersistentES",
    "Problem",
    "Pure",
    "RMSprop",
    "Recomputed",
    "Trained",
    "Truncated",
    "Unrolled",
    "UpdateRule",
    "diagnose",
    "hypergradient",
    "optimize",
    "pure",
]
