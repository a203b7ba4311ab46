"""Several processes train one run: the same bits for any number of them, through kills, stops and mistakes."""

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import upstairs
from upstairs import ranks
from upstairs.cli import launch
from upstairs.core import Examples, Learner, Task
from upstairs.engine.distributed import check_shards, sharded_backward
from upstairs.errors import NonFiniteError, UpstairsError
from upstairs.storage import load_tensors

PROGRAM = Path(__file__).with_name("processes_program.py")
STEPS = "150"
NAMES = ("maml", "large", "protonet", "es_maml", "dagan", "dropout", "hard", "batch_norm")
BARE = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
ONE = BARE | {"OMP_NUM_THREADS": "1"}


def digest(run: Path) -> str:
    tensors, _ = load_tensors(run / "last.safetensors", kind="run")
    return hashlib.sha256(b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))).hexdigest()


def start(world: int, *words: str) -> list["subprocess.Popen[str]"]:
    """Starts the program as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1"}
        common |= {"MASTER_PORT": free.getsockname()[1]}
    started = []
    for place in range(world):
        own = ONE | {name: str(value) for name, value in (common | {"RANK": place, "LOCAL_RANK": place}).items()}
        words_of = [sys.executable, str(PROGRAM), *words]
        started.append(subprocess.Popen(words_of, env=own, stderr=subprocess.PIPE, text=True))
    return started


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of one process."""
    out = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, PROGRAM, out, *NAMES], env=ONE, check=True)
    return out


def test_two_processes_train_the_same_runs_as_one(alone: Path, tmp_path: Path) -> None:
    for process in start(2, str(tmp_path), *NAMES):
        assert process.communicate(timeout=300)[1] == "" and process.returncode == 0
    for name in NAMES:
        assert digest(tmp_path / name) == digest(alone / name), name
        history = [
            load_tensors(out / name / "last.safetensors", kind="run")[1]["progress"] for out in (tmp_path, alone)
        ]
        for part in history:
            del part["seconds"]
            for point in part["history"]:
                del point["seconds"]
        assert history[0] == history[1], name
    assert digest(alone / "maml") == digest(alone / "large")


def test_a_loss_that_is_not_finite_on_one_process_ends_all_with_its_seed(tmp_path: Path) -> None:
    ended = [process.communicate(timeout=120)[1].splitlines()[-1] for process in start(2, str(tmp_path), "nan")]
    ended = [line.removeprefix(f"[rank{place}]: ") for place, line in enumerate(ended)]  # by torch
    assert ended[0] == ended[1]
    assert re.search(r"at step 0 the loss of task 2 of the batch is nan: that is the task with seed \d+", ended[0])


def command(out: Path, *words: str) -> list[str]:
    tasks = ["--data", "sinusoid", "--tasks", "4", "--shards", "2", "--shot", "5", "--query", "5"]
    own = [*tasks, "--validations", "3", "--steps", STEPS, *words, "--out", str(out)]
    return [sys.executable, "-m", "upstairs", "train", "maml", *own]


def workers(parent: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True).stdout.split()
    return [int(pid) for pid in found]


def wait_for(file: Path, process: "subprocess.Popen[str]") -> None:
    while not file.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


@pytest.mark.skipif(
    not hasattr(signal, "SIGKILL") or sys.platform == "darwin", reason="processes are found by Linux's ps"
)
def test_a_killed_process_and_a_stop_change_nothing(tmp_path: Path) -> None:
    subprocess.run(command(tmp_path / "one", "--threads", "1"), env=ONE, check=True, capture_output=True)
    two = tmp_path / "two"
    process = subprocess.Popen(
        [*command(two), "--processes", "2"], env=ONE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    wait_for(two / "best.safetensors", process)  # after the first validation
    os.kill(workers(process.pid)[-1], signal.SIGKILL)
    while "best" not in (said := process.stderr.readline()) and "starting again" not in said:  # type: ignore[union-attr]
        assert process.poll() is None
    first = two / "best.safetensors"
    first.unlink()
    wait_for(first, process)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and said.count("is saved; go on with") == 1, said
    ended = subprocess.run([*command(two), "--processes", "2", "--resume"], env=ONE, capture_output=True, text=True)
    assert ended.returncode == 0 and ended.stderr.count("next: upstairs evaluate") == 1, ended.stderr
    assert digest(two) == digest(tmp_path / "one")
    alone, divided = (
        subprocess.run(
            [sys.executable, "-m", "upstairs", "evaluate", str(two), "--tasks", "40", "--json", "--processes", count],
            env=ONE, capture_output=True, text=True, check=True,
        ).stdout for count in ("1", "2")
    )  # fmt: skip
    assert re.sub(r'"seconds": [\d.]+', "", alone) == re.sub(r'"seconds": [\d.]+', "", divided) != ""


def test_mistakes_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UpstairsError, match=r"`tasks` is 6 and `shards` 4.* give 8 tasks, or 1, 2, 3 or 6 shards"):
        check_shards(4, 6)
    monkeypatch.setattr(ranks, "world", lambda: 3)
    with pytest.raises(
        UpstairsError, match="`shards` is 4 and there are 3 processes: give a multiple of 3, or start 1"
    ):
        check_shards(4, 4)
    every = [{"torch": "1", "settings": {"lr": 1, "way": 5}}, {"torch": "1", "settings": {"lr": 2, "way": 5}}]
    monkeypatch.setattr(ranks, "all_told", lambda value, **_: every)
    with pytest.raises(UpstairsError, match=r"settings \({'lr': 1} on process 0, {'lr': 2} on process 1\)"):
        ranks.check_alike(**every[0])
    monkeypatch.setattr(ranks, "all_told", lambda value, **_: ["", "the folder is not shared"])
    with pytest.raises(UpstairsError, match="the folder is not shared") as caught:
        ranks.on_all(lambda: 1)
    assert caught.value.by_all  # the first process alone writes it
    for said, sentence in {
        "Gloo connectFullMesh failed with ...": "set GLOO_SOCKET_IFNAME",
        "The server socket has failed to listen: EADDRINUSE": "is in use: give torchrun another",
        "Connection closed by peer [127.0.0.1]:1": "goes on from the last checkpoint",
    }.items():
        with pytest.raises(UpstairsError, match=sentence), ranks.told():
            raise RuntimeError(said)


def test_a_rank_without_a_world_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters set such variables: a run of one process must not leave its files to another one."""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert ranks.is_first() and not launch.is_one_of_several()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not ranks.is_first() and launch.is_one_of_several()


class Mean(Learner[torch.Tensor]):
    """Predicts w times the mean of the support targets; `unused` never has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.unused = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        self.loss_fn = lambda prediction, y: (prediction - y).square().sum(-1)

    def adapt(self, support: Examples, /) -> torch.Tensor:
        return support.y.mean(0) * self.w

    def predict(self, state: torch.Tensor, x: torch.Tensor, /) -> torch.Tensor:
        return state.expand(len(x), 1)


def tasks(count: int, *, bad: int | None = None) -> Task:
    torch.manual_seed(0)
    parts = [Examples(torch.randn(count, 3, 1), torch.randn(count, 3, 1)) for _ in range(2)]
    if bad is not None:
        parts[1].y[bad] = float("nan")
    return Task(*parts)


def test_a_step_in_shards_is_the_step_as_a_whole() -> None:
    learner, other = Mean(), Mean()
    batch = tasks(6)
    upstairs.meta_backward(learner, batch)
    step = upstairs.distributed.meta_backward(other, batch, shards=3, note=lambda step, _: step.losses[:, None] * 2)
    assert learner.w.grad is not None and other.w.grad is not None
    torch.testing.assert_close(other.w.grad, learner.w.grad)
    assert other.unused.grad is None
    torch.testing.assert_close(step.losses, learner(batch)[0].detach())
    assert torch.equal(step.notes[:, 0], 2 * step.losses) and step.flags == [()]
    before = other.w.grad.clone()
    with pytest.raises(NonFiniteError, match="the loss of task 4 of the batch is nan"):
        sharded_backward(other, tasks(6, bad=4), shards=3)
    assert torch.equal(other.w.grad, before)
    sharded_backward(other, batch, shards=3)
    torch.testing.assert_close(other.w.grad, 2 * before)  # it accumulates


def test_a_process_without_its_parent_ends() -> None:
    """As after `kill -9` of the command that started it."""
    program = (
        "import time; from upstairs.cli.launch import watch_parent as w; w(); print(1, flush=True); time.sleep(99)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], env=ONE | {launch.WATCHED: "1"}, **pipes) as process:
        assert process.stdout is not None and process.stdin is not None and process.stdout.readline()
        process.stdin.close()
        assert process.wait(timeout=60) == launch.AGAIN


def test_the_block_of_the_page_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "processes.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    found: dict[str, object] = {}
    exec(block, found)
    assert isinstance(found["losses"], torch.Tensor) and found["losses"].shape == (8,)
