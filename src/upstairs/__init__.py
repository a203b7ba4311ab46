"""Upstairs: learning to learn. Train on a distribution of tasks, solve a new one from a handful of examples.

A loop of your own:  learner = upstairs.maml(net, way=5); step = upstairs.meta_backward(learner, tasks)
A trained run:       run = upstairs.load("RUN"); model = run.adapt("my_classes/"); model.predict(["picture.png"])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from upstairs.core import Examples, Learner, Task
    from upstairs.data.episodes import Episodes
    from upstairs.data.source import Source
    from upstairs.data.splits import Splits, split_by_group, split_by_ratio
    from upstairs.encoders.open import encoder
    from upstairs.engine.calibrate import calibrate
    from upstairs.engine.evaluate import evaluate
    from upstairs.engine.explain import explain
    from upstairs.engine.meta_backward import meta_backward
    from upstairs.engine.plan import plan
    from upstairs.errors import UpstairsError
    from upstairs.experiments.compare import compare
    from upstairs.functional.differentiate import Exact, FirstOrder, Implicit
    from upstairs.functional.inner_loop import inner_loop
    from upstairs.functional.rules import SGD, Adam, AdamW, Clipped, RMSprop, UpdateRule
    from upstairs.learners.generative.dagan import dagan
    from upstairs.learners.generative.neural_statistician import neural_statistician
    from upstairs.learners.generative.redrawing import redrawing
    from upstairs.learners.gradient.cavia import cavia
    from upstairs.learners.gradient.maml import (
        GradientLearner,
        anil,
        boil,
        fomaml,
        imaml,
        maml,
        meta_curvature,
        meta_sgd,
    )
    from upstairs.learners.gradient.maml_pp import maml_pp
    from upstairs.learners.gradient.mtl import mtl
    from upstairs.learners.gradient.proto_maml import proto_maml, unicorn_maml
    from upstairs.learners.gradient.reptile import reptile
    from upstairs.learners.gradient.sparse_maml import sparse_maml, t_net
    from upstairs.learners.learned_optimizer.rules import learned_optimizer
    from upstairs.learners.metric.bd_cspn import bd_cspn
    from upstairs.learners.metric.closed_form import metaoptnet, r2d2
    from upstairs.learners.metric.dn4 import dn4
    from upstairs.learners.metric.early_exit import early_exit
    from upstairs.learners.metric.metanas import metanas
    from upstairs.learners.metric.pretrained import baseline_pp, co_training, simpleshot
    from upstairs.learners.metric.protonet import matchingnet, protonet, relationnet
    from upstairs.learners.model_based.caml import caml
    from upstairs.learners.model_based.conditioned import film, hypernetwork, versa
    from upstairs.learners.model_based.neural_processes import anp, cnp, lnp
    from upstairs.learners.model_based.recurrent import lstm, memory
    from upstairs.learners.model_based.snail import in_context, snail
    from upstairs.testing import check_learner
    from upstairs.training.adapt import adapt
    from upstairs.training.model import Model, load_adapted
    from upstairs.training.run import Run, load
    from upstairs.training.train import train

_NAMES = {
    "core": "Examples Learner Task",
    "data.episodes": "Episodes",
    "data.source": "Source",
    "data.splits": "Splits split_by_group split_by_ratio",
    "encoders.open": "encoder",
    "engine.calibrate": "calibrate",
    "engine.evaluate": "evaluate",
    "engine.explain": "explain",
    "engine.meta_backward": "meta_backward",
    "engine.plan": "plan",
    "errors": "UpstairsError",
    "experiments.compare": "compare",
    "functional.differentiate": "Exact FirstOrder Implicit",
    "functional.inner_loop": "inner_loop",
    "functional.rules": "SGD Adam AdamW Clipped RMSprop UpdateRule",
    "learners.generative.dagan": "dagan",
    "learners.generative.neural_statistician": "neural_statistician",
    "learners.generative.redrawing": "redrawing",
    "learners.gradient.cavia": "cavia",
    "learners.gradient.maml": "GradientLearner anil boil fomaml imaml maml meta_curvature meta_sgd",
    "learners.gradient.maml_pp": "maml_pp",
    "learners.gradient.mtl": "mtl",
    "learners.gradient.proto_maml": "proto_maml unicorn_maml",
    "learners.gradient.reptile": "reptile",
    "learners.gradient.sparse_maml": "sparse_maml t_net",
    "learners.learned_optimizer.rules": "learned_optimizer",
    "learners.metric.bd_cspn": "bd_cspn",
    "learners.metric.closed_form": "metaoptnet r2d2",
    "learners.metric.dn4": "dn4",
    "learners.metric.early_exit": "early_exit",
    "learners.metric.metanas": "metanas",
    "learners.metric.pretrained": "baseline_pp co_training simpleshot",
    "learners.metric.protonet": "matchingnet protonet relationnet",
    "learners.model_based.caml": "caml",
    "learners.model_based.conditioned": "film hypernetwork versa",
    "learners.model_based.neural_processes": "anp cnp lnp",
    "learners.model_based.recurrent": "lstm memory",
    "learners.model_based.snail": "in_context snail",
    "testing": "check_learner",
    "training.adapt": "adapt",
    "training.model": "Model load_adapted",
    "training.run": "Run load",
    "training.train": "train",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Names are imported when first used, so that `import upstairs` is instant."""
    if name == "__version__":
        from importlib.metadata import version

        return version("upstairs")
    if name == "distributed":
        return import_module("upstairs.engine.distributed")
    if name not in _HOME:
        raise AttributeError(f"module 'upstairs' has no attribute '{name}'")
    return getattr(import_module(f"upstairs.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
