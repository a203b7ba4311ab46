"""A model from a few examples and a pretrained encoder, without meta-training."""

from pathlib import Path

import numpy as np
import torch

from upstairs.console import counting
from upstairs.core import Examples, evaluating
from upstairs.data.encoded import encoded_format
from upstairs.data.readers import reader_for
from upstairs.encoders import Encoder
from upstairs.encoders.base import Modality
from upstairs.engine.leave_one_out import choose_head
from upstairs.errors import UpstairsError, check_type
from upstairs.learners import threshold
from upstairs.learners.metric.heads import HEADS
from upstairs.learners.registry import ObjectOptions
from upstairs.settings import Settings
from upstairs.training.inputs import Inputs, Support, example_name, read_support
from upstairs.training.knowledge import Fit
from upstairs.training.model import Model

AUTO = "auto"
MODALITIES: dict[str, Modality] = {"pictures": "image", "sounds": "audio", "texts": "text"}  # of readers


@torch.inference_mode(False)
def adapt(
    support: Support,
    *,
    encoder: str | Path | Encoder | None = None,
    head: str = AUTO,
    unknown: float | None = None,
    columns: str | None = None,
    pattern: str | None = None,
    quiet: bool = True,
) -> Model:
    """Returns a model that knows the classes of a support set: a head in closed form on features of a frozen encoder.

        model = upstairs.adapt("photos/", encoder="mobilenet_v2")
        model.predict("new.jpg")

    Args:
        support: a folder of class folders, a table, {label: inputs} or (inputs, labels), as for `Run.adapt`.
        encoder: a pretrained network: see `upstairs.encoder`. None: the inputs are features, arrays of one shape [d].
        head: one of `upstairs.learners.HEADS`; auto: the one that predicts left-out examples best.
        unknown: lets the model answer `NONE`, as for `Run.adapt`.
        columns, pattern: where the labels are, as in `upstairs train`.
        quiet: show no progress.

    Raises:
        UpstairsError: an encoder that cannot be loaded, or reads other inputs; an unknown head; inputs that cannot be
            read; fewer than 2 classes (3 with `unknown`).
    """
    check_type("head", head, str, f"{AUTO}, or one of {', '.join(HEADS)}")
    if head != AUTO and head not in HEADS:
        raise UpstairsError(f"`head` is '{head}': choose {AUTO}, {', '.join(HEADS)}")
    if unknown is not None:
        check_type("unknown", unknown, (int, float), "a share between 0 and 1, such as 0.1")
    inputs = inputs_of(support, encoder)
    labels, items, y = read_support(support, inputs, columns=columns, pattern=pattern)
    with counting("computing features", quiet=quiet) as progress:
        rows = inputs.read(items, progress).double()
    examples = Examples(rows, torch.tensor(y))
    name, learner = choose_head(examples)[:2] if head == AUTO else (head, HEADS[head](way=len(labels)))
    with evaluating(learner):
        state = learner.adapt(examples)
    bar = None if unknown is None else threshold(learner, examples, share=unknown)
    names = [example_name(item, i) for i, item in enumerate(items)]
    settings = Settings(learner=name, own=ObjectOptions(by_object=True), data="", way=max(2, len(labels)))
    return Model(Fit(learner, state, examples, labels, names, bar), inputs, settings, unknown=unknown, head=name)


def inputs_of(support: Support, encoder: str | Path | Encoder | None) -> Inputs:
    """Returns what reads inputs as features."""
    if encoder is not None:
        check_type("encoder", encoder, (str, Path, Encoder), "a name, a path, or an Encoder")
        modality = None
        if isinstance(support, str | Path) and Path(support).exists():
            modality = MODALITIES.get(reader_for(str(support)).name)
        format = encoded_format(encoder if isinstance(encoder, Encoder) else str(encoder), modality)
        return Inputs(format.shape, format)
    if isinstance(support, str | Path):
        raise UpstairsError(
            "`encoder` is missing, which turns files into features: name one, such as mobilenet_v2 for pictures "
            "(`upstairs.encoder` says what there is)"
        )
    some = next(iter(support.values())) if isinstance(support, dict) else support[0]
    shape = np.shape(some[0] if isinstance(some, list | tuple) else some)
    shape = shape if isinstance(some, list | tuple) else shape[1:] if len(shape) > 1 else shape
    if len(shape) != 1 or shape[0] == 0:
        raise UpstairsError(
            f"without `encoder` each input is a vector of features, and the first has shape {list(shape)}: give arrays "
            "[n, d], or name an encoder"
        )
    return Inputs(tuple(shape), None)
