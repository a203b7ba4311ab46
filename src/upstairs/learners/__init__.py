"""Room 3, the learners: one family a file; `table` has them by name, `registry.py` finds them."""

from upstairs.learners.augmented import Augmented
from upstairs.learners.closed_form import R2D2, MetaOptNet
from upstairs.learners.conditioned import FilmLearner, Hypernetwork, Versa
from upstairs.learners.context import Concatenated, cavia, modulated
from upstairs.learners.dagan import DAGAN
from upstairs.learners.depth import EarlyExit, solve_early
from upstairs.learners.figr import FIGR
from upstairs.learners.generative import GenerativeLearner, Unconditioned
from upstairs.learners.gradient import (
    GradientLearner,
    anil,
    boil,
    fomaml,
    imaml,
    maml,
    meta_curvature,
    meta_sgd,
    scratch,
    with_steps,
)
from upstairs.learners.heads import HeadPerTask, proto_maml, unicorn_maml
from upstairs.learners.learned_rules import LSTMRule, MLPRule, learned_optimizer
from upstairs.learners.local import DN4
from upstairs.learners.metagan import MetaGAN, NearMisses
from upstairs.learners.metric import MatchingNet, MetricLearner, ProtoNet, RelationNet, nearest_centroid
from upstairs.learners.multi_step import MultiStep, maml_pp
from upstairs.learners.openset import ENOUGH, max_logit, threshold
from upstairs.learners.players import Game, Player, Side, Turn, of_late, players_of, whose_turn
from upstairs.learners.pretrained import BaselinePlusPlus, CoTraining, SimpleShot
from upstairs.learners.processes import ANP, CNP, LNP
from upstairs.learners.recurrent import LSTMLearner, MemoryLearner, StreamLearner
from upstairs.learners.redrawing import Redrawing
from upstairs.learners.registry import (
    baselines_for,
    defaults_for,
    entry,
    learners,
    load_plugin,
    make_learner,
    seeded_learner,
)
from upstairs.learners.regression import GaussianPosterior, SupportMean
from upstairs.learners.reptile import Reptile, reptile
from upstairs.learners.rules import SGD, LearnedRates, MetaCurvature, StepRates, UpdateRule
from upstairs.learners.search import MetaNAS
from upstairs.learners.sequence import SequenceLearner, in_context, snail
from upstairs.learners.statistician import NeuralStatistician
from upstairs.learners.structure import SparseSGD, sparse_maml, t_net, transformed
from upstairs.learners.table import LEARNERS, Entry, make_net
from upstairs.learners.transductive import BDCSPN
from upstairs.learners.transfer import mtl

__all__ = [
    "ANP",
    "BDCSPN",
    "CNP",
    "DAGAN",
    "DN4",
    "ENOUGH",
    "FIGR",
    "LEARNERS",
    "LNP",
    "R2D2",
    "SGD",
    "Augmented",
    "BaselinePlusPlus",
    "CoTraining",
    "Concatenated",
    "EarlyExit",
    "Entry",
    "FilmLearner",
    "Game",
    "GaussianPosterior",
    "GenerativeLearner",
    "GradientLearner",
    "HeadPerTask",
    "Hypernetwork",
    "LSTMLearner",
    "LSTMRule",
    "LearnedRates",
    "MLPRule",
    "MatchingNet",
    "MemoryLearner",
    "MetaCurvature",
    "MetaGAN",
    "MetaNAS",
    "MetaOptNet",
    "MetricLearner",
    "MultiStep",
    "NearMisses",
    "NeuralStatistician",
    "Player",
    "ProtoNet",
    "Redrawing",
    "RelationNet",
    "Reptile",
    "SequenceLearner",
    "Side",
    "SimpleShot",
    "SparseSGD",
    "StepRates",
    "StreamLearner",
    "SupportMean",
    "Turn",
    "Unconditioned",
    "UpdateRule",
    "Versa",
    "anil",
    "baselines_for",
    "boil",
    "cavia",
    "defaults_for",
    "entry",
    "fomaml",
    "imaml",
    "in_context",
    "learned_optimizer",
    "learners",
    "load_plugin",
    "make_learner",
    "make_net",
    "maml",
    "maml_pp",
    "max_logit",
    "meta_curvature",
    "meta_sgd",
    "modulated",
    "mtl",
    "nearest_centroid",
    "of_late",
    "players_of",
    "proto_maml",
    "reptile",
    "scratch",
    "seeded_learner",
    "snail",
    "solve_early",
    "sparse_maml",
    "t_net",
    "threshold",
    "transformed",
    "unicorn_maml",
    "whose_turn",
    "with_steps",
]
