"""Search of settings without a gradient (the kind of network, the number of steps), by Optuna (extra `[search]`).

    found = search(score, {"rate": Range(1e-4, 1e-1, log=True), "steps": Range(1, 10), "net": ["mlp", "bag"]}, trials=9)

A search with a storage is resumed by the same call, also in other processes and on other machines. The best settings of
earlier searches on other tasks can be tried first (a warm start).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, zip_longest
from pathlib import Path
from typing import Any

from upstairs.engine.metrics import score_kind
from upstairs.errors import NonFiniteError, UpstairsError
from upstairs.learners.registry import check_names, entry, options_of
from upstairs.settings import Settings, check_option, option_kinds
from upstairs.storage import write_json
from upstairs.training.defaults import RunRequest
from upstairs.training.pretrain import prepare
from upstairs.training.train import open_run
from upstairs.training.trainer import train_run


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; integers where both are integers.

    Args:
        log: sample on a logarithmic scale.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high or (self.log and self.low <= 0):
            need = "low above 0 and not above high" if self.log else "low not above high"
            raise UpstairsError(f"a range from {self.low} to {self.high} cannot be searched: give {need}")


Space = Mapping[str, Range | Sequence[Any]]
Report = Callable[[int, float], None]  # (step, score so far): ends a bad trial
Score = Callable[[dict[str, Any], Report], float]


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Args:
        settings: the best settings.
        score: their score on the data that chose them, so it is optimistic: evaluate them on a third split.
        pruned: the number of trials that were ended early.
        study: Optuna's study, with its plots and tools.
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
    """Searches settings by a tree-structured Parzen estimator (Bergstra et al. 2011) with median pruning.

    Args:
        score: receives settings and `report`, and returns the score. Where it calls `report(step, score so far)`, a
            trial that is worse than the median of earlier trials at that step ends.
        space: a `Range`, or a list of choices, for each setting.
        trials: the number of trials, those of a resumed search included.
        storage: an SQLite file, or any storage URL of Optuna (for several machines, a database server). None: memory.
        name: the name of the search in the storage; a search of that name is resumed.
        earlier: names of searches in the storage, on other tasks: their `best_of_each` best settings are tried first,
            as far as they lie in the space.
        seed: the seed of the sampler, which starts anew in a resumed search: its trials differ from an uninterrupted
            one's.

    Raises:
        UpstairsError: Optuna is not installed, the space is empty or differs from the resumed search's, the storage
            cannot be opened, there is no such earlier search, or no trial was completed.
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
    _check_same_study(optuna, study, kinds)
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


def _check_same_study(optuna: Any, study: Any, kinds: Mapping[str, Any]) -> None:
    """Refuses a space that differs from the resumed search's."""
    for trial in study.get_trials(deepcopy=False):
        for name, had in trial.distributions.items():
            try:
                if name in kinds:
                    optuna.distributions.check_distribution_compatibility(had, kinds[name])
            except ValueError as error:
                raise UpstairsError(
                    f"the search '{study.study_name}' in this storage had {name} from {had}, not from {kinds[name]}: "
                    "give what it had, or another name (on the command line another `out`)"
                ) from error


def _try(optuna: Any, study: Any, score: Score, kinds: dict[str, Any]) -> None:
    """Runs one trial; an error in it reaches the caller and is not counted as a bad score."""
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
    """Returns the best settings of earlier searches: first the best of each, then the second of each, and so on."""
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


DATA_SETTINGS = {
    "data", "split", "split_seed", "mix", "columns", "encoder", "train_classes", "rotate_classes",
    "mirror_classes", "train_on_validation", "splice", "spoken",
}  # fmt: skip
FORM = "write it as lr=1e-4..1e-1:log, inner_steps=1..5 or norm=batch,group"


def parse_space(words: Sequence[str], learner: str) -> dict[str, Range | list[Any]]:
    """Parses the options to search: `name=low..high`, the same with `:log`, or `name=one,two,three`.

    Raises:
        UpstairsError: a word that cannot be read, or no option of that name.
    """
    options, kinds = options_of(learner), option_kinds(Settings) | option_kinds(entry(learner).options)
    space: dict[str, Range | list[Any]] = {}
    for word in words:
        name, _, text = word.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        check_names(learner, [name])
        text, _, how = text.partition(":")
        low, dots, high = text.partition("..")
        words_only = str in kinds[name]  # a path, or a range of shots
        ends = [_value(low), _value(high)]
        if dots and not words_only and all(isinstance(v, int | float) for v in ends) and how in ("", "log"):
            space[name] = Range(ends[0], ends[1], log=how == "log")
        elif dots or how or not text:
            raise UpstairsError(f"'{word}' cannot be read: {FORM}")
        else:
            space[name] = values = [v if words_only else _value(v) for v in text.split(",")]
            for value in values:
                check_option(options[name], kinds[name], value)
    return space


def search_settings(
    request: RunRequest, space: Space, *, out: Path, trials: int = 20, storage: str | None = None,
    earlier: Sequence[str] = (), quiet: bool = False,
) -> Found:  # fmt: skip
    """Trains a run for every trial, in its own folder below `out`; a trial worse than the median ends early.

    Args:
        request: the run; searched settings replace its own.
        storage: as for `search`; None: search.db next to `out`, so that searches in one folder can start from each
            other.
        earlier: folder names of searches in the same storage to start from.

    Raises:
        UpstairsError: settings or data that cannot be used, or Optuna is not installed.
    """
    start = request.changed(**{n: _ends(r)[0] for n, r in space.items()})
    for name, of in space.items():  # an impossible choice is an error before hours of trials, not after
        for value in _ends(of):
            start.changed(**{name: value})
    first, splits = open_run(start, out, quiet=quiet)
    known = None if DATA_SETTINGS & set(space) else splits
    maximise = not score_kind(first.episodes).less_is_better

    def score(settings: dict[str, Any], report: Report) -> float:
        run, data = open_run(request.changed(**settings), _own_folder(out), quiet=True, splits=known)
        if run.validation is None:
            raise UpstairsError(
                "a search needs the score of validation tasks and there are none: add classes, or leave out "
                "`train_on_validation`"
            )
        write_json(run.out / "settings.json", run.settings.to_json())
        prepare(run, data, quiet=True)
        seen, name = 0, score_kind(run.episodes).name

        def tell(status: Any) -> None:
            nonlocal seen
            if len(run.progress.history) > seen:
                seen = len(run.progress.history)
                report(seen, run.progress.history[-1][name])

        try:
            train_run(run, tell)
        except UpstairsError as error:
            if not isinstance(error.__cause__, NonFiniteError):
                raise
            return float("-inf") if maximise else float("inf")  # settings with which it diverges are bad ones
        assert run.progress.best is not None  # the last validation is at the end of the budget
        return run.progress.best

    out.parent.mkdir(parents=True, exist_ok=True)
    return search(
        score, space, trials=trials, maximise=maximise, storage=storage or out.parent / "search.db", name=out.name,
        earlier=earlier, seed=request.settings.seed,
    )  # fmt: skip


def describe(found: Found) -> str:
    """Returns the best settings as command-line options."""
    words = " ".join(f"--{n.replace('_', '-')} {v}" for n, v in found.settings.items())
    ended = f"{found.trials} trials, {found.pruned} ended early"
    return f"{ended}; best on validation tasks, which chose it: {found.score:.4f} with {words}"


def _own_folder(out: Path) -> Path:
    """Makes the next trial's folder, also where other processes search here."""
    out.mkdir(parents=True, exist_ok=True)
    for number in count():
        try:
            (out / f"trial-{number:03}").mkdir()
        except FileExistsError:
            continue
        return out / f"trial-{number:03}"
    raise AssertionError("numbers do not end")


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _ends(of: Range | Sequence[Any]) -> Sequence[Any]:
    return (of.low, of.high) if isinstance(of, Range) else of
