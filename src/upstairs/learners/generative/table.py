"""The registry's entries of the generative learners."""

from upstairs.learners.entries import Entry
from upstairs.learners.options import CriticOptions

HERE = "upstairs.learners.generative.build:"
_SETS = {"query": 4, "norm": "none", "lr": 1e-3, "validations": 10, "validation_tasks": 60}

# learners that did not help and were removed: docs/generation.md has the measurements
REMOVED = {
    "metagan": "it was 3 points worse than its own classifier, so train protonet",
    "figr": "its drawings were recognised no more often than by guessing, so train dagan or redrawing",
}
GENERATIVE_LEARNERS: dict[str, Entry] = {
    "dagan": Entry(
        HERE + "build_dagan", "DAGAN: redraws one example of a class, against a critic of pairs (Antoniou 2018)",
        CriticOptions, generation=_SETS | {"shot": "1", "tasks": 16, "width": 16},
    ),
    "neural_statistician": Entry(
        HERE + "build_statistician", "Neural Statistician: a variational autoencoder of sets (Edwards 2017)",
        generation=_SETS | {"shot": "1-10", "width": 32},
    ),
    "redrawing": Entry(
        HERE + "build_redrawing", "a variational autoencoder that warps and redraws the support pictures",
        generation=_SETS | {"width": 16},
    ),
}  # fmt: skip
