"""The sentences under the figures of depth that several trainings or several sets of classes are behind."""

import math
from collections.abc import Mapping, Sequence

from upstairs.experiments.report.values import Score, Series, compare, write_duration, write_list


def say_points(first: Score, second: Score) -> str:
    """first - second in points, with its interval: of two sets of tasks, so the two intervals together."""
    half = 100 * math.hypot(first.ci95 or 0.0, second.ci95 or 0.0)
    return f"{100 * (first.accuracy - second.accuracy):+.1f}\u00a0±\u00a0{half:.1f} points"


def say_gap(series: Sequence[Series[str]], trained: str, new: str) -> str:
    """What the first learner loses on classes that it was not trained on, and what an untrained baseline loses there.

    Args:
        trained, new: the places of the two scores.
    """
    own, *others = [one for one in series if trained in one.scores and new in one.scores]
    text = (
        f"{own.name} has {own.scores[trained]} on tasks of the classes it was trained on and {own.scores[new]} on "
        f"those of new ones: a gap of {say_points(own.scores[trained], own.scores[new])}"
    )
    plain = next((one for one in others if one.learner == "nearest_centroid"), None)
    if plain is None:
        return text + "."
    gap = say_points(plain.scores[trained], plain.scores[new])
    return f"{text}. {plain.name}, which is not trained, has one of {gap}: so much is in the classes themselves."


def say_classes(series: Sequence[Series[float]], trained: Mapping[str, Series[float]], budget: str) -> str:
    """What more training classes do to the first learner on new classes, and to its gap.

    Args:
        trained: by learner, its scores on the classes it was trained on.
        budget: of each training.
    """
    best = series[0]
    few, many = min(best.scores), max(best.scores)
    if few == many:
        return f"Trained on {few:,.0f} classes{budget}, {best.name} has {best.scores[few]} on new ones."
    side = {1: "more classes help", 0: "more classes make no clear difference", -1: "more classes do not help"}
    text = (
        f"Trained{budget} on {few:,.0f} classes {best.name} has {best.scores[few]} on new ones, on {many:,.0f} classes "
        f"{best.scores[many]}: {side[compare(best.scores[many], best.scores[few])]}"
    )
    own = trained.get(best.learner)
    if own is None or few not in own.scores or many not in own.scores:
        return text + "."
    gaps = [say_points(own.scores[x], best.scores[x]) for x in (few, many)]
    return f"{text}. Its gap to the classes it was trained on goes from {gaps[0]} to {gaps[1]}."


def say_length(series: Sequence[Series[float]], budget: str) -> str:
    """Which inner-loop length trains best in the same budget, for the first learner."""
    best = series[0]
    place, score = max(best.scores.items(), key=lambda item: item[1].accuracy)
    equal = [f"{x:g}" for x, other in best.scores.items() if x != place and compare(score, other) == 0]
    worst = min(best.scores.items(), key=lambda item: item[1].accuracy)
    text = f"Trained{budget} and tested with as many inner steps, {best.name} is best with {place:g}, at {score}"
    text += f"; {write_list(equal)} {'is' if len(equal) == 1 else 'are'} not clearly worse" if equal else ""
    return text + (f"; lowest with {worst[0]:g}, {worst[1]}." if len(best.scores) > 1 else ".")


def say_times(
    name: str, reached: Mapping[float, float], missed: Sequence[float], plain: tuple[str, Score] | None, *, first: float
) -> str:
    """When a learner's validation accuracy first was as high as each target.

    Args:
        reached: by target, seconds of meta-training.
        missed: targets that it never reached.
        plain: the strongest opponent without meta-training, on the same validation tasks.
        first: seconds to the first validation.
    """
    text = ""
    if plain is not None:
        text = f"{plain[0]} has {plain[1]} on the validation tasks with no meta-training; "
        when = reached.get(plain[1].accuracy)
        passes = "does not pass it" if when is None else f"passes it within {write_duration(when)}"
        text += f"{name} {passes}"
    others = {target: when for target, when in reached.items() if plain is None or target != plain[1].accuracy}
    if others:
        times = write_list([f"{100 * target:.0f}% after {write_duration(when)}" for target, when in others.items()])
        text += f" and has {times}" if text else f"{name} has {times}"
    high = [f"{100 * target:.0f}%" for target in missed if plain is None or target != plain[1].accuracy]
    text += f"; {write_list(high)} it does not reach" if high else ""
    return f"{text}. Times are those of validations, the first of them after {write_duration(first)}."
