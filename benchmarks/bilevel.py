# ruff: noqa: T201
"""Memory and time of every hypergradient over the number of inner steps: python benchmarks/bilevel.py [--steps 10 100]

A network 64-64-10 in float32, batches of 64, gradient descent; the meta-parameters are a rate for each of its four
tensors and a decay: five numbers. Memory is the largest sum of tensors alive at once, beside those there before. Time
is that of the processor, on one thread: it does not count what a busy machine does for others; the least of five runs,
or of as many as take a second.
Those of higher and TorchOpt, where `benchmarks/install_peers.py` has put them, unroll. Written to
benchmarks/results/bilevel.json and bilevel.png.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upstairs.bilevel import (
    METHODS,
    SGD,
    ConjugateGradients,
    EvolutionStrategies,
    ImplicitHypergradient,
    Neumann,
    PersistentES,
    Problem,
    hypergradient,
    pure,
)
from upstairs.engine.plan import MIB, Tracker

HOME = Path(__file__).parent
METHODS_HERE = {
    **METHODS,
    "implicit_cg": ImplicitHypergradient(ConjugateGradients(20, damping=0.1)),
    "implicit_neumann": ImplicitHypergradient(Neumann(20, damping=0.1)),
    "es": EvolutionStrategies(2),
    "pes": PersistentES(2),
}
PEERS = {"higher": "k:", "torchopt": "k--"}  # and how they are drawn


def data(count: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(count)
    return torch.randn(64, 64, generator=g), torch.randint(10, (64,), generator=g)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))


def ours(method: str, steps: int) -> Callable[[], dict[str, Tensor]]:
    call = pure(net())

    def inner(p: dict[str, Tensor], m: dict[str, Tensor], batch: Any) -> Tensor:
        return F.cross_entropy(call(p, batch[0]), batch[1]) + m["log_decay"].exp() * sum(
            t.square().sum() for t in p.values()
        )

    def outer(p: dict[str, Tensor], m: dict[str, Tensor], batch: Any) -> Tensor:
        return F.cross_entropy(call(p, batch[0]), batch[1])

    problem = Problem(
        inner, outer, start=call.parameters, steps=steps,
        rule=lambda m: SGD({n: m["log_rates"][i].exp() for i, n in enumerate(call.parameters)}),
        inner_batch=lambda k: data(k % 10), outer_batch=lambda k: data(10),
    )  # fmt: skip
    meta = {"log_rates": torch.full((4,), -3.0), "log_decay": torch.tensor(-6.0)}
    return lambda: hypergradient(problem, meta, method=METHODS_HERE[method]).gradients


def theirs(name: str, steps: int) -> Callable[[], Any]:
    """The same problem, unrolled by another library: one rate for each tensor where it takes them, one for all else."""
    sys.path.insert(0, str(HOME / ".peers" / name))
    log_decay, log_rate = torch.tensor(-6.0, requires_grad=True), torch.tensor(-3.0, requires_grad=True)

    def loss(model: Any, k: int) -> Tensor:
        x, y = data(k % 10)
        return F.cross_entropy(model(x), y) + log_decay.exp() * sum(p.square().sum() for p in model.parameters())

    def with_higher() -> Any:
        import higher

        model = net()
        with higher.innerloop_ctx(
            model, torch.optim.SGD(model.parameters(), lr=0.05), override={"lr": [log_rate.exp()]}
        ) as (fast, optimizer):
            for k in range(steps):
                optimizer.step(loss(fast, k))
            x, y = data(10)
            return torch.autograd.grad(F.cross_entropy(fast(x), y), [log_decay, log_rate])

    def with_torchopt() -> Any:
        import torchopt

        model = net()
        optimizer = torchopt.MetaSGD(model, lr=0.05)
        for k in range(steps):
            optimizer.step(loss(model, k))
        x, y = data(10)
        return torch.autograd.grad(F.cross_entropy(model(x), y), [log_decay])

    return {"higher": with_higher, "torchopt": with_torchopt}[name]


def made(name: str, steps: int) -> Callable[[], Any]:
    return theirs(name, steps) if name in PEERS else ours(name, steps)


def measure(make: Callable[[], Callable[[], Any]]) -> dict[str, Any]:
    try:
        run = make()
        taken: list[float] = []
        while not taken or (sum(taken) < 1 and len(taken) < 5):
            start = time.process_time()
            run()
            taken.append(time.process_time() - start)
        with Tracker() as tracker:
            run()
    except Exception as error:
        return {"skipped": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    return {"seconds": min(taken), "mib": tracker.peak / MIB}


def draw(rows: dict[str, dict[int, dict[str, Any]]], parameters: float, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    for axis, key, label in zip(figure.subplots(1, 2), ("mib", "seconds"), ("MiB", "seconds of one core"), strict=True):
        for number, (name, points) in enumerate(rows.items()):
            there = [(k, p[key]) for k, p in points.items() if key in p]
            if there:
                style = PEERS.get(name, "-" if number < 10 else "--")
                axis.plot(*zip(*there, strict=True), f"o{style}", label=name.replace("_", " "), markersize=3)
        axis.set(xscale="log", yscale="log", xlabel="inner steps", ylabel=label)
        axis.grid(alpha=0.3)
    counts = sorted({k for points in rows.values() for k in points})
    figure.axes[0].plot(counts, [parameters * k for k in counts], "k:", linewidth=1, label="copies of the parameters")
    figure.axes[0].legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Memory and time of hypergradients over inner steps.")
    parser.add_argument("--steps", type=int, nargs="*", default=(10, 100, 1000))
    parser.add_argument(
        "--methods", nargs="*", default=(*METHODS_HERE, *PEERS), help="others stay as they were written"
    )
    parser.add_argument("--out", type=Path, default=HOME / "results")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name in set(arguments.methods):
        measure(lambda name=name: made(name, 1))  # what a first call loads is not counted
    written = arguments.out / "bilevel.json"
    before = json.loads(written.read_text())["rows"] if written.is_file() else {}
    rows = {n: {int(k): p for k, p in before.get(n, {}).items()} for n in (*METHODS_HERE, *PEERS)}
    for steps in (1, *arguments.steps):
        for name in arguments.methods:
            rows[name][steps] = point = measure(lambda n=name, k=steps: made(n, k))
            shown = point.get("skipped") or "{mib:9.3f} MiB {seconds:8.3f} s".format(**point)
            print(f"{name:20}{steps:5} steps {shown}", flush=True)
    parameters = sum(p.numel() for p in net().parameters()) * 4 / MIB
    result = {"name": "bilevel", "parameters_mib": parameters, "torch": torch.__version__, "rows": rows}
    written.write_text(json.dumps(result, indent=1) + "\n")
    draw(rows, parameters, arguments.out / "bilevel.png")
