"""Room 3, the learners: one family a file; `table` has them by name, `registry.py` finds them."""

from upstairs.functional.rules import SGD, LearnedRates, MetaCurvature, StepRates, UpdateRule
from upstairs.learners.baselines import GaussianPosterior, SupportMean
from upstairs.learners.building import Entry, make_net
from upstairs.learners.generative.augmented import Augmented
from upstairs.learners.generative.base import GenerativeLearner, Unconditioned
from upstairs.learners.generative.dagan import DAGAN
from upstairs.learners.generative.figr import FIGR
from upstairs.learners.generative.games import Game, Turn, of_late, whose_turn
from upstairs.learners.generative.metagan import MetaGAN, NearMisses
from upstairs.learners.generative.neural_statistician import NeuralStatistician
from upstairs.learners.generative.redrawing import Redrawing
from upstairs.learners.gradient.cavia import Concatenated, cavia, modulated
from upstairs.learners.gradient.maml import (
    GradientLearner,
    anil,
    boil,
    fomaml,
    imaml,
    maml,
    meta_curvature,
    meta_sgd,
    scratch,
)
from upstairs.learners.gradient.maml_pp import MultiStep, maml_pp
from upstairs.learners.gradient.mtl import mtl
from upstairs.learners.gradient.proto_maml import HeadPerTask, proto_maml, unicorn_maml
from upstairs.learners.gradient.reptile import Reptile, reptile
from upstairs.learners.gradient.sparse_maml import SparseSGD, sparse_maml, t_net, transformed
from upstairs.learners.learned_optimizer.rules import LSTMRule, MLPRule, learned_optimizer
from upstairs.learners.metric.bd_cspn import BDCSPN
from upstairs.learners.metric.closed_form import R2D2, MetaOptNet
from upstairs.learners.metric.dn4 import DN4
from upstairs.learners.metric.early_exit import EarlyExit, solve_early
from upstairs.learners.metric.metanas import MetaNAS
from upstairs.learners.metric.pretrained import BaselinePlusPlus, CoTraining, SimpleShot
from upstairs.learners.metric.protonet import MatchingNet, MetricLearner, ProtoNet, RelationNet, nearest_centroid
from upstairs.learners.model_based.conditioned import FilmLearner, Hypernetwork, Versa
from upstairs.learners.model_based.neural_processes import ANP, CNP, LNP
from upstairs.learners.model_based.recurrent import LSTMLearner, MemoryLearner, StreamLearner
from upstairs.learners.model_based.snail import SequenceLearner, in_context, snail
from upstairs.learners.open_set import ENOUGH, max_logit, threshold
from upstairs.learners.registry import (
    LEARNERS,
    baselines_for,
    defaults_for,
    entry,
    learners,
    load_plugin,
    make_learner,
    seeded_learner,
)

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
    "ProtoNet",
    "Redrawing",
    "RelationNet",
    "Reptile",
    "SequenceLearner",
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
]
