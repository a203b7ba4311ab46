"""The pages of docs: each learner has one, every page has a line in the index, links and names lead somewhere.

The blocks of "Your own loop" run, each after the first one, which makes the data.
"""

import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from upstairs.learners import LEARNERS

DOCS = Path(__file__).parents[1] / "docs"
BLOCKS = re.findall(r"```python\n(.*?)```", (DOCS / "own_loop.md").read_text(), re.S)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_has_its_page(name: str) -> None:
    page = (DOCS / "learners" / f"{name}.md").read_text()
    assert f"upstairs train {name} " in page and "When to use it" in page and "Source: " in page
    assert f"[`{name}`](learners/{name}.md)" in (DOCS / "learners.md").read_text()


def test_no_page_without_a_learner_and_no_link_to_nowhere() -> None:
    assert {p.stem for p in (DOCS / "learners").glob("*.md")} == {*LEARNERS, "open_set"}
    for page in DOCS.rglob("*.md"):
        for link in page.read_text().split("](")[1:]:
            target = link.split(")")[0].split("#")[0]
            if target and "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()
    assert [p.name for p in DOCS.glob("*.md") if p.name != "README.md" and f"]({p.name}" not in index] == []


def test_the_names_of_the_library_that_pages_mention_exist() -> None:
    """`upstairs.room.module.name`, and imports in blocks of Python."""
    for page in DOCS.rglob("*.md"):
        text = page.read_text()
        names = set(re.findall(r"\bupstairs(?:\.[A-Za-z_]\w*)+", text))
        for module, imported in re.findall(r"^from (upstairs[\w.]*) import (.+)$", text, re.M):
            names |= {f"{module}.{name.strip()}" for name in imported.split(",")}
        for name in names:
            assert exists(name), f"{page.name}: {name}"


def exists(name: str) -> bool:
    """Can it be imported, as a module or as an attribute of one?"""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_the_blocks_of_encoders_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "encoders.md").read_text(), re.S):
        exec(compile(block, "docs/encoders.md", "exec"), names)
    np.testing.assert_allclose(names["encoder"]([names["red"], names["blue"]]), [[1, -1, -1], [-1, -1, 1]], atol=1e-6)


@pytest.mark.parametrize("place", range(1, len(BLOCKS)))
def test_a_block_of_your_own_loop_runs(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict = {"__name__": "page"}
    for block in (BLOCKS[0], BLOCKS[place]):
        exec(compile(block, "docs/own_loop.md", "exec"), names)
