"""The contents of `upstairs list`."""

from typing import Any

from upstairs.data import KINDS
from upstairs.experiments.published.papers import experiments
from upstairs.learners.registry import learners
from upstairs.training.presets import PRESETS


def list_all() -> dict[str, list[dict[str, Any]]]:
    """Returns every learner with its defaults, every kind of data, preset and published experiment."""
    table = sorted(learners().items())
    return {
        "learners": [
            {"name": n, "summary": e.summary, "defaults": {kind: e.defaults(kind) for kind in e.kinds}}
            for n, e in table
        ],
        "data": [{"name": n, "summary": summary} for n, summary in KINDS.items()],
        "presets": [{"name": n, "summary": p.summary, "settings": p.settings} for n, p in PRESETS.items()],
        "experiments": [{"name": n, "summary": e.summary, "settings": e.settings} for n, e in experiments().items()],
    }
