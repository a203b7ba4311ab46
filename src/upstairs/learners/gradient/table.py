"""Meta gradient descent, meta stochastic gradient descent, meta transfer learning: steps along gradients or losses."""

from upstairs.learners.entries import FUNCTIONS_IN_STEPS, INNER_LOOP, SMALL_STEPS, Entry
from upstairs.learners.options import GradientOptions

HERE = "upstairs.learners.gradient.build:"
_STRATEGY = {"estimator": "es", "tasks": 25, "pairs": 2, "sigma": 0.02, "lr": 1e-2}

GRADIENT_LEARNERS: dict[str, Entry] = {
    # meta gradient descent
    "maml": Entry(
        HERE + "build_maml", "MAML: a start from which few gradient steps suffice (Finn 2017)", GradientOptions,
        INNER_LOOP, FUNCTIONS_IN_STEPS,
    ),
    "anil": Entry(
        HERE + "build_anil", "ANIL: MAML that adapts its last layer alone (Raghu 2020)", GradientOptions,
        INNER_LOOP, FUNCTIONS_IN_STEPS,
    ),
    "boil": Entry(
        HERE + "build_boil", "BOIL: MAML that adapts all but its last layer (Oh 2021)", GradientOptions,
        INNER_LOOP, FUNCTIONS_IN_STEPS,
    ),
    "maml_pp": Entry(
        HERE + "build_maml_pp",
        "MAML++: judged after each step, a learned rate for each step and layer (Antoniou 2019)", GradientOptions,
        INNER_LOOP | {"inner_steps": 3}, FUNCTIONS_IN_STEPS,
    ),
    "imaml": Entry(
        HERE + "build_imaml", "iMAML: meta-gradients at the minimum (Rajeswaran 2019)", GradientOptions, SMALL_STEPS,
        FUNCTIONS_IN_STEPS | {"inner_steps": 16, "inner_lr": 0.003},  # larger steps diverge within a few thousand
    ),
    "cavia": Entry(
        HERE + "build_cavia", "CAVIA: a context that the network reads is all that adapts (Zintgraf 2019)",
        GradientOptions, INNER_LOOP | {"inner_lr": 20.0, "inner_steps": 3}, FUNCTIONS_IN_STEPS,
    ),
    # meta stochastic gradient descent
    "fomaml": Entry(
        HERE + "build_fomaml", "first-order MAML: inner gradients as constants (Finn 2017)", GradientOptions,
        SMALL_STEPS, FUNCTIONS_IN_STEPS,
    ),
    "meta_sgd": Entry(
        HERE + "build_meta_sgd", "Meta-SGD: MAML with a learned rate for each weight (Li 2017)", GradientOptions,
        INNER_LOOP, FUNCTIONS_IN_STEPS,
    ),
    "meta_curvature": Entry(
        HERE + "build_meta_curvature", "MAML with a learned preconditioner of the gradient (Park 2019)",
        GradientOptions, INNER_LOOP, FUNCTIONS_IN_STEPS,
    ),
    # meta transfer learning
    "reptile": Entry(
        HERE + "build_reptile", "Reptile: the start moves to where tasks end (Nichol 2018)", GradientOptions,
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
        "a learned optimiser: an LSTM writes the inner steps, from a learned start (Ravi 2017)", GradientOptions,
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
