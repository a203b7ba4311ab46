"""What generates: from a few examples of a class, more of it."""

from upstairs.learners.entry import METRIC, Entry
from upstairs.learners.options import CriticOptions, InnerLoopOptions, NearMissOptions

HERE = "upstairs.learners.generative.build:"
_SETS = {"query": 4, "norm": "none", "lr": 1e-3, "validations": 10, "validation_tasks": 60}

GENERATIVE_LEARNERS: dict[str, Entry] = {
    "metagan": Entry(
        HERE + "build_metagan", "MetaGAN: a ProtoNet that learns with a generator of near-misses (Zhang 2018)",
        NearMissOptions, METRIC | {"way": 20, "critic_steps": 4},
    ),
    "dagan": Entry(
        HERE + "build_dagan", "DAGAN: redraws one example of a class, against a critic of pairs (Antoniou 2018)",
        CriticOptions, generation=_SETS | {"shot": "1", "tasks": 16, "width": 16},
    ),
    "figr": Entry(
        HERE + "build_figr", "FIGR: a GAN that a few steps adapt to a class, its start by Reptile (Clouatre 2019)",
        InnerLoopOptions,
        generation=_SETS | {"shot": "1-5", "tasks": 4, "width": 16, "inner_steps": 10, "inner_lr": 3e-3}
        | {"validations": 5, "validation_tasks": 32},
    ),
    "neural_statistician": Entry(
        HERE + "build_statistician",
        "Neural Statistician: a variational autoencoder of sets, makes more of a class (Edwards 2017)",
        generation=_SETS | {"shot": "1-10", "width": 32},
    ),
    "redrawing": Entry(
        HERE + "build_redrawing", "a variational autoencoder that bends and redraws the support pictures",
        generation=_SETS | {"width": 16},
    ),
}  # fmt: skip
