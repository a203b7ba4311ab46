"""The pages of the learners: each has one, linked from the table of docs/learners.md, and none is of no learner.

The blocks of "Your own loop" run, each after the first one, which makes the data.
"""

import re
from pathlib import Path

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


@pytest.mark.parametrize("place", range(1, len(BLOCKS)))
def test_a_block_of_your_own_loop_runs(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict = {"__name__": "page"}
    for block in (BLOCKS[0], BLOCKS[place]):
        exec(compile(block, "docs/own_loop.md", "exec"), names)
