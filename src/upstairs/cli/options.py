"""Options that several commands share, and every setting of a run as one."""

from dataclasses import Field, dataclass, fields, make_dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, get_args

from tyro.conf import arg

from upstairs.settings import Settings

OWN = "(default: the learner's own)"


def _describe(setting: Field[Any]) -> Any:
    """The option of a setting: its help, and a short word for its value."""
    if setting.type is bool:
        return arg(help=setting.metadata["help"])
    kinds = get_args(setting.type) or (setting.type,)
    word = "|".join(kind.__name__ if isinstance(kind, type) else str(kind) for kind in kinds if kind is not NoneType)
    return arg(help=setting.metadata["help"], help_behavior_hint=OWN, metavar=word.upper() if "|" not in word else word)


if TYPE_CHECKING:

    class Options: ...
else:  # every setting as an option that may be left out: what is left out is the learner's own default
    Options = make_dataclass(
        "Options",
        [
            (
                f.name,
                Annotated[bool if f.type is bool else f.type | None, _describe(f)],
                False if f.type is bool else None,
            )
            for f in fields(Settings)
            if f.name not in ("learner", "classes")
        ],
    )


def given(options: Options) -> dict[str, Any]:
    """The settings that were given; a flag that is off is one that was left out."""
    return {name: value for name, value in vars(options).items() if value is not None and value is not False}


def _optional(help: str, default: str, *, metavar: str) -> Any:
    """An option that may be left out, with what happens then in words."""
    return arg(metavar=metavar, help=help, help_behavior_hint=f"(default: {default})")


Way = Annotated[int | None, _optional("Classes in a task.", "5, or what the learner can", metavar="INT")]
Shot = Annotated[
    int | None, _optional("Support examples of each class.", "1; for regression as trained", metavar="INT")
]
Query = Annotated[int | None, _optional("Query examples of each class.", "15, or what the classes have", metavar="INT")]
InnerSteps = Annotated[int | None, _optional("Gradient learners: inner steps.", "as trained", metavar="INT")]
OtherData = Annotated[str | None, _optional("Other data than the run's own.", "the run's test classes", metavar="PATH")]
Part = Annotated[
    str | None, _optional("train, val, test, or all classes.", "test; all of a foreign folder", metavar="NAME")
]
RunDirectory = Annotated[
    Path | None, _optional("The run's directory: checkpoints, settings, learning curve.", "runs/NAME", metavar="PATH")
]
Page = Annotated[Path | None, _optional("The page to write.", "report.html in the first run", metavar="PATH")]
Quiet = Annotated[bool, arg(help="Say nothing while working.")]
Json = Annotated[bool, arg(help="Print the result as json.")]


@dataclass(frozen=True)
class TaskOptions:
    """The tasks that runs are put to."""

    data: OtherData = None
    split: Part = None
    way: Way = None
    shot: Shot = None
    query: Query = None
    tasks: Annotated[int, arg(help="How many tasks; 600 or more for a number worth telling.")] = 600
    seed: Annotated[int, arg(help="Which frozen list of tasks: the same seed gives every learner the same tasks.")] = 0
    baselines: Annotated[
        bool, arg(help="Score baselines without meta-learning, such as training from scratch, on the same tasks.")
    ] = True
