"""The README's commands and its five lines of Python do what it says, in both languages."""

import re
import shutil
import textwrap
from pathlib import Path

import pytest
import torch

from helpers.encoders import save_onnx
from helpers.runs import Call, draw_folder
from helpers.tasks import WAY, blobs
from upstairs.testing import check_learner
from upstairs.training.model import load_adapted

ROOT = Path(__file__).resolve().parents[1]
SHORTER = {"--minutes 10": "--steps 4 --width 4 --validation-tasks 4", "--shot 1": "--shot 1 --tasks 8"}


def test_its_commands_run(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the Chinese one are the same: the next test."""
    text = (ROOT / "README.md").read_text()
    shell = [
        line.split("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.split("\n")
    ]
    commands = [line for line in shell if line.startswith("upstairs")]
    python = re.findall(r"```python\n(import upstairs as up\n.*?)```", text, re.S)
    assert len(commands) >= 6 and len(python) == 1
    draw_folder(tmp_path / "my_pictures", classes=30, size=20)
    draw_folder(tmp_path / "my_classes", classes=3, examples=3, seed=1)
    shutil.copy(tmp_path / "my_classes" / "class00" / "0.png", tmp_path / "a.png")
    shutil.copy(tmp_path / "my_classes" / "class01" / "0.png", tmp_path / "b.jpg")
    shutil.copytree(tmp_path / "my_classes" / "class02", tmp_path / "photos")
    draw_folder(tmp_path / "labelled", classes=3, examples=4, seed=1)
    save_onnx(tmp_path / "own.onnx", ["n", 3, 24, 24])  # in place of an encoder that is not installed
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for command in commands:
        for long, short in SHORTER.items():
            command = command.replace(long, short)
        words = command.replace("mobilenet_v2", "own.onnx").split()[1:]
        if words[0] == "report":
            words += ["--tasks", "8"]
        status, _, err = call(*words)
        assert status == 0, f"{command}: {err}"
    exec(python[0].replace("mobilenet_v2", "own.onnx"), {"__name__": "__main__"})
    named, _, checked = capsys.readouterr().out.partition("\n")
    assert re.fullmatch(r"\['class\d\d', 'class\d\d'\]", named) and "over 9 examples of 3 classes" in checked
    assert "wolf" in load_adapted(tmp_path / "mine.safetensors").labels
    assert (tmp_path / "mine.safetensors").is_file() and (tmp_path / "runs/mine/report.html").is_file()


def test_both_languages_have_the_same_commands() -> None:
    blocks = [
        re.findall(r"```(?:sh|python)\n(.*?)```", (ROOT / n).read_text(), re.S)
        for n in ("README.md", "README.zh-CN.md")
    ]
    bare = [[re.sub(r"\s*#.*", "", block) for block in own] for own in blocks]
    assert bare[1] == bare[0][: len(bare[1])]


def test_the_example_of_contributing_keeps_the_laws() -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)[0]
    names: dict = {"__name__": "cosine_protonet"}
    exec(textwrap.dedent(code), names)
    torch.manual_seed(0)
    check_learner(names["CosineProtoNet"](torch.nn.Linear(8, 4), way=WAY), blobs())
