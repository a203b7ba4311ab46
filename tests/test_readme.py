"""The README's commands and its five lines of Python do what it says, in both languages."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import torch

from helpers.runs import draw_folder
from helpers.tasks import WAY, blobs
from upstairs.testing import check_learner

ROOT = Path(__file__).resolve().parents[1]
SHORTER = {"--minutes 10": "--steps 4 --width 4 --validation-tasks 4", "--shot 1": "--shot 1 --tasks 20"}


def test_its_commands_run(tmp_path: Path) -> None:
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
    env = {**os.environ, "COLUMNS": "200"}
    for command in commands:
        for long, short in SHORTER.items():
            command = command.replace(long, short)
        words = [sys.executable, "-m", "upstairs", *command.split()[1:]]
        if words[3] == "report":
            words += ["--tasks", "20"]
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    code = python[0].replace("runs/demo/protonet", "runs/mine")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\['class\d\d', 'class\d\d'\]\n", done.stdout)
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
