"""The sentences under the figures, computed from the numbers, so that they are true for bad results too."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from upstairs.experiments.report.values import (
    Record,
    Result,
    Score,
    Series,
    compare_scores,
    write_duration,
    write_list,
    write_name,
)
from upstairs.statistics import write_interval


class Words(NamedTuple):
    """The words for the classes and groups of a data set."""

    reads: str
    thing: str
    group: str
    groups: str


def choose_words(data: str) -> Words:
    """Returns the words for a data set; general ones for unknown data."""
    known = {
        "glyphs": Words("reads", "characters of scripts", "script", "scripts"),
        "omniglot": Words("reads", "characters", "alphabet", "alphabets"),
    }
    return known.get(data, Words("recognises", "classes", "group", "groups"))


def name_shots(shot: int) -> str:
    return "ONE example" if shot == 1 else f"{shot} examples"


def say_headline(result: Result, trained_on: str, words: Words) -> str:
    """States the best learner's score, and the best baseline's."""
    setting = result.setting
    seen = "it was trained on" if setting.split == "train" else "it has never seen"
    text = (
        f"After meta-training on {trained_on or 'other ' + words.groups}, {result.learner} {words.reads} {words.thing} "
        f"{seen} from {name_shots(setting.shot)} each: {result.score} right when choosing among {setting.way}"
    )
    if result.transductive:
        text += " (and seeing all the questions of a task at once, which is easier)"
    if result.best_baseline is None or result.score is None:
        return f"{text}, where guessing gives {Score(1 / setting.way)}."
    name, score = result.best_baseline
    end = {
        1: f"; without meta-learning, at best {score} ({write_name(name)}).",
        0: f", which is not clearly better than {score} by {write_name(name)}, without any meta-learning.",
        -1: f", which is worse than {score} by {write_name(name)}, without any meta-learning.",
    }
    return text + end[compare_scores(result.score, score)]


def say_bars(results: Sequence[Result]) -> str:
    """States how far the best learner of each setting is from its best baseline, or else from guessing."""
    parts = []
    for result in results:
        if result.score is None:
            continue
        other, score = result.best_baseline or ("guessing", Score(1 / result.setting.way))
        difference = 100 * (result.score.accuracy - score.accuracy)
        side = "above" if difference >= 0 else "below"
        who = "" if parts and result.name == results[0].name else f"{result.name} is "
        parts.append(f"{who}{abs(difference):.1f} points {side} {write_name(other)} among {result.setting.way} classes")
    return f"{write_list(parts)}." if parts else ""


def say_verdicts(results: Sequence[Result]) -> list[str]:
    """Lists learners that do not beat a baseline, and results that are not finite; or states that all beat all."""
    failures: dict[str, list[str]] = {}
    several = len({result.setting[:2] for result in results}) > 1
    for result in results:
        where = f"at {result.setting}" + (f" on {result.setting.data} {result.setting.split}" if several else "")
        if result.score is None:
            failures.setdefault(f"{result.name} has no accuracy, its run gave no finite number:", []).append(where)
            continue
        for name, score in result.baselines.items():
            if (side := compare_scores(result.score, score)) < 1:
                how = "is worse than" if side < 0 else "does not clearly beat"
                start = f"{result.name} {how} its baseline {write_name(name)}:"
                failures.setdefault(start, []).append(f"{result.score} to {score} {where}")
    if not failures and any(result.baselines for result in results):
        return ["Every learner beats every baseline in every setting, by more than their intervals together."]
    return [f"{start} {write_list(parts)}." for start, parts in failures.items()]


def say_differences(best: str, ahead: Mapping[str, Score], intervals: int) -> str:
    """States which contestants the best learner beats in paired differences, and which it does not."""
    verbs = {1: "beats", 0: "is not clearly apart from", -1: "is beaten by"}
    sides = {side: [n for n, score in ahead.items() if compare_scores(score, Score(0.0)) == side] for side in verbs}
    parts = [f"{verbs[side]} {write_list(names)}" for side, names in sides.items() if names]
    text = f"On the same tasks, {best} {write_list(parts)}."
    return f"{text} Of {intervals} intervals, {0.05 * intervals:.2g} would miss by chance." if intervals > 1 else text


def say_episode(learner: str, queries: Sequence[Record], labels: Sequence[str], shot: int | None) -> str:
    """States how many queries were classified correctly, and the most frequent confusion."""
    right = sum(query["label"] == query.get("predicted") for query in queries)
    shown = f"shown {name_shots(shot).lower()} of each of {len(labels)} classes" if shot else "shown the examples above"
    text = f"{learner or 'The learner'} was {shown} and then named {right} of {len(queries)} new ones correctly"
    wrong = Counter((q["label"], q["predicted"]) for q in queries if q["label"] != q.get("predicted"))
    if not wrong:
        return text + "."
    (label, predicted), count = wrong.most_common(1)[0]
    times = {1: " once", 2: " twice"}.get(count, f" {count} times") if wrong.total() > 1 else ""
    worst = "its commonest mistake" if times else "its one mistake"
    return f"{text}; {worst}: “{labels[label]}” taken for “{labels[predicted]}”{times}."


def say_curve(series: Sequence[Series], unit: str) -> str:
    """States where the first run was best, and when 90% of its rise was done. `unit` is 'seconds' or 'step'."""

    def write_place(place: float) -> str:
        return write_duration(place) if unit == "seconds" else f"{place:,.0f} step{'' if place == 1 else 's'}"

    best = series[0]
    place, score = max(best.scores.items(), key=lambda item: item[1].accuracy)
    first, start = next(iter(best.scores.items()))
    end = list(best.scores)[-1]
    text = f"{best.name} is best on validation tasks after {write_place(place)}, at {score}"
    if score.accuracy > start.accuracy:
        goal = start.accuracy + 0.9 * (score.accuracy - start.accuracy)
        soon = next(x for x, reached in best.scores.items() if reached.accuracy >= goal)
        text += (
            f"; 90% of its rise from {Score(start.accuracy)} (at {write_place(first)}) is done by {write_place(soon)}"
        )
    later = best.scores[end]
    if end != place and compare_scores(later, score) < 0:
        text += f", and it falls to {later} by {write_place(end)}"
    return text + "."


def say_change(cause: str, name: str, before: Score, after: Score) -> str:
    """States the effect of a cause: lift, lower, or leave."""
    side = compare_scores(after, before)
    if side == 0:
        return f"{cause} leave {name} about where it was ({Score(before.accuracy)}, now {after})"
    return f"{cause} {'lift' if side > 0 else 'lower'} {name} from {Score(before.accuracy)} to {after}"


def say_steps(series: Sequence[Series]) -> str:
    """States the effect of more adaptation steps on the first series."""
    best = series[0]
    few, many = min(best.scores), max(best.scores)
    if few == many:
        return f"{best.name} is at {best.scores[few]} after {few:g} adaptation step{'' if few == 1 else 's'}."
    text = say_change(f"{many:g} adaptation steps instead of {few:g}", best.name, best.scores[few], best.scores[many])
    peak = max(best.scores, key=lambda place: best.scores[place].accuracy)
    return text + ("." if peak in (few, many) else f"; its best is {best.scores[peak]} after {peak:g}.")


def say_shots(series: Sequence[Series], baselines: Sequence[Series]) -> str:
    """States the effect of more shots on the first learner, and on its lead over the baselines."""
    best = (*series, *baselines)[0]
    few, many = min(best.scores), max(best.scores)
    if few == many:
        return f"{best.name} is at {best.scores[few]} with {name_shots(int(few)).lower()} of each class."
    target = 5.0 if 5.0 in best.scores and few < 5 else many
    words = {1.0: "one", 5.0: "Five", 10.0: "Ten", 20.0: "Twenty"}
    more, less = words.get(target, f"{target:g}"), words.get(few, f"{few:g}").lower()
    text = say_change(
        f"{more} examples of each class instead of {less}", best.name, best.scores[few], best.scores[target]
    )
    shared = [one for one in baselines if few in one.scores and many in one.scores]
    if best in baselines or not shared:
        return text + "."
    leads = [100 * (best.scores[x].accuracy - max(one.scores[x].accuracy for one in shared)) for x in (few, many)]
    return f"{text}; its lead over the best baseline goes from {leads[0]:+.1f} points to {leads[1]:+.1f} at {many:g}."


def say_breadth(series: Sequence[Series], words: Words) -> str:
    """States the hardest and the easiest group, and the median, for the first series."""
    best = series[0]
    groups = list(best.scores)
    easy, hard = groups[0], groups[-1]
    if len(groups) == 1:
        return f"{best.name} reaches {best.scores[easy]} on {easy}."
    half = list(best.scores.values())[(len(groups) - 1) // 2]
    return (
        f"Hardest of {len(groups)} {words.groups} for {best.name}: {hard}, {best.scores[hard]}; easiest: {easy}, "
        f"{best.scores[easy]}; half of them reach {Score(half.accuracy)} or more."
    )


def say_matrix(names: Sequence[str], rows: Sequence[Record], tasks: int, budget: str = "") -> str:
    """States the best row, the loss on kinds of data that were not trained on, and how the numbers were measured.

    Args:
        budget: such as ' for 1 min', where all trainings had the same budget.
    """
    best = max(range(len(rows)), key=lambda i: rows[i]["mean"])
    text = f"Highest mean: {names[best]}, {Score(rows[best]['mean'])}; its worst is {Score(rows[best]['worst'])}. "
    both = [row for row in rows if row.get("own") is not None and row.get("other") is not None]
    if both:
        own, other = (Score(sum(row[what] for row in both) / len(both)) for what in ("own", "other"))
        which = "Rows trained on one kind" if len(both) > 1 else "What was trained on one kind"
        text += f"{which} have {own} in the mean on new classes of it and {other} on other kinds. "
    text += f"Trained{budget} each. " if budget else ""
    text += f"Each number is of {tasks} tasks of classes that no row was trained on, the same tasks for all rows."
    return text + (" † sees all queries of a task at once." if any(row["transductive"] for row in rows) else "")


def say_points(first: Score, second: Score) -> str:
    """Writes first - second in points; they are from different tasks, so their intervals are combined."""
    half = math.hypot(first.ci95 or 0.0, second.ci95 or 0.0)
    return f"{write_interval(first.accuracy - second.accuracy, half, signed=True)} points"


def say_gap(series: Sequence[Series]) -> str:
    """States the first learner's gap between training classes and new ones, and a baseline's."""
    trained, *_, new = series[0].scores
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


def say_classes(series: Sequence[Series], budget: str) -> str:
    """States the effect of more training classes on the first learner's accuracy on new classes, and on its gap.

    Args:
        series: also those on training classes, whose `learner` is empty.
        budget: the budget of each training.
    """
    best = series[0]
    few, many = min(best.scores), max(best.scores)
    if few == many:
        return f"Trained on {few:,.0f} classes{budget}, {best.name} has {best.scores[few]} on new ones."
    side = {1: "more classes help", 0: "more classes make no clear difference", -1: "more classes do not help"}
    text = (
        f"Trained{budget} on {few:,.0f} classes {best.name} has {best.scores[few]} on new ones, on {many:,.0f} classes "
        f"{best.scores[many]}: {side[compare_scores(best.scores[many], best.scores[few])]}"
    )
    own = next((one.scores for one in series if not one.learner and one.name.startswith(best.name)), {})
    if few not in own or many not in own:
        return text + "."
    gaps = [say_points(own[x], best.scores[x]) for x in (few, many)]
    return f"{text}. Its gap to the classes it was trained on goes from {gaps[0]} to {gaps[1]}."


def say_length(series: Sequence[Series], budget: str) -> str:
    """States the inner-loop length that is best in the same budget, for the first learner."""
    best = series[0]
    place, score = max(best.scores.items(), key=lambda item: item[1].accuracy)
    equal = [f"{x:g}" for x, other in best.scores.items() if x != place and compare_scores(score, other) == 0]
    worst = min(best.scores.items(), key=lambda item: item[1].accuracy)
    text = f"Trained{budget} and tested with as many inner steps, {best.name} is best with {place:g}, at {score}"
    text += f"; {write_list(equal)} {'is' if len(equal) == 1 else 'are'} not clearly worse" if equal else ""
    return text + (f"; lowest with {worst[0]:g}, {worst[1]}." if len(best.scores) > 1 else ".")


def say_times(
    name: str, reached: Mapping[float, float], missed: Sequence[float], plain: tuple[str, Score] | None, *, first: float
) -> str:
    """States when a learner's validation accuracy first reached each target.

    Args:
        reached: by target, seconds of meta-training.
        missed: targets that it never reached.
        plain: the strongest baseline without meta-training, on the same validation tasks.
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


def say_players(series: Sequence[Series]) -> str:
    """States where each loss began and ended."""
    ends = []
    for one in series:
        first, *_, last = [score.accuracy for score in (*one.scores.values(), *one.scores.values())]
        ends.append(f"that of the {one.name} from {first:.3g} to {last:.3g}")
    return f"The loss goes, {' and '.join(ends)}: they pull against each other, and where both stay level neither wins."


def say_bounds(
    names: Sequence[str], values: Sequence[Mapping[float, Score]], gains: Sequence[Mapping[float, Score]]
) -> str:
    """States each bound at the fewest and at the most shots, with the paired difference."""
    parts = []
    for name, own, more in zip(names, values, gains, strict=True):
        few, many = min(own), max(own)
        gain = write_interval(*more[many], percent=False, signed=True)
        first, last = (write_interval(own[x].accuracy, percent=False) for x in (few, many))
        parts.append(f"{name} goes from {first} at {few:g} to {last} at {many:g} ({gain} over the same tasks)")
    nothing = any(0 in own for own in values)
    return (
        "A lower bound on the log-likelihood of examples never seen, by 50 importance samples; higher is better: "
        f"{'; '.join(parts)}. The bars are 95% intervals of the difference from the fewest examples"
        f"{'; after 0 examples it is the same network unconditioned' * nothing}."
    )
