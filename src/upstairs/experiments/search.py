"""Search of settings without a gradient (the kind of network, the number of steps), by Optuna (extra `[search]`).

    found = search(score, {"rate": Range(1e-4, 1e-1, log=True), "steps": Range(1, 10), "net": ["mlp", "bag"]}, trials=9)

A search with a storage is resumed by the same call. Any number of processes, on any machines, that make the same call
at the same time share its trials: together they finish exactly the number asked for. The best settings of earlier
searches on other tasks can be tried first (a warm start).
"""

import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count, zip_longest
from math import inf
from pathlib import Path
from typing import Any

from upstairs.claims import SILENCE, Lost, Watch, is_gone, name_worker, signs_of_life, unheard, wait_a_little, worker
from upstairs.console import tell_user
from upstairs.data.seeds import hash_seed, task_seed
from upstairs.engine.metrics import score_kind
from upstairs.errors import NonFiniteError, UpstairsError, reason
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
    silence: float = SILENCE,
) -> Found:  # fmt: skip
    """Searches settings by a tree-structured Parzen estimator (Bergstra et al. 2011) with median pruning.

    Args:
        score: receives settings and `report`, and returns the score, which counts as the worst where it is no number.
            Where it calls `report(step, score so far)`, a trial that is worse than the median of earlier trials at that
            step ends.
        space: a `Range`, or a list of choices, for each setting.
        trials: the number of trials, those of a resumed search and of other workers included.
        storage: a file, which may be in a folder that several machines share (a journal; an SQLite file that is there
            already goes on, on one machine), or the URL of a database server, such as postgresql://USER@HOST/NAME.
            None: memory.
        name: the name of the search in the storage; a search of that name is resumed.
        earlier: names of searches in the storage, on other tasks: their `best_of_each` best settings are tried first,
            as far as they lie in the space.
        seed: the seed of the samplers; the settings of a trial follow from it, the trial's number and the results that
            are there.
        silence: seconds without a sign of life after which another worker counts as dead, and its trial as failed.

    Raises:
        UpstairsError: Optuna is not installed, the space is empty or differs from the resumed search's, the storage
            cannot be opened, there is no such earlier search, or no trial was completed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UpstairsError("the search needs Optuna: pip install 'upstairs[search]'") from error
    if not space or trials < 1 or any(not isinstance(r, Range) and len(r) == 0 for r in space.values()):
        raise UpstairsError(f"trials is {trials} and the space is {dict(space)}: give 1 or more, and choices for each")
    if earlier and storage is None:
        raise UpstairsError(
            "earlier searches are read from a storage, and none is given: give storage='search.journal'"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING if quiet else optuna.logging.INFO)
    with _reached(storage):
        place = _place(optuna, storage)
        study = _open(optuna, place, storage, name, "maximize" if maximise else "minimize")
        kinds = {n: _distribution(optuna, of) for n, of in space.items()}
        _check_same_study(optuna, study, kinds)
        if not study.trials:
            for number, settings in enumerate(_warm(optuna, place, earlier, space, best_of_each)):
                study.enqueue_trial(settings, user_attrs={"earlier": number}, skip_if_exists=True)
        _share(optuna, study, score, space, trials=trials, seed=seed, silence=silence)
        done, pruned = (_in(study, getattr(optuna.trial.TrialState, state)) for state in ("COMPLETE", "PRUNED"))
        if not done:
            raise UpstairsError(f"none of {trials} trials came to its end: every one was pruned; give more trials")
        return Found(dict(study.best_params), float(study.best_value), len(done) + len(pruned), len(pruned), study)


@contextmanager
def _reached(storage: str | Path | None) -> Iterator[None]:
    """A context in which errors of a database become a sentence."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = reason(error.__cause__ or error if isinstance(error, StorageInternalError) else error)
        raise UpstairsError(
            f"the storage {_shown(storage)} cannot be reached ({cause}): check its URL and that its server runs; then "
            "the same call goes on"
        ) from error


def _shown(storage: str | Path | None) -> str:
    """Returns the storage without the password of its URL."""
    return re.sub(r"://([^:/@]*):[^@]*@", r"://\1:***@", str(storage))


def _place(optuna: Any, storage: str | Path | None) -> Any:
    """Returns what Optuna opens: nothing, a URL, or a journal, whose locks and lines network file systems allow.

    Raises:
        UpstairsError: a file that no search wrote, or no folder for it.
    """
    if storage is None or "://" in str(storage):
        return storage and str(storage)
    path, journal = Path(storage), optuna.storages.journal
    try:
        if path.exists():
            with path.open("rb") as file:
                line = file.readline(10**6)
            if line.startswith(b"SQLite format 3"):
                return f"sqlite:///{path}"
            written = json.loads(line) if line else {"op_code": None}
            if not isinstance(written, dict) or "op_code" not in written:
                raise ValueError("it holds something else")
        lock = journal.JournalFileOpenLock(str(path))
        return optuna.storages.JournalStorage(journal.JournalFileBackend(str(path), lock_obj=lock))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UpstairsError(
            f"the storage {path} cannot be opened as a search's file ({reason(error)}): give a file that a search "
            "wrote, a new file in a folder that is there, or the URL of a database"
        ) from error


def _open(optuna: Any, place: Any, storage: str | Path | None, name: str, way: str) -> Any:
    """Returns the study. Workers that make the tables of a new database at the same moment try again.

    Raises:
        UpstairsError: the driver of the database is missing, or there is a search of the other direction.
    """
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    pruner = optuna.pruners.MedianPruner(n_startup_trials=4)
    for attempts in count(1):
        try:
            return optuna.create_study(
                storage=place, study_name=name, load_if_exists=True, direction=way, pruner=pruner
            )  # fmt: skip
        except (IntegrityError, ProgrammingError):
            if attempts == 10:
                raise
            time.sleep(random.random() / 2)
        except ImportError as error:
            raise UpstairsError(
                f"the storage {_shown(storage)} cannot be opened, since the driver of its database is missing: for "
                "PostgreSQL, pip install 'psycopg[binary]' and write postgresql+psycopg://USER@HOST/NAME"
            ) from error
        except ValueError as error:
            raise UpstairsError(
                f"the storage {_shown(storage)} cannot be used ({reason(error)}): give another"
            ) from error
    raise AssertionError("numbers do not end")


def _in(study: Any, *states: Any) -> list[Any]:
    return study.get_trials(deepcopy=False, states=states)


def _share(
    optuna: Any, study: Any, score: Score, space: Space, *, trials: int, seed: int, silence: float
) -> None:  # fmt: skip
    """Runs trials until, with those of other workers, the number of finished ones is `trials`.

    A worker asks for a trial and keeps it if fewer than `trials` with lower numbers have not failed; the storage counts
    numbers one by one. So never more than `trials` finish: the last of more would have counted all others.
    """
    state, watch, said, waits = optuna.trial.TrialState, Watch(silence), "", 0
    while True:
        running = _in(study, state.RUNNING)
        for trial in running:
            _fail_if_silent(study, trial, watch)
        ended = len(_in(study, state.COMPLETE, state.PRUNED))
        if ended >= trials:
            return
        if ended + len(running := _in(study, state.RUNNING)) >= trials:
            others = [f"trial {t.number} ({name_worker(t.user_attrs.get('worker', ''))})" for t in running]
            if said != (said := f"waiting for {', '.join(others)}"):
                tell_user(said)
            wait_a_little(waits := waits + 1, silence)
            continue
        trial, sign, waits = study.ask(), worker(), 0
        trial.set_user_attr("worker", sign)
        lower = [t for t in study.get_trials(deepcopy=False) if t.number < trial.number and t.state != state.FAIL]
        again = {t.user_attrs.get("earlier") for t in lower} - {None}  # two workers may have queued the same
        if len(lower) >= trials or trial.user_attrs.get("earlier") in again:
            study.tell(trial, state=state.FAIL, skip_if_finished=True)
            continue
        study.sampler = optuna.samplers.TPESampler(seed=hash_seed(task_seed(seed, trial.number)))
        _try(optuna, study, trial, score, space, sign=sign, silence=silence)


def _fail_if_silent(study: Any, trial: Any, watch: Watch) -> None:
    """Fails the trial of a dead worker: one whose sign of life, an attribute that changes, stays the same."""
    from optuna.exceptions import UpdateFinishedTrialError

    sign = trial.user_attrs.get("worker", "")
    if is_gone(sign) or watch.silent(trial.number, sign):
        with suppress(UpdateFinishedTrialError):  # by another worker, or it has ended just now
            study.tell(trial.number, state=type(trial.state).FAIL, skip_if_finished=True)
            tell_user(f"trial {trial.number} failed, since {name_worker(sign)} is dead: another takes its place")


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


def _try(
    optuna: Any, study: Any, trial: Any, score: Score, space: Space, *, sign: str, silence: float
) -> None:  # fmt: skip
    """Runs one trial; an error in it reaches the caller and is not counted as a bad score."""
    finished, signs = optuna.exceptions.UpdateFinishedTrialError, count(1)

    def report(step: int, value: float) -> None:
        trial.report(value, step)
        if trial.should_prune():
            raise optuna.TrialPruned

    def give() -> None:
        try:
            trial.set_user_attr("worker", f"{sign}@{next(signs)}")
        except finished as error:
            raise Lost from error

    try:
        value = inf
        with signs_of_life(give, silence=silence) as life:
            value = score({name: _suggest(trial, name, of) for name, of in space.items()}, report)
        if life.lost:
            raise finished
        if value != value:  # the settings are bad ones
            value = -inf if study.direction == optuna.study.StudyDirection.MAXIMIZE else inf
        study.tell(trial, value, skip_if_finished=True)
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED, skip_if_finished=True)
    except finished:  # by another worker, to whom this one seemed dead
        tell_user(f"trial {trial.number}: {unheard(silence)}")
    except BaseException:
        study.tell(trial, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
        raise


def _suggest(trial: Any, name: str, of: Range | Sequence[Any]) -> Any:
    if not isinstance(of, Range):
        return trial.suggest_categorical(name, list(of))
    whole = isinstance(of.low, int) and isinstance(of.high, int)
    return (trial.suggest_int if whole else trial.suggest_float)(name, of.low, of.high, log=of.log)


def _warm(optuna: Any, storage: Any, earlier: Sequence[str], space: Space, best: int) -> list[dict[str, Any]]:
    """Returns the best settings of earlier searches: first the best of each, then the second of each, and so on."""
    columns = []
    for name in earlier:
        try:
            study = optuna.load_study(study_name=name, storage=storage)
        except KeyError as error:
            raise UpstairsError(f"there is no search '{name}' in this storage: name one that was run there") from error
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
        storage: as for `search`; None: search.journal next to `out`, so that searches in one folder can start from each
            other, or search.db where an earlier version wrote it.
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
            return -inf if maximise else inf  # settings with which it diverges are bad ones
        assert run.progress.best is not None  # the last validation is at the end of the budget
        return run.progress.best

    out.parent.mkdir(parents=True, exist_ok=True)
    old = out.parent / "search.db"
    return search(
        score, space, trials=trials, maximise=maximise, name=out.name, earlier=earlier, seed=request.settings.seed,
        storage=storage or (old if old.exists() else old.with_suffix(".journal")),
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
