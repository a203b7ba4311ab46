"""The registry's entries of the metric learners."""

from upstairs.learners.entries import FUNCTIONS, INNER_LOOP, METRIC, Entry
from upstairs.learners.options import (
    FineTuningOptions,
    InnerLoopOptions,
    ProtoMamlOptions,
    PrototypeOptions,
    ScaleOptions,
    ViewOptions,
)

HERE = "upstairs.learners.metric.build:"
_SOLVER = METRIC | {"way": 20, "tasks": 2}
_PRETRAINED = METRIC | {"way": 64, "query": 1}

METRIC_LEARNERS: dict[str, Entry] = {
    # learning of categories
    "protonet": Entry(
        HERE + "build_protonet", "prototypical network: a class is the mean embedding of its examples (Snell 2017)",
        PrototypeOptions, METRIC,
    ),
    "matchingnet": Entry(
        HERE + "build_matchingnet", "matching network: attention to the support examples by cosine (Vinyals 2016)",
        ViewOptions, METRIC,
    ),
    "relationnet": Entry(
        HERE + "build_relationnet", "relation network: a learned comparison of query and class (Sung 2018)",
        ViewOptions, METRIC | {"way": 5, "tasks": 4, "query": 10},
    ),
    "dn4": Entry(
        HERE + "build_dn4", "DN4: local features, each compared with the most similar ones (Li 2019)",
        classification=METRIC | {"way": 20, "query": 2},
    ),
    "r2d2": Entry(
        HERE + "build_r2d2", "ridge regression on each task, solved in closed form (Bertinetto 2019)",
        ViewOptions, _SOLVER, FUNCTIONS,
    ),
    "metaoptnet": Entry(
        HERE + "build_metaoptnet", "a support vector machine on each task (Lee 2019)", ViewOptions, _SOLVER
    ),
    "proto_maml": Entry(
        HERE + "build_proto_maml", "MAML whose head starts as the linear form of ProtoNet (Triantafillou 2020)",
        ProtoMamlOptions, METRIC | {"way": 20, "inner_lr": 0.1},
    ),
    "unicorn_maml": Entry(
        HERE + "build_unicorn_maml", "MAML whose head starts equal for every class (Ye and Chao 2022)",
        InnerLoopOptions, INNER_LOOP,
    ),
    "co_training": Entry(
        HERE + "build_co_training",
        "prototypes, with an auxiliary classification of all training classes (Oreshkin 2018)",
        ViewOptions, _PRETRAINED | {"lr": 6e-3},
    ),
    # no meta-learning: a classifier of all training classes
    "simpleshot": Entry(
        HERE + "build_simpleshot", "no meta-learning: nearest mean of centred, normalised features (Wang 2019)",
        ViewOptions, _PRETRAINED,
    ),
    "baseline_pp": Entry(
        HERE + "build_baseline_pp",
        "no meta-learning: a cosine classifier trained on each task's features (Chen 2019)",
        FineTuningOptions, _PRETRAINED | {"inner_steps": 100, "inner_lr": 0.01},
    ),
    "bd_cspn": Entry(
        HERE + "build_bd_cspn", "prototypes rectified by the queries; transductive (Liu 2020)", ViewOptions,
        _PRETRAINED,
    ),
    # learning of structure: the network and its depth
    "metanas": Entry(
        HERE + "build_metanas",
        "MetaNAS: an architecture search across tasks, then that network as a ProtoNet (Elsken 2020)",
        PrototypeOptions, METRIC | {"way": 20, "width": 32},
    ),
    "early_exit": Entry(
        HERE + "build_early_exit",
        "a ProtoNet of which each query reads only as many stages as it needs (Graves 2016, Teerapittayanon 2016)",
        ScaleOptions, METRIC | {"way": 20, "tasks": 3},
    ),
}  # fmt: skip
