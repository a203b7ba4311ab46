"""The learners, a folder for each family; modules are imported when first used, so that this needs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upstairs.functional.rules import SGD, LearnedRates, MetaCurvature, StepRates, UpdateRule
    from upstairs.learners.baselines import GaussianPosterior, SupportMean, baselines_for
    from upstairs.learners.building import make_learner, make_net, seeded_learner
    from upstairs.learners.entries import Entry
    from upstairs.learners.generative.base import GenerativeLearner, Unconditioned
    from upstairs.learners.generative.dagan import DAGAN
    from upstairs.learners.generative.games import Game, Turn, recent_means, whose_turn
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
    from upstairs.learners.learned_optimizer.rules import LSTMRule, MLPRule
    from upstairs.learners.metric.bd_cspn import BDCSPN
    from upstairs.learners.metric.closed_form import R2D2, MetaOptNet
    from upstairs.learners.metric.dn4 import DN4
    from upstairs.learners.metric.early_exit import EarlyExit, solve_early
    from upstairs.learners.metric.heads import HEADS
    from upstairs.learners.metric.metanas import MetaNAS
    from upstairs.learners.metric.pretrained import BaselinePlusPlus, CoTraining, SimpleShot
    from upstairs.learners.metric.protonet import MatchingNet, MetricLearner, ProtoNet, RelationNet, nearest_centroid
    from upstairs.learners.model_based.conditioned import FilmLearner, Hypernetwork, Versa
    from upstairs.learners.model_based.neural_processes import ANP, CNP, LNP
    from upstairs.learners.model_based.recurrent import LSTMLearner, MemoryLearner, StreamLearner
    from upstairs.learners.model_based.snail import SequenceLearner, in_context, snail
    from upstairs.learners.open_set import ENOUGH, max_logit, threshold
    from upstairs.learners.registry import LEARNERS, changed, defaults_for, learners, make_settings, read_settings
    from upstairs.settings import LearnerOptions

# `learned_optimizer` is not among them: the folder of that name would hide it
_NAMES = {
    "functional.rules": "LearnedRates MetaCurvature SGD StepRates UpdateRule",
    "learners.baselines": "GaussianPosterior SupportMean baselines_for",
    "learners.building": "make_learner make_net seeded_learner",
    "learners.entries": "Entry",
    "learners.generative.base": "GenerativeLearner Unconditioned",
    "learners.generative.dagan": "DAGAN",
    "learners.generative.games": "Game Turn recent_means whose_turn",
    "learners.generative.neural_statistician": "NeuralStatistician",
    "learners.generative.redrawing": "Redrawing",
    "learners.gradient.cavia": "Concatenated cavia modulated",
    "learners.gradient.maml": "GradientLearner anil boil fomaml imaml maml meta_curvature meta_sgd scratch",
    "learners.gradient.maml_pp": "MultiStep maml_pp",
    "learners.gradient.mtl": "mtl",
    "learners.gradient.proto_maml": "HeadPerTask proto_maml unicorn_maml",
    "learners.gradient.reptile": "Reptile reptile",
    "learners.gradient.sparse_maml": "SparseSGD sparse_maml t_net transformed",
    "learners.learned_optimizer.rules": "LSTMRule MLPRule",
    "learners.metric.bd_cspn": "BDCSPN",
    "learners.metric.closed_form": "MetaOptNet R2D2",
    "learners.metric.dn4": "DN4",
    "learners.metric.early_exit": "EarlyExit solve_early",
    "learners.metric.heads": "HEADS",
    "learners.metric.metanas": "MetaNAS",
    "learners.metric.pretrained": "BaselinePlusPlus CoTraining SimpleShot",
    "learners.metric.protonet": "MatchingNet MetricLearner ProtoNet RelationNet nearest_centroid",
    "learners.model_based.conditioned": "FilmLearner Hypernetwork Versa",
    "learners.model_based.neural_processes": "ANP CNP LNP",
    "learners.model_based.recurrent": "LSTMLearner MemoryLearner StreamLearner",
    "learners.model_based.snail": "SequenceLearner in_context snail",
    "learners.open_set": "ENOUGH max_logit threshold",
    "learners.registry": "LEARNERS changed defaults_for learners make_settings read_settings",
    "settings": "LearnerOptions",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'upstairs.learners' has no attribute '{name}'")
    return getattr(import_module(f"upstairs.{_HOME[name]}"), name)
