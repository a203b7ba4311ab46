"""Meta gradient descent, meta stochastic gradient descent, meta transfer learning: steps along gradients or losses."""

from upstairs.learners.building import FUNCTIONS, INNER_LOOP, SMALL_STEPS, Entry, on_net
from upstairs.learners.gradient.cavia import cavia, modulated
from upstairs.learners.gradient.maml import anil, boil, fomaml, imaml, maml, meta_curvature, meta_sgd
from upstairs.learners.gradient.maml_pp import maml_pp
from upstairs.learners.gradient.mtl import mtl
from upstairs.learners.gradient.reptile import reptile
from upstairs.learners.gradient.sparse_maml import sparse_maml, t_net, transformed
from upstairs.learners.learned_optimizer.rules import learned_optimizer

_STRATEGY = {"estimator": "es", "tasks": 25, "pairs": 2, "sigma": 0.02, "lr": 1e-2}

GRADIENT_LEARNERS: dict[str, Entry] = {
    # meta gradient descent
    "maml": Entry(
        on_net(maml), INNER_LOOP, "MAML: a start from which few gradient steps suffice (Finn 2017)", FUNCTIONS
    ),
    "anil": Entry(
        on_net(anil), INNER_LOOP, "ANIL: MAML that adapts its last layer alone (Raghu 2020)", FUNCTIONS
    ),
    "boil": Entry(
        on_net(boil), INNER_LOOP, "BOIL: MAML that adapts all but its last layer (Oh 2021)", FUNCTIONS
    ),
    "maml_pp": Entry(
        on_net(maml_pp), INNER_LOOP | {"inner_steps": 3},
        "MAML++: judged after each step, a learned rate for each step and layer (Antoniou 2019)", FUNCTIONS,
    ),
    "imaml": Entry(
        on_net(imaml), SMALL_STEPS, "iMAML: meta-gradients at the minimum (Rajeswaran 2019)",
        FUNCTIONS | {"inner_steps": 16, "inner_lr": 0.003},  # larger steps diverge within a few thousand
    ),
    "cavia": Entry(
        on_net(cavia, lambda net: modulated(net, size=100)), INNER_LOOP | {"inner_lr": 20.0, "inner_steps": 3},
        "CAVIA: a context that the network reads is all that adapts (Zintgraf 2019)", FUNCTIONS,
    ),
    # meta stochastic gradient descent
    "fomaml": Entry(
        on_net(fomaml), SMALL_STEPS, "first-order MAML: inner gradients as constants (Finn 2017)", FUNCTIONS
    ),
    "meta_sgd": Entry(
        on_net(meta_sgd), INNER_LOOP, "Meta-SGD: MAML with a learned rate for each weight (Li 2017)", FUNCTIONS
    ),
    "meta_curvature": Entry(
        on_net(meta_curvature), INNER_LOOP,
        "MAML with a learned preconditioner of the gradient (Park 2019)", FUNCTIONS,
    ),
    # meta transfer learning
    "reptile": Entry(
        on_net(reptile), INNER_LOOP | {"shot": "10", "inner_steps": 8, "inner_batch": 10, "inner_lr": 0.1},
        "Reptile: the start moves to where tasks end (Nichol 2018)",
        FUNCTIONS | {"shot": "10", "inner_steps": 8, "inner_lr": 0.02},
    ),
    "es_maml": Entry(
        on_net(maml),
        INNER_LOOP | _STRATEGY | {"width": 8, "inner_steps": 5, "tasks": 16, "pairs": 1, "sigma": 0.1},
        "ES-MAML: MAML by evolution strategies, from losses alone (Song 2020)", FUNCTIONS | _STRATEGY,
    ),
    "mtl": Entry(
        on_net(mtl),
        {
            "way": 5, "shot": "1", "query": 5, "tasks": 4, "width": 64, "norm": "population", "inner_steps": 10,
            "inner_lr": 0.1, "lr": 2e-3, "pretrain": 0.6, "hard": 0.2,
        },
        "meta-transfer learning: scale and shift of a pretrained, frozen network (Sun 2019)",
    ),
    # learned optimisers: the rule of the inner loop is a network
    "learned_optimizer": Entry(
        on_net(learned_optimizer), INNER_LOOP | {"inner_steps": 2, "inner_lr": 0.2, "lr": 6e-3},
        "a learned optimiser: an LSTM writes the inner steps, from a learned start (Ravi 2017)", FUNCTIONS,
    ),
    # learning of structure: which parameters adapt, and in which geometry
    "sparse_maml": Entry(
        on_net(sparse_maml), INNER_LOOP,
        "sparse-MAML: MAML that learns which weights adapt (von Oswald 2021)", FUNCTIONS,
    ),
    "t_net": Entry(
        on_net(t_net, transformed), INNER_LOOP,
        "T-Net: MAML with learned layers, which do not adapt, after those that do (Lee and Choi 2018)", FUNCTIONS,
    ),
}  # fmt: skip
