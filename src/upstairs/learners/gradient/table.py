"""The registry's entries of the gradient learners."""

from upstairs.learners.entries import FUNCTIONS_IN_STEPS, INNER_LOOP, SMALL_STEPS, Entry
from upstairs.learners.options import GradientOptions

HERE = "upstairs.learners.gradient.build:"
_STRATEGY = {"estimator": "es", "tasks": 25, "pairs": 2, "sigma": 0.02, "lr": 1e-2}

GRADIENT_LEARNERS: dict[str, Entry] = {
    # meta gradient descent
    "maml": Entry(
        HERE + "build_maml", "MAML: initial weights from which few gradient steps suffice (Finn 2017)", GradientOptions,
        INNER_LOOP, FUNCTIONS_IN_STEPS,
    ),
    "anil": Entry(
        HERE + "build_anil", "ANIL: MAML that adapts only its last layer (Raghu 2020)", GradientOptions,
        INNER_LOOP, FUNCTIONS_IN_STEPS,
    ),
    "boil": Entry(
        HERE + "build_boil", "BOIL: MAML that adapts all layers except the last (Oh 2021)", GradientOptions,
        INNER_LOOP, FUNCTIONS_IN_STEPS,
    ),
    "maml_pp": Entry(
        HERE + "build_maml_pp",
        "MAML++: a loss after each step, learned learning rates per step and layer (Antoniou 2019)", GradientOptions,
        INNER_LOOP | {"inner_steps": 3}, FUNCTIONS_IN_STEPS,
    ),
    "imaml": Entry(
        HERE + "build_imaml", "iMAML: meta-gradients at the minimum (Rajeswaran 2019)", GradientOptions, SMALL_STEPS,
        FUNCTIONS_IN_STEPS | {"inner_steps": 16, "inner_lr": 0.003},  # larger steps diverge within a few thousand
    ),
    "cavia": Entry(
        HERE + "build_cavia", "CAVIA: only a context vector that the network reads adapts (Zintgraf 2019)",
        GradientOptions, INNER_LOOP | {"inner_lr": 20.0, "inner_steps": 3}, FUNCTIONS_IN_STEPS,
    ),
    # meta stochastic gradient descent
    "fomaml": Entry(
        HERE + "build_fomaml", "first-order MAML: inner gradients as constants (Finn 2017)", GradientOptions,
        SMALL_STEPS, FUNCTIONS_IN_STEPS,
    ),
    "meta_sgd": Entry(
        HERE + "build_meta_sgd", "Meta-SGD: MAML with a learning rate learned per weight (Li 2017)", GradientOptions,
        INNER_LOOP, FUNCTIONS_IN_STEPS,
    ),
    "meta_curvature": Entry(
        HERE + "build_meta_curvature", "MAML with a learned preconditioner of the gradient (Park 2019)",
        GradientOptions, INNER_LOOP, FUNCTIONS_IN_STEPS,
    ),
    # meta transfer learning
    "reptile": Entry(
        HERE + "build_reptile", "Reptile: initial weights move towards adapted ones (Nichol 2018)", GradientOptions,
        INNER_LOOP | {"shot": "10", "inner_steps": 8, "inner_batch": 10, "inner_lr": 0.1},
        FUNCTIONS_IN_STEPS | {"shot": "10", "inner_steps": 8, "inner_lr": 0.02},
    ),
    "es_maml": Entry(
        HERE + "build_maml", "ES-MAML: MAML by evolution strategies, from losses alone (Song 2020)", GradientOptions,
        INNER_LOOP | _STRATEGY | {"width": 8, "inner_steps": 5, "tasks": 16, "pairs": 1, "sigma": 0.1},
        FUNCTIONS_IN_STEPS | _STRATEGY,
    ),
    "mtl": Entry(
        HERE + "build_mtl",
        "meta-transfer learning: scale and shift of a pretrained, frozen network (Sun 2019)", GradientOptions,
        {
            "way": 5, "shot": "1", "query": 5, "tasks": 4, "width": 64, "norm": "population", "inner_steps": 10,
            "inner_lr": 0.1, "lr": 2e-3, "pretrain": 0.6, "hard": 0.2,
        },
    ),
    # learned optimisers: the rule of the inner loop is a network
    "learned_optimizer": Entry(
        HERE + "build_learned_optimizer",
        "a learned optimiser: an LSTM computes the steps, from learned initial weights (Ravi 2017)", GradientOptions,
        INNER_LOOP | {"inner_steps": 2, "inner_lr": 0.2, "lr": 6e-3}, FUNCTIONS_IN_STEPS,
    ),
    # learning of structure: which parameters adapt, and in which geometry
    "sparse_maml": Entry(
        HERE + "build_sparse_maml", "sparse-MAML: MAML that learns which weights adapt (von Oswald 2021)",
        GradientOptions, INNER_LOOP, FUNCTIONS_IN_STEPS,
    ),
    "t_net": Entry(
        HERE + "build_t_net",
        "T-Net: MAML with learned layers, which do not adapt, after those that do (Lee and Choi 2018)",
        GradientOptions, INNER_LOOP, FUNCTIONS_IN_STEPS,
    ),
}  # fmt: skip
