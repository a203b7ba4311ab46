"""Files are whole or not there, and what is wrong with one is said."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from upstairs import storage as checkpoint
from upstairs.errors import UpstairsError
from upstairs.storage import load_tensors, pack_optimizer, save_tensors, unpack_optimizer, write_atomically


def test_round_trip(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4).t(), "b": torch.arange(3)}
    save_tensors(tmp_path / "f", tensors, {"x": [1, None, "ü"]}, kind="run")
    back, meta = load_tensors(tmp_path / "f", kind="run")
    assert all(torch.equal(back[k], v) for k, v in tensors.items()) and meta["x"] == [1, None, "ü"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_cut_file(tmp_path: Path, share: float) -> None:
    file = tmp_path / "f"
    save_tensors(file, {"a": torch.randn(100)}, {}, kind="run")
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UpstairsError, match="damaged"):
        load_tensors(file, kind="run")


def test_files_that_are_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UpstairsError, match="there is no file"):
        load_tensors(tmp_path / "none", kind="run")
    save_file({"a": torch.ones(1)}, tmp_path / "foreign")
    with pytest.raises(UpstairsError, match="not one that upstairs wrote"):
        load_tensors(tmp_path / "foreign", kind="run")
    save_tensors(tmp_path / "model", {}, {}, kind="adapted")
    with pytest.raises(UpstairsError, match="holds an adapted model"):
        load_tensors(tmp_path / "model", kind="run")
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    save_tensors(tmp_path / "future", {}, {"versions": {"upstairs": "7.0"}}, kind="run")
    monkeypatch.undo()
    with pytest.raises(UpstairsError, match=r"format 99 .* upstairs 7\.0"):
        load_tensors(tmp_path / "future", kind="run")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    write_atomically(file, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UpstairsError, match="No space left"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


def test_an_optimizer_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    def make() -> tuple[torch.Tensor, torch.optim.Optimizer]:
        p = torch.nn.Parameter(torch.ones(4))
        return p, torch.optim.AdamW([p], lr=0.1, weight_decay=0.1)

    def steps(p: torch.Tensor, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            p.grad = p.detach() ** 2
            optimizer.step()

    p, optimizer = make()
    steps(p, optimizer, 3)
    tensors, meta = pack_optimizer(optimizer)
    save_tensors(tmp_path / "o", tensors, {"optimizer": meta}, kind="run")
    q, other = make()
    with torch.no_grad():
        q.copy_(p)
    tensors, meta = load_tensors(tmp_path / "o", kind="run")
    unpack_optimizer(other, tensors, meta["optimizer"])
    steps(p, optimizer, 3), steps(q, other, 3)
    assert torch.equal(p, q)
