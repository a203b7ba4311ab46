"""Learning-rate schedules of the outer loop.

`cosine`            a warm-up of 50 steps, then half a cosine from 1 to 0 over the budget
`linear`            from 1 to 0 over the budget (Nichol, Achiam and Schulman 2018)
`constant`          1
`halve:N`           halved every N steps (Snell, Swersky and Zemel 2017)
`N:FACTOR,...`      the factor from step N on, as in 20000:0.06,40000:0.012 (Lee et al. 2019)
"""

import math
import re

from upstairs.errors import UpstairsError

WARM_UP = 50


def lr_factor(schedule: str, *, done: float, step: int) -> float:
    """Returns the factor of the highest learning rate.

    Args:
        done: the share of the budget that is spent, 0 to 1.
        step: the number of the meta-step, from 0.

    Raises:
        UpstairsError: an unknown schedule.
    """
    done = min(done, 1.0)
    if schedule == "cosine":
        return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "linear":
        return 1 - done
    if schedule == "constant":
        return 1.0
    if match := re.fullmatch(r"halve:([1-9]\d*)", schedule):
        return 0.5 ** (step // int(match[1]))
    if not re.fullmatch(r"\d+:\d*\.?\d+(,\d+:\d*\.?\d+)*", schedule):
        raise UpstairsError(
            f"`schedule` is '{schedule}': give cosine, linear, constant, halve:2000, or factors from a step on, such "
            "as 20000:0.1,40000:0.01"
        )
    drops = [(int(start), float(factor)) for start, factor in (part.split(":") for part in schedule.split(","))]
    return next((factor for start, factor in sorted(drops, reverse=True) if step >= start), 1.0)
