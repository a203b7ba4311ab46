"""Meta-parameters of any training loop: hypergradients by a dozen methods, with one call.

problem = Problem(inner, outer, start=net.parameters, rule=SGD(0.1), steps=100)
found = hypergradient(problem, {"log_decay": torch.tensor(-3.0)}, method=Implicit())
"""

from upstairs.bilevel.diagnose import Diagnosis, diagnose
from upstairs.bilevel.evolution import EvolutionStrategies, PersistentES
from upstairs.bilevel.first_order import FiniteDifference, FirstOrder
from upstairs.bilevel.hypergradient import METHODS, hypergradient
from upstairs.bilevel.implicit import ConjugateGradients, Implicit, Neumann, Nystrom
from upstairs.bilevel.problem import Carry, Hypergradient, Problem
from upstairs.bilevel.pure import Pure, pure
from upstairs.bilevel.rules import RULES, SGD, Adam, AdamW, InnerRule, RMSprop, Updates
from upstairs.bilevel.through import Forward, OneStep, Recomputed, Truncated, Unrolled
from upstairs.bilevel.train import Trained, train

__all__ = [
    "METHODS",
    "RULES",
    "SGD",
    "Adam",
    "AdamW",
    "Carry",
    "ConjugateGradients",
    "Diagnosis",
    "EvolutionStrategies",
    "FiniteDifference",
    "FirstOrder",
    "Forward",
    "Hypergradient",
    "Implicit",
    "InnerRule",
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
    "Updates",
    "diagnose",
    "hypergradient",
    "pure",
    "train",
]
