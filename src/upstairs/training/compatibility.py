"""Checks that options against overfitting fit the learner and the data."""

from upstairs.core import Learner
from upstairs.data.images.format import ImageFormat
from upstairs.data.source import Source
from upstairs.errors import UpstairsError
from upstairs.learners.options import ViewOptions
from upstairs.settings import Settings


def check_compatible(settings: Settings, learner: Learner, source: Source, *, validated: bool) -> None:
    """Raises UpstairsError for an option that would have no effect on the run, or ruin it.

    Args:
        validated: the run has validation tasks.
    """
    if settings.patience and not validated:
        raise UpstairsError(
            "`patience` waits for the validation tasks, and there are none: leave it out, or `train_on_validation`"
        )
    name = settings.learner
    ink = isinstance(source.format, ImageFormat) and source.format.ink
    photos = len(source.feature_shape) == 3 and not ink
    if isinstance(settings.own, ViewOptions) and settings.own.views > 1 and not photos:
        raise UpstairsError(
            "`views` is for photos, which mean the same when they are mirrored, and the data is "
            f"{'line drawings' if ink else source.name}: leave it out"
        )
    texts, draws = source.format is not None and source.format.is_tokens, learner.task_kind == "generation"
    if settings.interpolate != "none" and (learner.global_labels or texts or draws):
        does = "learns to draw what it is shown" if draws else "classifies all training classes"
        what = f"{source.name} is texts" if texts else f"'{name}' {does}"
        raise UpstairsError(f"`interpolate` mixes the inputs of few-shot tasks and {what}: leave it out")
    why = learner.needs_hard_labels
    if why and (settings.interpolate == "metamix" or settings.label_smoothing):
        raise UpstairsError(f"metamix and `label_smoothing` change queries' labels and '{name}' {why}: leave it out")
