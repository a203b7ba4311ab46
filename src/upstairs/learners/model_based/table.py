"""The registry's entries of the model-based learners."""

from upstairs.learners.entries import FUNCTIONS, METRIC, Entry
from upstairs.learners.options import ScaleOptions, ViewOptions

HERE = "upstairs.learners.model_based.build:"
_PROCESS = FUNCTIONS | {"shot": "3-20", "query": 20, "tasks": 16, "width": 128}
_READER = METRIC | {"way": 5, "tasks": 8}

MODEL_BASED_LEARNERS: dict[str, Entry] = {
    "hypernetwork": Entry(
        HERE + "build_hypernetwork", "a hypernetwork predicts each class's weights (Ha 2017)", ViewOptions,
        METRIC | {"way": 20, "tasks": 2},
    ),
    "film": Entry(
        HERE + "build_film", "a set encoder scales and shifts the encoder's channels (Requeima 2019, CNAPs)",
        ScaleOptions, METRIC,
    ),
    "versa": Entry(
        HERE + "build_versa", "VERSA: a predicted distribution over each class's weights (Gordon 2019)", ViewOptions,
        METRIC | {"way": 20, "tasks": 2},
    ),
    "cnp": Entry(
        HERE + "build_cnp", "conditional neural process: a mean over the support set (Garnelo 2018)",
        regression=_PROCESS,
    ),
    "lnp": Entry(
        HERE + "build_lnp", "neural process with a latent, by maximum likelihood (Garnelo 2018, Foong 2020)",
        regression=_PROCESS,
    ),
    "anp": Entry(
        HERE + "build_anp", "attentive neural process: queries attend to the support set (Kim 2019)",
        regression=_PROCESS | {"width": 64},
    ),
    # meta neural networks
    "snail": Entry(
        HERE + "build_snail", "SNAIL: temporal convolution and causal attention over the support set (Mishra 2018)",
        classification=_READER,
    ),
    "in_context": Entry(
        HERE + "build_in_context",
        "a transformer that reads the support set and predicts in one pass (TabPFN, Hollmann 2023)",
        classification=_READER,
    ),
    "caml": Entry(
        "upstairs.learners.model_based.caml:build",
        "CAML: a transformer on frozen features reads support and query, labels by angles (Fifty 2024)",
        ViewOptions, METRIC | {"way": 20, "tasks": 2},
    ),
    # meta recurrent networks
    "lstm": Entry(
        HERE + "build_lstm", "an LSTM that reads each label one step late (Hochreiter 2001)", classification=_READER
    ),
    "memory": Entry(
        HERE + "build_memory", "memory-augmented LSTM, reads each label one step late (Santoro 2016)",
        classification=_READER,
    ),
}  # fmt: skip
