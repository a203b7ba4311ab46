# ruff: noqa: T201
"""What every learner computes, to the bit: a net under changes that must change nothing.

python benchmarks/golden.py record FILE [--only NAME] [--steps 20] [--reduced]
python benchmarks/golden.py compare A B [--exact] [--rtol 1e-10] [--only NAME]

A row is one learner on one kind of data, or another path through the library (the engine's options, the methods of two
levels, the training of learned optimisers): so many meta-steps in float64 on one thread, with the real trainer. It
holds the losses, a digest of all weights, mean squares of a few of them, and predictions after the statistics of the
population were measured. Names of parameters are in none of it, their order is.
"""

import argparse
import hashlib
import json
import math
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# All that is of the library: the names below are the only ones to mend where modules move.
from upstairs import bilevel
from upstairs.core import Learner, Task, evaluating
from upstairs.data.audio.format import AudioFormat
from upstairs.data.mixture import episodes_of
from upstairs.data.regression.functions import FUNCTIONS, function_splits
from upstairs.data.source import Source
from upstairs.data.splits import Splits, split_by_ratio
from upstairs.data.text.embeddings import FrozenFormat
from upstairs.data.text.hashed import text_source
from upstairs.engine.calibrate import calibrate
from upstairs.engine.meta_backward import meta_backward
from upstairs.errors import UpstairsError
from upstairs.functional.differentiate import Exact, FirstOrder, Implicit
from upstairs.learners import LSTMRule, MLPRule, learners
from upstairs.learners.learned_optimizer.meta_train import (
    NetworkTraining,
    PersistentEvolution,
    TruncatedBackpropagation,
    Windows,
)
from upstairs.learners.registry import options_of
from upstairs.training.defaults import fit_settings, request_run
from upstairs.training.trainer import Trainer, take_step
from upstairs.tree import map_tensors

STEPS, REDUCED = 20, 5
CLASSES, EACH = 12, 8
KINDS = ("vectors", "pictures", "texts", "sounds", "frozen")
SMALL: dict[str, Any] = {
    "way": 3, "shot": "1", "query": 2, "tasks": 2, "width": 8, "pretrain": 0.0, "seed": 5, "device": "cpu",
    "memory": "2GiB", "validation_tasks": 2, "critic_steps": 2,
}  # fmt: skip
NETS: dict[str, dict[str, Any]] = {
    "vectors": {"net": "mlp", "norm": "none"},
    "pictures": {"net": "conv4", "norm": "population"},
    "texts": {"net": "bag", "norm": "none"},
    "sounds": {"net": "sound", "norm": "population"},
    "frozen": {"net": "projection", "norm": "none"},
    "sinusoid": {},
    "gp": {},
}
# settings of single learners, so that a row is short and yet does what is theirs
OWN: dict[str, dict[str, Any]] = {
    "baseline_pp": {"inner_steps": 5},
    "imaml": {"inner_steps": 5},
    "reptile": {"inner_steps": 3, "inner_batch": 2},
    "mtl": {"inner_steps": 3},
}
# a bag's embedding of a text has thousands of places: these would have 9 to 800 million parameters
LARGE = {"hypernetwork", "lstm", "meta_curvature", "snail", "versa"}
# other paths through the trainer: learner, kind of data, settings
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "trainer/mlti": ("protonet", "vectors", {"interpolate": "mlti"}),
    "trainer/metamix": ("maml", "vectors", {"interpolate": "metamix"}),
    "trainer/mlti_sinusoid": ("maml", "sinusoid", {"interpolate": "mlti"}),
    "trainer/label_smoothing": ("protonet", "vectors", {"label_smoothing": 0.1}),
    "trainer/dropout": ("protonet", "pictures", {"dropout": 0.2}),
    "trainer/hard": ("protonet", "vectors", {"hard": 0.25}),
    "trainer/momentum": ("maml", "vectors", {"optimizer": "momentum", "weight_decay": 0.01, "schedule": "linear"}),
    "trainer/sgd": ("maml", "vectors", {"optimizer": "sgd", "schedule": "halve:4"}),
    "trainer/es": ("protonet", "vectors", {"estimator": "es", "pairs": 2}),
    "trainer/chunk": ("maml", "pictures", {"chunk": 1}),
    "trainer/padded_maml": ("maml", "vectors", {"shot": "1-3", "inner_steps": 2}),
    "trainer/padded_maml_pictures": ("maml", "pictures", {"shot": "1-3"}),
    "trainer/padded_protonet": ("protonet", "pictures", {"shot": "1-3"}),
    "trainer/padded_in_context": ("in_context", "vectors", {"shot": "1-3"}),
    "trainer/padded_r2d2": ("r2d2", "vectors", {"shot": "1-3"}),
    "trainer/inner_batch": ("maml", "vectors", {"shot": "3", "inner_batch": 4, "inner_steps": 3}),
    "trainer/batch_norm": ("maml", "pictures", {"norm": "batch"}),
    "trainer/group_norm": ("maml", "pictures", {"norm": "group"}),
    "trainer/per_step_norm": ("maml", "pictures", {"norm": "per_step", "inner_steps": 2}),
    "trainer/no_norm": ("maml", "pictures", {"norm": "none"}),
    "trainer/resnet12": ("protonet", "pictures", {"net": "resnet12"}),
    "trainer/text_cnn": ("protonet", "texts", {"net": "cnn"}),
    "trainer/text_transformer": ("protonet", "texts", {"net": "transformer"}),
    "trainer/gp": ("cnp", "gp", {"shot": "3-6"}),
}
# options of the meta-step: settings of a MAML, options
ENGINE: dict[str, tuple[str, dict[str, Any]]] = {
    "recompute": ("pictures", {"recompute": True}),
    "recompute_vectors": ("vectors", {"recompute": True, "chunk": 1}),
    "keep": ("vectors", {"recompute": False, "chunk": 2}),
    "exact": ("vectors", {"differentiate": Exact()}),
    "first_order": ("vectors", {"differentiate": FirstOrder()}),
    "first_order_recompute": ("vectors", {"differentiate": FirstOrder(), "recompute": True}),
    "implicit": ("vectors", {"differentiate": Implicit(strength=2.0, iterations=3)}),
    "implicit_chunk": ("vectors", {"differentiate": Implicit(), "chunk": 1}),
}

Row = dict[str, Any]
Record = Callable[[int], Row]  # steps -> row


@contextmanager
def precisely() -> Iterator[None]:
    """float64 and one thread; both are as before afterwards, and so is torch's global generator.

    The shares of --interpolate are float32, whatever the inputs are: `torch.lerp` takes them here.
    """
    kind, threads, lerp = torch.get_default_dtype(), torch.get_num_threads(), torch.lerp
    torch.lerp = lambda a, b, weight: lerp(a, b, weight.to(a.dtype))
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)  # torch's own
            torch.manual_seed(0)
            yield
    finally:
        torch.lerp = lerp
        torch.set_default_dtype(kind)
        torch.set_num_threads(threads)


# The data.


@cache
def splits_of(kind: str) -> Splits:
    """Twelve classes of eight examples, split in half, a quarter and a quarter; or a distribution over functions."""
    if kind in FUNCTIONS:
        return function_splits(kind)
    dice = np.random.default_rng(KINDS.index(kind))
    labels = np.arange(CLASSES).repeat(EACH)
    if kind == "texts":
        words = ["".join(dice.choice(list("abdegiklmnoprstuvz"), 5)) for _ in range(40)]
        texts = [" ".join([words[2 * k + e % 2], *dice.choice(words[24:], 3)]) for e, k in enumerate(labels)]
        return split_by_ratio(text_source(texts, [f"class {k:02d}" for k in labels]), (0.5, 0.25, 0.25))
    shape = {"vectors": (6,), "pictures": (1, 16, 16), "sounds": (1, 16, 20), "frozen": (3, 12)}[kind]
    x = dice.normal(size=(CLASSES, 1, *shape)).repeat(EACH, 1).reshape(-1, *shape)
    x = x + 0.3 * dice.normal(size=x.shape)
    if kind in ("pictures", "sounds"):
        x = np.clip(128 + 50 * x, 0, 255).astype(np.uint8)
    if kind == "frozen":
        x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    source = Source.from_arrays(x, labels, name=kind)
    formats = {"sounds": AudioFormat(0.2, 16), "frozen": FrozenFormat("none", 12)}
    return split_by_ratio(replace(source, format=formats.get(kind)), (0.5, 0.25, 0.25))


def double(tasks: Task) -> Task:
    """The same tasks in float64."""
    return map_tensors(lambda t: t.double() if t.is_floating_point() else t, tasks)


# What is written down.


def few(values: Iterable[Any], count: int) -> list[Any]:
    """So many of them, evenly apart; all where there are fewer."""
    given = list(values)
    if len(given) <= count:
        return given
    return [given[round(i * (len(given) - 1) / (count - 1))] for i in range(count)]


def mean_square(tensor: Tensor) -> float:
    return float(tensor.detach().double().square().mean())


def row_of(losses: list[float], tensors: Iterable[Tensor], predictions: Tensor) -> Row:
    """The row of a run: `tensors` are all that it has learned or measured, in their order."""
    own = [t.detach() for t in tensors]
    digest = hashlib.sha256()
    for t in own:
        digest.update(t.contiguous().cpu().numpy().tobytes())
    flat = predictions.detach().double().flatten()
    return {
        "losses": losses,
        "weights": digest.hexdigest(),
        "sizes": [mean_square(t) for t in few((t for t in own if t.is_floating_point() and t.numel()), 8)],
        "predictions": [*few(flat.tolist(), 12), mean_square(flat)],
    }


# The runs.


def prepared(learner: str, kind: str, changes: dict[str, Any], steps: int, out: Path) -> Trainer:
    """A run in float64, from its first step.

    Raises:
        UpstairsError: the library refuses this learner on this kind of data.
    """
    splits, line = splits_of(kind), learners()[learner]
    given = {**SMALL, **NETS[kind], "steps": steps, **OWN.get(learner, {}), **changes}
    given = {name: value for name, value in given.items() if name in options_of(learner)}
    if splits.train.functions:
        given |= {"way": None, "shot": changes.get("shot", "3"), "pretrain": None}
    elif line.generation is not None:
        given |= {"way": 1, "norm": "none"}
    request = request_run(learner, regression=splits.train.functions is not None, **given)
    run = Trainer(fit_settings(request, splits.train), splits, out)
    run.learner.double()
    draw = run.episodes.batch
    run.episodes.batch = lambda *args: double(draw(*args))  # type: ignore[method-assign]
    return run


def answers(learner: Learner, splits: Splits, *, way: int, shot: int, query: int) -> Tensor:
    """Predictions for two tasks that are always the same."""
    tasks = double(episodes_of(splits.test, way=way, shot=shot, query=query).batch([101, 102]))
    torch.manual_seed(7)
    with evaluating(learner):
        return learner.for_way(way).solve(tasks)


def measure(learner: Learner, batches: Iterable[Task]) -> None:
    """The statistics of the population, as the trainer measures them before it validates."""
    calibrate(learner, batches)


def train(learner: str, kind: str, changes: dict[str, Any], steps: int) -> Row:
    """The row of a learner on a kind of data, by the trainer."""
    with tempfile.TemporaryDirectory() as out:
        try:
            run = prepared(learner, kind, changes, steps, Path(out))
            losses = [float(take_step(run)[1]) for _ in range(steps)]
        except UpstairsError as error:
            return {"refused": str(error)[:60]}
        except Exception as error:  # a fault, or what torch cannot do: written down too, and told
            traceback.print_exc()
            return {"refused": f"{type(error).__name__}: {error}"[:60]}
        measure(run.learner, [run.episodes.batch([seed]) for seed in range(2**20, 2**20 + 4)])
        s = run.settings
        found = answers(run.learner, splits_of(kind), way=s.way, shot=s.shots[1], query=s.query)
        return row_of(losses, run.learner.state_dict().values(), found)


def step_by_step(kind: str, options: dict[str, Any], steps: int) -> Row:
    """The row of a MAML that the engine's options differentiate, without the trainer."""
    with tempfile.TemporaryDirectory() as out:
        run = prepared("maml", kind, {"inner_steps": 2, "inner_lr": 0.1}, steps, Path(out))
    optimizer = torch.optim.SGD(run.learner.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        found = meta_backward(run.learner, run.episodes.batch([2 * step, 2 * step + 1]), memory="2GiB", **options)
        optimizer.step()
        losses.append(float(found.losses.mean()))
    measure(run.learner, [run.episodes.batch([seed]) for seed in range(2**20, 2**20 + 4)])
    return row_of(
        losses, run.learner.state_dict().values(), answers(run.learner, splits_of(kind), way=3, shot=1, query=2)
    )


# Problems of two levels: logistic regression with a decay for each feature, and more where a method allows it.

FEATURES = 5
METHODS: dict[str, Any] = {
    "unrolled": bilevel.Unrolled(),
    "recomputed": bilevel.Recomputed(),
    "forward": bilevel.Forward(),
    "truncated": bilevel.Truncated(3),
    "one_step": bilevel.OneStep(),
    "implicit_cg": bilevel.ImplicitHypergradient(bilevel.ConjugateGradients(5)),
    "implicit_neumann": bilevel.ImplicitHypergradient(bilevel.Neumann(10)),
    "implicit_nystrom": bilevel.ImplicitHypergradient(bilevel.Nystrom(3)),
    "finite_difference": bilevel.FiniteDifference(),
    "first_order": bilevel.FirstOrderHypergradient(),
    "es": bilevel.EvolutionStrategies(2),
    "pes": bilevel.PersistentES(2),
}
RULES: dict[str, Callable[[Tensor], Any]] = {
    "sgd": lambda rate: bilevel.SGD(rate, momentum=0.9, nesterov=True),
    "adam": lambda rate: bilevel.Adam(rate),
    "adamw": lambda rate: bilevel.AdamW(rate),
    "rmsprop": lambda rate: bilevel.RMSprop(rate, momentum=0.5),
}


@cache
def two_halves() -> tuple[Tensor, ...]:
    dice = np.random.default_rng(0)
    w = dice.normal(size=FEATURES)
    halves = [dice.normal(size=(24, FEATURES)) for _ in range(2)]
    return tuple(torch.as_tensor(v) for x in halves for v in (x, np.sign(x @ w + dice.normal(size=24))))


def logistic(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.softplus(-y * (x @ w)).mean()


def problem_of(rule: Any, *, start: Any) -> bilevel.Problem:
    """The inner steps take turns on three parts of the first half; the second half judges."""
    x, y, other, truth = two_halves()

    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], batch: int) -> Tensor:
        decay = 0.5 * (meta["log_decay"].exp() * params["w"].square()).sum()
        return logistic(params["w"], x[batch::3], y[batch::3]) + decay

    return bilevel.Problem(
        inner, lambda params, meta, batch: logistic(params["w"], other, truth), start=start, rule=rule, steps=6,
        inner_batch=lambda k: k % 3,
    )  # fmt: skip


def two_levels(method: Any, steps: int, rule: Callable[[Tensor], Any] | None = None, *, goes_on: bool = False) -> Row:
    """Outer steps of Adam along a method's hypergradients.

    Args:
        rule: the inner rule at a learned rate, from a learned start; None is gradient descent from zero.
        goes_on: the inner loop begins anew in every third outer step only.
    """
    meta = {"log_decay": torch.linspace(-2.0, 0.0, FEATURES)}
    if rule is None:
        problem = problem_of(bilevel.SGD(0.5), start={"w": torch.zeros(FEATURES)})
    else:
        meta |= {"log_rate": torch.tensor(-2.0), "start": torch.linspace(-1.0, 1.0, FEATURES)}
        problem = problem_of(lambda m: rule(m["log_rate"].exp()), start=lambda m: {"w": m["start"]})
    outer = torch.optim.Adam(list(meta.values()), lr=0.05)
    losses, carry, found = [], None, None
    for step in range(steps):
        torch.manual_seed(step)
        found = bilevel.hypergradient(problem, meta, method=method, carry=carry if goes_on and step % 3 else None)
        carry = found.carry
        for name, p in meta.items():
            p.grad = found.gradients[name].detach()
        outer.step()
        losses.append(float(found.outer))
    gradients = torch.cat([g.flatten() for g in found.gradients.values()]) if found else torch.zeros(0)
    return row_of(losses, [*meta.values(), *(carry.parameters.values() if carry else ())], gradients)


def outer_loop(steps: int) -> Row:
    """The whole outer loop of the library."""
    problem = problem_of(bilevel.SGD(0.5), start={"w": torch.zeros(FEATURES)})
    test = replace(problem, outer=lambda params, meta, batch: logistic(params["w"], *two_halves()[:2]))
    found = bilevel.optimize(
        problem, {"log_decay": torch.linspace(-2.0, 0.0, FEATURES)}, method=bilevel.Unrolled(), outer_steps=steps,
        loop=2, test=test, quiet=True,
    )  # fmt: skip
    scores = torch.tensor([v for part in (*found.validation, *found.test) for v in part])
    return row_of([point["outer"] for point in found.history], found.meta_parameters.values(), scores)


# Meta-training of learned optimisers.


@cache
def examples() -> tuple[Tensor, Tensor]:
    dice = np.random.default_rng(1)
    x = dice.normal(size=(30, 4))
    return torch.as_tensor(x), torch.as_tensor((x @ dice.normal(size=(4, 3))).argmax(-1))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def learned_rule(kind: Callable[..., Any], estimator: str, window: int, steps: int) -> Row:
    """Meta-steps of Adam on a rule, its loops of four steps seen through windows of so many."""
    rule = kind(lr=0.05, hidden=3).double()
    nn.init.normal_(rule.head.weight, std=0.3)
    windows = Windows([NetworkTraining(network, *examples(), batch=6)], horizon=4, window=window)
    if estimator == "gradient":
        made = TruncatedBackpropagation(rule, windows)
    else:
        made = PersistentEvolution(rule, windows, pairs=3, sigma=0.05)
    outer = torch.optim.Adam(rule.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        outer.zero_grad()
        losses.append(float(made.backward()))
        outer.step()
    gradients = torch.cat([p.grad.flatten() for p in rule.parameters() if p.grad is not None])
    return row_of(losses, rule.state_dict().values(), gradients)


# The table of rows.


def kinds_of(line: Any) -> list[str]:
    """The kinds of data for a learner of the table."""
    if line.kinds == ["regression"]:
        return ["sinusoid"]
    generates = line.generation is not None
    found = ["vectors", "pictures"] if generates else list(KINDS)
    return [*found, *(["sinusoid"] if line.regression is not None else [])]


def rows(*, reduced: bool = False) -> dict[str, Record]:
    """Every row by its name.

    Args:
        reduced: one kind of data for each learner, the first that it takes, beside all other rows.
    """
    found: dict[str, Record] = {}
    for name, line in sorted(learners().items()):
        kinds = [kind for kind in kinds_of(line) if not (kind == "texts" and name in LARGE)]
        if reduced:
            kinds = ["pictures"] if "pictures" in kinds[:2] and line.generation is not None else kinds[:1]
        for kind in kinds:
            found[f"{name}/{kind}"] = partial(train, name, kind, {})
    for name, (learner, kind, changes) in VARIANTS.items():
        found[name] = partial(train, learner, kind, changes)
    for name, (kind, options) in ENGINE.items():
        found[f"engine/{name}"] = partial(step_by_step, kind, options)
    for name, method in METHODS.items():
        found[f"bilevel/{name}"] = partial(two_levels, method)
        found[f"bilevel/{name}/on"] = partial(two_levels, method, goes_on=True)
    for name, rule in RULES.items():
        for way in ("unrolled", "recomputed", "forward"):
            found[f"bilevel/{way}/{name}"] = partial(two_levels, METHODS[way], rule=rule)
    found["bilevel/train"] = outer_loop
    for name, kind in (("lstm", LSTMRule), ("mlp", MLPRule)):
        found[f"unroll/{name}/full"] = partial(learned_rule, kind, "gradient", 4)
        found[f"unroll/{name}/truncated"] = partial(learned_rule, kind, "gradient", 2)
        found[f"unroll/{name}/es"] = partial(learned_rule, kind, "evolution", 4)
        found[f"unroll/{name}/pes"] = partial(learned_rule, kind, "evolution", 2)
    return found


def record(row: Record, steps: int) -> Row:
    """One row, in float64."""
    with precisely():
        return row(steps)


def record_all(*, only: str | None, steps: int, reduced: bool) -> dict[str, Row]:
    chosen = {name: row for name, row in rows(reduced=reduced).items() if only is None or only in name}
    found, started = {}, time.monotonic()
    for number, (name, row) in enumerate(chosen.items(), 1):
        before = time.monotonic()
        found[name] = record(row, steps)
        end = f"refused: {found[name]['refused']}" if "refused" in found[name] else ""
        print(f"{number}/{len(chosen)} {name} {time.monotonic() - before:.2f} s {end}", file=sys.stderr, flush=True)
    print(f"{len(found)} rows in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return found


# Comparison.


def apart(a: list[float], b: list[float]) -> float:
    """The largest difference of two lists, relative to the value, or to a millionth of the largest where it is less."""
    if len(a) != len(b):
        return math.inf
    largest = max((abs(v) for v in (*a, *b) if math.isfinite(v)), default=0.0)
    worst = 0.0
    for v, w in zip(a, b, strict=True):
        if v == w or (math.isnan(v) and math.isnan(w)):
            continue
        if not (math.isfinite(v) and math.isfinite(w)):
            return math.inf
        worst = max(worst, abs(v - w) / max(abs(v), abs(w), 1e-6 * largest))
    return worst


def differences(a: Row, b: Row) -> dict[str, float]:
    """How far two rows are apart, part by part: what differs at all, of losses, sizes and predictions."""
    if "refused" in a or "refused" in b:
        return {} if "refused" in a and "refused" in b else {"refused": math.inf}
    found = {part: apart(a[part], b[part]) for part in ("losses", "sizes", "predictions")}
    return {part: value for part, value in found.items() if value > 0}


def compare(a: dict[str, Row], b: dict[str, Row], *, exact: bool, rtol: float) -> int:
    """Print the rows that differ; how many they are."""
    bad = 0
    for name in dict.fromkeys((*a, *b)):
        if name not in a or name not in b:
            bad += 1
            print(f"{name:45} only in the {'first' if name in a else 'second'}")
            continue
        found = differences(a[name], b[name])
        weights = exact and a[name].get("weights") != b[name].get("weights")
        if weights or any(value > (0.0 if exact else rtol) for value in found.values()):
            bad += 1
            told = [f"{part} {value:.1e}" for part, value in found.items()]
            print(f"{name:45} {max(found.values(), default=0.0):.1e}  {', '.join(told + ['weights'] * weights)}")
    print(f"{bad} of {len({*a, *b})} rows differ")
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("record")
    write.add_argument("file", type=Path)
    write.add_argument("--steps", type=int, help=f"left out: {STEPS}, and {REDUCED} with --reduced")
    write.add_argument("--reduced", action="store_true", help="one kind of data for each learner, as in the tests")
    read = commands.add_parser("compare")
    read.add_argument("a", type=Path)
    read.add_argument("b", type=Path)
    read.add_argument("--exact", action="store_true", help="to the bit, all weights too")
    read.add_argument("--rtol", type=float, default=1e-10)
    for command in (write, read):
        command.add_argument("--only", help="rows whose name has this in it")
    asked = parser.parse_args()
    if asked.command == "record":
        steps = asked.steps or (REDUCED if asked.reduced else STEPS)
        found = record_all(only=asked.only, steps=steps, reduced=asked.reduced)
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in found.items())
        asked.file.write_text(f"{{\n{lines}\n}}\n")
        return
    a, b = (
        {name: row for name, row in json.loads(path.read_text()).items() if asked.only is None or asked.only in name}
        for path in (asked.a, asked.b)
    )
    sys.exit(bool(compare(a, b, exact=asked.exact, rtol=asked.rtol)))


if __name__ == "__main__":
    main()
