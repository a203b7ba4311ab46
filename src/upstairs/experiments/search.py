"""What gradients cannot reach (a network's kind, a number of steps): searched by Optuna, extra `[search]`.

    found = search(score, {"rate": Range(1e-4, 1e-1, log=True), "steps": Range(1, 10), "net": ["mlp", "bag"]}, trials=9)

A search that has a storage is resumed by the same call, in other processes and on other machines too. Warm starts from
earlier tasks are tried first: learning to search, in its plainest form.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from upstairs.errors import UpstairsError


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included: whole ones where both are.

    Args:
        log: each power of ten is as likely as another.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high or (self.log and self.low <= 0):
            need = "low above 0 and not above high" if self.log else "low not above high"
            raise UpstairsError(f"a range from {self.low} to {self.high} cannot be searched: give {need}")


Space = Mapping[str, Range | Sequence[Any]]
Report = Callable[[int, float], None]  # (how far, the score there): ends a trial that is no good
Score = Callable[[dict[str, Any], Report], float]


@dataclass(frozen=True)
class Found:
    """What a search came to; all of it, with Optuna's own pictures and tools, is in `study`.

    Args:
        settings: the best ones.
        score: theirs. Of the data that chose them, so better than it is: judge by a third split.
        pruned: trials that were ended early.
    """

    settings: dict[str, Any]
    score: float
    trials: int
    pruned: int
    study: Any


def search(
    score: Score, space: Space, *, trials: int, maximise: bool = False, storage: str | Path | None = None,
    name: str = "search", earlier: Sequence[str] = (), best_of_each: int = 3, seed: int = 0, quiet: bool = True,
) -> Found:  # fmt: skip
    """Try settings, by a tree-structured Parzen estimator (Bergstra et al. 2011), and prune below the others' median.

    Args:
        score: called with settings and `report`; returns the score. Call `report(step, score so far)` as it goes on,
            and a trial that is worse there than half of those before ends.
        space: a `Range`, or a list of choices, for each setting.
        trials: how many there shall be in all, those of a resumed search included.
        storage: a file of SQLite, or any storage URL of Optuna (several machines: its own databases). None: memory.
        name: of the search in the storage; the same name goes on with it.
        earlier: names of searches in the storage, on other tasks: their `best_of_each` best settings are tried first,
            as far as they lie in the space.
        seed: of the sampler. A resumed search is not that of one never stopped: its sampler begins anew.

    Raises:
        UpstairsError: Optuna is not installed, the space is empty or not that of the search that goes on, the storage
            cannot be opened, there is no such earlier search, or no trial came to its end.
    """
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise UpstairsError("the search needs Optuna: pip install 'upstairs[search]'") from error
    if not space or trials < 1 or any(not isinstance(r, Range) and len(r) == 0 for r in space.values()):
        raise UpstairsError(f"trials is {trials} and the space is {dict(space)}: give 1 or more, and choices for each")
    if earlier and storage is None:
        raise UpstairsError("earlier searches are read from a storage, and none is given: give storage='search.db'")
    optuna.logging.set_verbosity(optuna.logging.WARNING if quiet else optuna.logging.INFO)
    url = f"sqlite:///{storage}" if storage is not None and "://" not in str(storage) else storage
    way = "maximize" if maximise else "minimize"
    try:
        study = optuna.create_study(
            storage=None if url is None else str(url), study_name=name, load_if_exists=True, direction=way,
            sampler=optuna.samplers.TPESampler(seed=seed), pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
        )  # fmt: skip
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise UpstairsError(
            f"the storage {storage} cannot be opened ({str(error).splitlines()[0]}): give a file in a folder that is "
            "there, or a URL whose database driver is installed"
        ) from error
    kinds = {n: _distribution(optuna, of) for n, of in space.items()}
    _refuse_another(optuna, study, kinds)
    if not study.trials:
        for settings in _warm(optuna, str(url), earlier, space, best_of_each):
            study.enqueue_trial(settings, skip_if_exists=True)

    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    left = trials - len(study.get_trials(deepcopy=False, states=ended))
    for _ in range(left):
        _try(optuna, study, score, kinds)
    done = study.get_trials(deepcopy=False, states=ended[:1])
    if not done:
        raise UpstairsError(f"none of {trials} trials came to its end: every one was pruned; give more trials")
    pruned = len(study.get_trials(deepcopy=False, states=ended[1:]))
    return Found(dict(study.best_params), float(study.best_value), len(done) + pruned, pruned, study)


def _distribution(optuna: Any, of: Range | Sequence[Any]) -> Any:
    if not isinstance(of, Range):
        return optuna.distributions.CategoricalDistribution(list(of))
    whole = isinstance(of.low, int) and isinstance(of.high, int)
    kind = optuna.distributions.IntDistribution if whole else optuna.distributions.FloatDistribution
    return kind(of.low, of.high, log=of.log)


def _refuse_another(optuna: Any, study: Any, kinds: Mapping[str, Any]) -> None:
    """A search goes on with the kinds of values and the choices that it had."""
    for trial in study.get_trials(deepcopy=False):
        for name, had in trial.distributions.items():
            try:
                if name in kinds:
                    optuna.distributions.check_distribution_compatibility(had, kinds[name])
            except ValueError as error:
                raise UpstairsError(
                    f"the search '{study.study_name}' in this storage had {name} from {had}, not from {kinds[name]}: "
                    "give what it had, or another name (on the command line another --out)"
                ) from error


def _try(optuna: Any, study: Any, score: Score, kinds: dict[str, Any]) -> None:
    """One trial; what goes wrong in it is the caller's to see, and is not counted as a bad score."""
    trial = study.ask(kinds)

    def report(step: int, value: float) -> None:
        trial.report(value, step)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        value = score(trial.params, report)
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except BaseException:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        raise
    else:
        study.tell(trial, value)


def _warm(optuna: Any, url: str, earlier: Sequence[str], space: Space, best: int) -> list[dict[str, Any]]:
    """The best settings of earlier tasks: first the best of each, then the second of each, and so on."""
    columns = []
    for name in earlier:
        try:
            study = optuna.load_study(study_name=name, storage=url)
        except KeyError as error:
            raise UpstairsError(f"there is no search '{name}' in {url}: name one that was run there") from error
        done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        worst_first = study.direction == optuna.study.StudyDirection.MAXIMIZE
        ranked = sorted(done, key=lambda t: t.value, reverse=worst_first)[:best]
        columns.append([{n: v for n, v in t.params.items() if n in space and _inside(v, space[n])} for t in ranked])
    return [settings for row in zip_longest(*columns) for settings in row if settings]


def _inside(value: Any, of: Range | Sequence[Any]) -> bool:
    return of.low <= value <= of.high if isinstance(of, Range) else value in of
