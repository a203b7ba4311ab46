"""The outer loop: tasks, meta-steps, validation, checkpoints. A resumed run is bit-identical."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from upstairs.console import Status
from upstairs.core import Learner, Task
from upstairs.data.episodes import Episodes
from upstairs.data.images.augment import jittered
from upstairs.data.mixture import episodes_of
from upstairs.data.regression.rows import sizes_that_fit
from upstairs.data.seeds import hash_seed, stream_seeds, task_seed
from upstairs.data.source import Source
from upstairs.data.splits import Splits
from upstairs.data.task_augmentation import remedied, with_places
from upstairs.engine.calibrate import calibrate
from upstairs.engine.distributed import check_shards, sharded_backward
from upstairs.engine.evaluate import describe_score, frozen_seeds, score_tasks
from upstairs.engine.evolution import es_step
from upstairs.engine.meta_backward import MetaStep, meta_backward
from upstairs.engine.metrics import hardest_classes, score_kind
from upstairs.engine.plan import memory_of
from upstairs.errors import NonFiniteError, UpstairsError
from upstairs.learners import recent_means, seeded_learner, whose_turn
from upstairs.learners.familiar import familiar_inputs
from upstairs.learners.options import ViewOptions
from upstairs.ranks import is_first, world
from upstairs.schedule import lr_factor
from upstairs.settings import Settings
from upstairs.stops import stop_requests
from upstairs.storage import load_tensors, pack_optimizer, save_tensors, unpack_optimizer, versions
from upstairs.training.checkpoint import load_weights
from upstairs.training.compatibility import check_compatible, check_same_data, data_fingerprint
from upstairs.training.defaults import VALIDATION_SHARE, validation_steps
from upstairs.training.inputs import Inputs
from upstairs.tree import to_device_of

SAVE_EVERY = 20.0  # seconds between checkpoints, in addition to one at each validation
WINDOW = 50  # steps of a player whose means are shown and kept in the history


@dataclass
class Progress:
    """The progress of a run, saved in its checkpoint.

    `hard` lists the hardest class of each task since the last step on hard classes; `recent` has the losses and scores
    of each player's recent steps, whose means are in the history.
    """

    step: int = 0
    seconds: float = 0.0
    best: float | None = None
    hard: list[int] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    recent: dict[str, list[list[float]]] = field(default_factory=dict)


class Trainer:
    """Holds one run in memory; `restore` continues a stopped one as if it had never stopped.

    Args:
        learner: the learner to train, in place; None: it is built from the settings.

    Raises:
        UpstairsError: the learner has no meta-parameters, or the classes do not allow the training tasks.
    """

    def __init__(self, settings: Settings, splits: Splits, out: Path, *, learner: Learner | None = None) -> None:
        self.source = jittered(splits.train) if settings.jitter else splits.train
        self.settings, self.out = settings, out
        check_shards(settings.shards, settings.tasks)
        device = choose_device(settings.device)
        once = settings.own
        if isinstance(once, ViewOptions):  # validations use one view: ten crops cost ten times as much
            once = replace(once, views=1)
        if learner is None:
            learner = seeded_learner(replace(settings, own=once), splits.train.feature_shape, settings.way)
        asked = learner.for_way(settings.way)  # raises an error early
        self.learner = (learner if learner.way == settings.way else asked).to(device).train()
        self.episodes = episodes_of(
            self.source, way=settings.way, shot=settings.shots, query=settings.query,
            global_labels=self.learner.global_labels, speakers=settings.speakers,
        )  # fmt: skip
        self.players = self.learner.players()
        if not any(player.parameters for player in self.players):
            raise UpstairsError(f"'{settings.learner}' has no meta-parameters to train: evaluate it as it is")
        if len(self.players) > 1 and settings.estimator == "es":
            raise UpstairsError(f"'{settings.learner}' has several players and `estimator` es knows one: leave it out")
        self.validation = validation_episodes(splits.val, self.learner.max_way, settings.shots[1])
        check_compatible(settings, self.learner, self.source, validated=self.validation is not None)
        groups = [{"params": player.parameters, "betas": player.side.betas} for player in self.players]
        self.optimizer = make_optimizer(groups, settings)
        self.progress = Progress()
        self.fingerprint, self.familiar = data_fingerprint(self.source), familiar_inputs(self.source)
        self.saved = 0  # the step of the last checkpoint
        self.tells: tuple[float, ...] = ()  # what this process tells the others in the next step

    @property
    def done(self) -> float:
        """The share of the budget that is spent, without pretraining's share."""
        left = 1 - self.settings.pretrain
        if self.settings.steps is not None:
            return self.progress.step / (left * self.settings.steps)
        return self.progress.seconds / (60 * left * (self.settings.minutes or 1))

    @property
    def stage(self) -> int:
        """The number of validations that are due so far."""
        return int(self.done * self.settings.validations + 1e-9)

    @property
    def stale(self) -> bool:
        """True if none of the last `patience` validations was better than those before."""
        kind, patience, history = score_kind(self.episodes), self.settings.patience, self.progress.history
        if patience is None or len(history) <= patience:
            return False
        before, late = (max if not kind.less_is_better else min, history[-patience:])
        return not kind.better(before(p[kind.name] for p in late), before(p[kind.name] for p in history[:-patience]))


def validation_episodes(source: Source, max_way: int | None, shot: int) -> Episodes | None:
    """Returns 5-way 1-shot tasks (of fewer classes if necessary) or None; for regression, tasks of `shot` examples."""
    if source.functions:
        return Episodes(source, shot=shot, query=sizes_that_fit(source, shot, 15)[1])
    smallest = min((len(rows) for rows in source.rows), default=0)
    if len(source) < 2 or smallest < 2:
        return None
    return episodes_of(source, way=min(5, source.most_way, max_way or 5), shot=1, query=min(15, smallest - 1))


def restore(run: Trainer) -> None:
    """Restores the run's last checkpoint; raises UpstairsError if it is one of other data."""
    tensors, meta = load_tensors(run.out / "last.safetensors", kind="run")
    check_same_data(run.fingerprint, meta.get("data"), run.out)
    load_weights(run.learner, tensors, run.out)
    unpack_optimizer(run.optimizer, tensors, meta["optimizer"])
    run.progress = Progress(**meta["progress"])
    run.saved = run.progress.step


def save(run: Trainer, name: str) -> None:
    """Writes a checkpoint atomically, by the first process; weights that are not finite are never saved."""
    weights = {f"learner.{k}": v for k, v in run.learner.state_dict().items()}
    if not all(bool(v.isfinite().all()) for v in weights.values()):
        raise UpstairsError(
            f"the weights at step {run.progress.step} are not finite: the last good checkpoint in {run.out} is kept; "
            "lower `lr` and train anew"
        )
    optimizer, rest = pack_optimizer(run.optimizer)
    meta = {
        "settings": run.settings.to_json(),
        "progress": asdict(run.progress),
        "optimizer": rest,
        "data": run.fingerprint,
        "familiar": run.familiar,
        **Inputs(run.source.feature_shape, run.source.format).to_json(),
        "versions": versions(),
    }
    if is_first():
        save_tensors(run.out / name, {**weights, **optimizer}, meta, kind="run")
    if name == "last.safetensors":
        run.saved = run.progress.step


def train_run(run: Trainer, tell: Callable[[Status], None] = lambda status: None) -> None:
    """Trains until the budget is spent. Only the state between two steps is saved, never one within a step.

    Raises:
        UpstairsError: a loss that is not finite (with the task's seed), or a checkpoint that cannot be written.
        KeyboardInterrupt: after SIGINT or SIGTERM, when the step and its validation are whole and saved; or at once,
            after a second signal.
    """
    progress = run.progress
    if progress.step == 0:
        save(run, "last.safetensors")
    saved = time.monotonic()
    started = saved - progress.seconds
    for player in run.players:
        progress.recent.setdefault(player.name, [])
    with threads_of(run.settings), stop_requests() as stopping:
        while run.done < 1 and not run.stale:
            stage = run.stage
            run.tells = (float(stopping()), time.monotonic() - started) if world() > 1 else ()
            taken = take_step(run)
            progress.recent[taken.player] = [*progress.recent[taken.player], [taken.loss, taken.score]][-WINDOW:]
            together = taken.flags[0]  # the first process decides, alike for all
            progress.seconds = together[1] if together else time.monotonic() - started
            losses, score = recent_means(progress.recent)
            due = run.done >= 1 or (run.stage > stage and affordable(run))
            if due:
                validate(run, losses, score)
            stop = any(asked for asked, _ in taken.flags) if together else stopping()
            if due or stop or time.monotonic() - saved > SAVE_EVERY:
                save(run, "last.safetensors")
                saved = time.monotonic()
            newest = progress.history[-1] if progress.history else None
            late = {score_kind(run.episodes).name: score}
            try:
                tell(Status(min(run.done, 1.0), progress.step, progress.seconds, losses["loss"], late, newest))
            except KeyboardInterrupt:  # between two steps the state is whole
                if not stopping():
                    save(run, "last.safetensors")
                raise
            if stop and not stopping():
                raise KeyboardInterrupt
            if stop:
                break


@contextmanager
def threads_of(settings: Settings) -> Iterator[None]:
    """A context with the settings' number of threads, which is part of the result."""
    before = torch.get_num_threads()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    try:
        yield
    finally:
        if settings.threads is not None:
            torch.set_num_threads(before)


def affordable(run: Trainer) -> bool:
    """Returns False if, with a budget in minutes, another validation would exceed its share of the work."""
    s, times = run.settings, len(run.progress.history) + 1
    return s.minutes is None or times * validation_steps(s, s.validation_tasks) <= VALIDATION_SHARE * run.progress.step


class Taken(NamedTuple):
    """A meta-step that was taken."""

    player: str
    loss: float  # mean over the tasks
    score: float  # nan for other players than the first
    flags: list[tuple[float, ...]]  # what each process gave


def take_step(run: Trainer) -> Taken:
    """Takes one meta-step, a pure function of the checkpoint, together with the other processes of the run."""
    s, number = run.settings, run.progress.step
    player, turn = whose_turn(run.players, number)
    seeds = stream_seeds(s.seed, number, s.tasks)
    among = hard_classes(run)
    own, draw, first = run.episodes.global_labels, run.episodes.batch, player is run.players[0]

    def seeds_of(shard: int) -> list[int]:
        size = s.tasks // s.shards
        return seeds[shard * size : (shard + 1) * size]

    def tasks_of(shard: int) -> Task:
        mine = seeds_of(shard)
        return to_device_of(run.learner, remedied(draw(mine, among), mine, s, global_labels=own, draw=draw))

    def backward(learner: Learner, tasks: Task) -> MetaStep:
        if s.estimator == "es":
            return es_step(learner, tasks, pairs=s.pairs, sigma=s.sigma, chunk=s.chunk)
        memory: int | str | None = s.memory
        if memory is None and s.shards > 1 and tasks.query.x.device.type == "cpu":
            memory = memory_of(tasks.query.x.device) // (2 * s.shards)  # not by processes: sums depend on it
        return meta_backward(learner, tasks, chunk=s.chunk, memory=memory, compile=s.compile)

    def note(step: MetaStep, tasks: Task) -> Tensor:
        """Returns the score of each task (other players may predict something else than labels) and its worst label."""
        if not first:
            return step.losses.new_full((len(step.losses), 2), float("nan"))
        tasks = tasks if s.task_kind == "regression" else with_places(tasks)
        scores = score_kind(run.episodes).of(step.predictions, tasks)
        worst = hardest_classes(step.predictions, tasks) if s.hard else [-1] * len(scores)
        return torch.stack([scores, scores.new_tensor(worst)], 1)

    run.learner.at(run.done)
    for group, one in zip(run.optimizer.param_groups, run.players, strict=True):
        group["lr"] = one.side.lr * s.lr * lr_factor(s.schedule, done=run.done, step=turn)
    run.optimizer.zero_grad()
    try:
        step = sharded_backward(
            player.learner, tasks_of, shards=s.shards, seed=hash_seed(task_seed(s.seed, number)), backward=backward,
            note=note, flags=run.tells,
        )  # fmt: skip
    except NonFiniteError as error:
        sentence = UpstairsError(
            f"at step {number} {error}: that is the task with seed {seeds[error.index]} of {run.source.name}; the last "
            f"good checkpoint is kept in {run.out}: lower `lr` or `inner_lr`, or look at the task's inputs"
        )
        sentence.by_all = error.by_all
        raise sentence from error
    except (NotImplementedError, TypeError) as error:
        if s.device != "mps":
            raise
        raise UpstairsError(
            f"`device` is mps, which lacks an operation that '{s.learner}' needs ({error}): choose `device` cpu"
        ) from error
    torch.nn.utils.clip_grad_norm_(player.parameters, s.clip)
    for p in (p for other in run.players if other is not player for p in other.parameters):
        p.grad = None  # the other players and their optimiser states stay unchanged
    run.optimizer.step()
    run.progress.step += 1
    scores, worst = step.notes.unbind(1)
    if s.hard and first:
        labels = zip(seeds, worst.long().tolist(), strict=True)
        run.progress.hard += [label if own else run.episodes.classes(seed, among)[label] for seed, label in labels]
    return Taken(player.name, float(step.losses.mean()), float(scores.mean()), step.flags)


def hard_classes(run: Trainer) -> list[int] | None:
    """Returns the hard classes to draw this step's tasks from (Sun 2019, algorithm 2), or None for all classes."""
    share, pool = run.settings.hard, sorted(set(run.progress.hard))
    if not share or (run.progress.step + 1) % round(1 / share) or len(pool) < (run.episodes.largest_way or 0):
        return None
    run.progress.hard = []
    return pool


def validate(run: Trainer, losses: dict[str, float], score: float) -> None:
    """Measures the population statistics, scores the validation tasks, and saves the best weights."""
    progress, kind = run.progress, score_kind(run.episodes)
    calibrate(run.learner, run.episodes, seed=run.settings.seed)
    point = {"step": progress.step, "seconds": progress.seconds, **losses, f"train_{kind.name}": score}
    if run.validation:
        seeds = frozen_seeds(2**19, run.settings.validation_tasks)
        point |= describe_score(score_tasks(run.learner, run.validation, seeds), kind)
    progress.history.append(point)
    if progress.best is None or not run.validation or not kind.better(progress.best, point[kind.name]):
        progress.best = point.get(kind.name)
        save(run, "best.safetensors")


def choose_device(asked: str) -> torch.device:
    """Returns the device of a setting: `auto` is CUDA if available.

    Raises:
        UpstairsError: `cuda` without a CUDA device, or `mps` without Apple's GPU.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(asked, True):
        needs = "install torch with CUDA" if asked == "cuda" else "use a Mac with Apple silicon, whose torch has MPS"
        raise UpstairsError(f"`device` is {asked} and torch finds none: leave it out, or {needs}")
    return torch.device(asked if asked != "auto" else "cuda" if there["cuda"] else "cpu")


def make_optimizer(parameters: Any, settings: Settings) -> torch.optim.Optimizer:
    """Returns the optimiser of the outer loop, for parameters or groups of them."""
    rate, decay = settings.lr, settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    fast = settings.optimizer == "momentum"
    return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=0.9 * fast, nesterov=fast)
