"""What `import upstairs` gives: every name there is, no torch before it is needed, learners for a loop of one's own.

Each learner takes a plain network and trains for a step.
"""

import inspect
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import upstairs as up
from helpers.tasks import WAY, blobs, sinusoids
from upstairs.learners import LEARNERS
from upstairs.nets import cells

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 20  # in training, for learners that classify them all


def net(out: int = WAY) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, out))


def encoder() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU())


ON_NET = [
    "maml", "fomaml", "anil", "boil", "maml_pp", "imaml", "cavia", "meta_sgd", "meta_curvature", "reptile", "mtl",
    "sparse_maml", "t_net", "learned_optimizer",
]  # fmt: skip
ON_ENCODER = [
    "protonet", "matchingnet", "relationnet", "dn4", "r2d2", "metaoptnet", "proto_maml", "unicorn_maml", "early_exit",
    "hypernetwork", "film", "versa", "snail", "in_context", "caml", "lstm", "memory",
]  # fmt: skip
OF_ALL_CLASSES = ["simpleshot", "baseline_pp", "co_training", "bd_cspn"]
ON_FUNCTIONS = ["cnp", "lnp", "anp"]
GENERATIVE = ["neural_statistician", "redrawing", "dagan"]


def make(name: str) -> tuple[up.Learner, up.Task]:
    """The learner as a user would make it, and tasks for it."""
    published = getattr(up, name)
    if name in ON_NET:
        return published(net(), way=WAY), blobs()
    if name in ON_ENCODER:
        return published(encoder(), way=WAY), blobs()
    if name in OF_ALL_CLASSES:
        return published(encoder(), way=WAY, classes=CLASSES), blobs()
    if name in ON_FUNCTIONS:
        return published(), sinusoids()
    if name in GENERATIVE:
        return published((1, 16, 16), width=8), blobs(way=1, shape=(1, 16, 16))
    return published(cells((8,), width=16), way=WAY), blobs()  # metanas


LEARNER_NAMES = [*ON_NET, *ON_ENCODER, *OF_ALL_CLASSES, *ON_FUNCTIONS, *GENERATIVE, "metanas"]


def test_no_learner_is_missing() -> None:
    """Each of the table is a name of the package; es_maml is maml with another estimator of its gradient."""
    assert set(LEARNER_NAMES) == set(LEARNERS) - {"es_maml"}


@pytest.mark.parametrize("name", up.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(up, name).__doc__ and name in dir(up)


@pytest.mark.parametrize("name", LEARNER_NAMES)
def test_a_learner_trains_a_step_on_a_plain_network(name: str) -> None:
    torch.manual_seed(0)
    learner, tasks = make(name)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-3)
    before = [p.detach().clone() for p in learner.parameters()]
    optimizer.zero_grad()
    step = up.meta_backward(learner, tasks)
    optimizer.step()
    assert step.losses.shape == (len(tasks.query.y),) and step.losses.isfinite().all()
    moved = [not torch.equal(p, b) for p, b in zip(learner.parameters(), before, strict=True)]
    assert any(moved) and all(p.isfinite().all() for p in learner.parameters())
    losses, predictions = learner(tasks)
    assert losses.isfinite().all() and predictions.isfinite().all()


@pytest.mark.parametrize("name", ["maml", "meta_sgd", "anil", "reptile", "cavia", "t_net", "learned_optimizer", "r2d2"])
def test_without_a_way_it_is_regression(name: str) -> None:
    body = nn.Sequential(nn.Linear(1, 16), nn.ReLU())
    whole = nn.Sequential(*body, nn.Linear(16, 1))
    learner = up.r2d2(body) if name == "r2d2" else getattr(up, name)(whole, inner_lr=0.01)
    assert learner.task_kind == "regression"
    assert up.meta_backward(learner, sinusoids()).predictions.shape == (4, 10, 1)


def test_the_last_layer_is_found() -> None:
    learner = up.anil(net(), way=WAY)
    assert set(learner.adapting()) == {"2.weight", "2.bias"}
    assert set(up.boil(net(), way=WAY).adapting()) == {"0.weight", "0.bias"}
    assert set(up.anil(net(), way=WAY, head="0.").adapting()) == {"0.weight", "0.bias"}


def flattened(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten())


@pytest.mark.parametrize(
    ("body", "shape", "size"),
    [
        (encoder(), None, 16),
        (flattened(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1)), None, 6),
        (flattened(nn.Conv2d(3, 6, 3)), (3, 8, 8), 216),
        (flattened(nn.Conv1d(2, 6, 3), nn.AdaptiveAvgPool1d(2)), None, 12),
        (nn.Flatten(), (2, 3), 6),
    ],
)
def test_the_length_of_embeddings(body: nn.Module, shape: tuple[int, ...] | None, size: int) -> None:
    assert up.lstm(body, way=2, shape=shape).cell.input.in_features == size + 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: up.versa(flattened(nn.Conv2d(3, 6, 3)), way=5), "give the `shape` of one input"),
        (lambda: up.versa(nn.Conv2d(3, 6, 3), way=5, shape=(3, 8, 8)), r"let it end with nn\.Flatten"),
        (lambda: up.versa(encoder(), way=5, shape=(3,)), r"does not take inputs of shape \(3,\)"),
        (lambda: up.early_exit(flattened(nn.Conv2d(3, 6, 3)), way=5), "give the `shape`"),
        (lambda: up.metanas(encoder(), way=5), r"no choice to search among: use upstairs\.nets\.cells"),
        (lambda: up.redrawing((3, 16, 16)), "one channel"),
        (lambda: up.dagan((1, 8, 8)), "16x16"),
        (lambda: up.Examples(torch.zeros(3, 1), torch.zeros(3)), r"write y\[:, None\]"),
    ],
)
def test_mistakes_say_what_to_do(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(up.UpstairsError, match=message):
        wrong()


@pytest.mark.parametrize("name", [*ON_FUNCTIONS, *GENERATIVE])
def test_a_module_in_place_of_sizes_is_a_sentence(name: str) -> None:
    plain = inspect.unwrap(getattr(up, name))  # without the check of types that tests add
    with pytest.raises(up.UpstairsError, match=r"`(inputs|shape)` is Sequential.*: give the (length|shape) of"):
        plain(net())
    if name in ON_FUNCTIONS:
        with pytest.raises(up.UpstairsError, match="`width` is 'wide', of type str: give"):
            plain(1, width="wide")


def test_a_name_that_is_none() -> None:
    with pytest.raises(AttributeError, match="no attribute 'mamml'"):
        up.mamml  # noqa: B018


def test_importing_the_package_is_instant() -> None:
    """It imports nothing but the standard library, which takes milliseconds on an idle machine."""
    code = """
import sys; before = set(sys.modules)
import upstairs
new = {name.split(".")[0] for name in set(sys.modules) - before}
assert new - {"upstairs"} <= sys.stdlib_module_names and len(new) < 30, new"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_examples_without_a_mask() -> None:
    assert up.Examples(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)).mask.tolist() == [True] * 3
    assert up.Examples(torch.zeros(4, 3, 2), torch.zeros(4, 3, dtype=torch.long)).mask.shape == (4, 3)
    assert up.Examples(torch.zeros(4, 3, 2), torch.zeros(4, 3, 1)).mask.shape == (4, 3)
    given = torch.tensor([True, False])
    assert up.Examples(torch.zeros(2, 1), torch.zeros(2, 1), given).mask is given
    assert up.Examples._fields == ("x", "y", "mask")


def episodes() -> up.Episodes:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(120, 8, generator=generator), torch.arange(CLASSES).repeat_interleave(6)
    return up.Episodes(up.Source.from_arrays(x, y), way=WAY, shot=1, query=3)


def equal(one: up.Task, other: up.Task) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) for part in pairs for a, b in zip(*part, strict=True))


def test_a_stream_has_the_trainers_tasks_and_goes_on_anywhere() -> None:
    from upstairs.data.seeds import task_seed

    tasks = episodes()
    whole = list(tasks.stream(4, seed=3, steps=5))
    assert len(whole) == 5 and whole[0].support.x.shape == (4, WAY, 8)
    for step, batch in enumerate(whole):
        assert equal(batch, tasks.batch([task_seed(3, step * 4 + i) for i in range(4)]))
    rest = list(tasks.stream(4, seed=3, steps=5, start=3))
    assert len(rest) == 2 and all(equal(a, b) for a, b in zip(rest, whole[3:], strict=True))
    endless = tasks.stream(4, seed=3, device="cpu")
    assert all(equal(next(endless), batch) for batch in whole)
    assert not equal(whole[0], next(tasks.stream(4, seed=4)))
    with pytest.raises(up.UpstairsError, match="`size` is 0"):
        tasks.stream(0)


def test_functions_of_ones_own() -> None:
    def plane(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        slope = torch.randn(2, 3, generator=generator)
        x = torch.randn(count, 2, generator=generator)
        return x, x @ slope

    source = up.Source.from_function(plane, name="planes")
    tasks = up.Episodes(source, shot=(2, 5), query=7)
    batch = next(tasks.stream(4))
    assert batch.support.x.shape == (4, 5, 2) and batch.query.y.shape == (4, 7, 3) and source.feature_shape == (2,)
    assert tasks.task_kind == "regression" and equal(batch, next(tasks.stream(4)))
    assert up.meta_backward(up.maml(nn.Linear(2, 3)), batch).losses.isfinite().all()
    with pytest.raises(up.UpstairsError, match=r"draw x \[count, d\] and y"):
        up.Source.from_function(lambda count, generator: (torch.zeros(count), torch.zeros(count)))
    with pytest.raises(up.UpstairsError, match="`way`"):
        up.Episodes(episodes().source, shot=1)


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


def test_a_strangers_loop(tmp_path: Path) -> None:
    """The loop of the README, or of the page that it links to, in a file of its own with random tensors."""
    data, loop = blocks("docs/own_loop.md")[:2]
    loop = next((block for block in blocks("README.md")[:1] if "meta_backward" in block), loop)
    file = tmp_path / "loop.py"
    file.write_text(f"{data}\n{re.sub('steps=[0-9_]{3,}', 'steps=100', loop)}")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime  # its own seconds: the machine may be busy
    done = subprocess.run([sys.executable, file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 10
