"""A stranger's package with a learner of its own, installed beside this one, trains by name from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.runs import SMALL, draw_folder

LEARNER = '''
"""Cosine prototypes, as a stranger would write them: from the public names alone."""

import torch.nn.functional as F

from upstairs.core import Learner, cross_entropy
from upstairs.learners import make_net


class Cosine(Learner):
    loss_fn = staticmethod(cross_entropy)

    def __init__(self, encoder, way, temperature):
        super().__init__()
        self.encoder, self.way, self.temperature = encoder, way, temperature

    def adapt(self, support):
        member = F.one_hot(support.y, self.way) * support.mask[:, None]
        return member.to(support.x.dtype).T @ F.normalize(self.encoder(support.x), dim=-1)

    def predict(self, prototypes, x):
        return self.temperature * F.normalize(self.encoder(x), dim=-1) @ F.normalize(prototypes, dim=-1).T


def build(settings, shape, way):
    return Cosine(make_net(settings, shape, None), way, settings.own.temperature)
'''
ENTRY = '''
from dataclasses import dataclass

from upstairs.learners import Entry, LearnerOptions
from upstairs.settings import option


@dataclass(frozen=True, kw_only=True)
class CosineOptions(LearnerOptions):
    """Cosine prototypes."""

    temperature: float = option(10.0, "Factor of the cosine.", above=0)


@dataclass(frozen=True, kw_only=True)
class Colliding(LearnerOptions):
    """An option that every run has already."""

    width: int = option(3, "Another width.")


DEFAULTS = {"way": 5, "query": 3, "norm": "group", "width": 16, "temperature": 8.0}
cosine = Entry("stranger_cosine:build", "cosine prototypes, by a stranger", CosineOptions, DEFAULTS)
colliding = Entry("stranger_cosine:build", "an option of a common name", Colliding, {})
unknown = Entry("stranger_cosine:build", "a default of no option", CosineOptions, {"heat": 1})
gone = Entry("stranger_nowhere:build", "a build that is not there", CosineOptions, DEFAULTS)
broken = "no entry at all"
'''


def install(site: Path, *, points: str) -> Path:
    """What pip leaves behind: the module, and metadata with its entry points."""
    info = site / "stranger-0.1.dist-info"
    info.mkdir(parents=True)
    (site / "stranger_learners.py").write_text(ENTRY)
    (site / "stranger_cosine.py").write_text(LEARNER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[upstairs.learners]\n{points}\n")
    return site


def call(site: Path, *words: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "upstairs", *map(str, words)],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("data") / "pictures", classes=20)


def test_it_trains_evaluates_and_serves_by_name(pictures: Path, tmp_path: Path) -> None:
    site = install(tmp_path / "site", points="cosine = stranger_learners:cosine")
    listed = json.loads(call(site, "list", "--json").stdout)["learners"]
    assert {row["name"]: row["summary"] for row in listed}["cosine"] == "cosine prototypes, by a stranger"
    shown = call(site, "train", "cosine", "--help").stdout
    assert "--temperature" in shown and "Factor of the cosine. (default: 8.0)" in shown and "--scale" not in shown
    words = ("--data", pictures, "--out", tmp_path / "run", "--steps", 60, "--quiet", "--validation-tasks", 4)
    done = call(site, "train", "cosine", *words, "--temperature", 9)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["temperature"] == 9.0
    done = call(site, "train", "cosine", *words, "--temperature", -1)
    assert done.returncode == 2 and "--temperature is -1.0: it must be above 0" in done.stderr, done.stderr
    done = call(site, "train", "protonet", *words, "--temperature", 9)
    assert done.returncode == 2 and "--temperature is an option of cosine and the learner is protonet" in done.stderr
    done = call(site, "evaluate", tmp_path / "run", "--way", 3, "--tasks", 40, "--no-baselines", "--json")
    result = json.loads(done.stdout)
    assert result["learner"] == "cosine" and result["accuracy"] > 0.6, "chance is 0.33"
    done = call(site, "adapt", tmp_path / "run", "--support", pictures, "--out", tmp_path / "model.safetensors")
    assert done.returncode == 0 and "20 classes" in done.stdout
    picture = next((pictures / "class03").glob("*.png"))
    assert "class03" in call(site, "predict", tmp_path / "model.safetensors", picture).stdout


def test_without_the_package_its_run_is_refused_in_a_sentence(pictures: Path, tmp_path: Path) -> None:
    site = install(tmp_path / "site", points="cosine = stranger_learners:cosine")
    words = ("--data", pictures, "--out", tmp_path / "run", "--steps", 1, *SMALL, "--quiet")
    assert call(site, "train", "cosine", *words).returncode == 0
    done = call(tmp_path, "evaluate", tmp_path / "run")
    assert done.returncode == 2 and "there is no learner 'cosine'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("points", "needed"),
    [
        ("bad = stranger_learners:missing", "missing"),
        ("bad = stranger_nowhere:entry", "stranger_nowhere"),
        ("bad = stranger_learners:broken", "Entry"),
        ("bad = stranger_learners:colliding", "an option 'width' and every run has one of that name"),
        ("bad = stranger_learners:unknown", "a default for 'heat', which is no option"),
        ("bad = stranger_learners:gone", "stranger_nowhere"),
    ],
)
def test_a_broken_plugin_is_named_and_does_no_harm_to_others(points: str, needed: str, tmp_path: Path) -> None:
    """Another's mistake must not stop who does not use it."""
    site = install(tmp_path / "site", points=points)
    done = call(site, "train", "bad", "--out", tmp_path / "run", "--steps", 1)
    own = "cannot be built by" if "gone" in points else "plug-in 'bad'"
    assert done.returncode == 2 and own in done.stderr and needed in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert call(site, "list").returncode == 0


def test_a_plugin_does_not_take_the_name_of_a_learner_here(tmp_path: Path) -> None:
    site = install(tmp_path / "site", points="protonet = stranger_learners:cosine")
    listed = json.loads(call(site, "list", "--json").stdout)["learners"]
    assert "stranger" not in {row["name"]: row["summary"] for row in listed}["protonet"]
