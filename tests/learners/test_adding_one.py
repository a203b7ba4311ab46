"""CONTRIBUTING's recipe for a new learner, followed to the letter: four files, and the command line knows it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import upstairs

ROOT = Path(__file__).resolve().parents[2]
SECTION = re.compile(r"## Adding a learner.*?(?=\n## )", re.S)


def files(root: Path) -> dict[str, str]:
    found = (f for part in ("src", "tests", "docs") for f in (root / part).rglob("*") if f.suffix in (".py", ".md"))
    return {f.relative_to(root).as_posix(): f.read_text(encoding="utf-8") for f in found}


def test_four_files_make_a_learner_with_an_option_of_its_own(tmp_path: Path) -> None:
    shutil.copytree(Path(upstairs.__file__).parent, tmp_path / "src" / "upstairs")
    for part in ("tests", "docs"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", "results"))
    before = files(tmp_path)
    section = SECTION.search((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert section is not None
    learner, options, line, row = re.findall(r"(?:^|\n) *```python\n(.*?)\n *```", section[0], re.S)
    learner, options, line, row = (re.sub(r"(?m)^   ", "", block) for block in (learner, options, line, row))
    learners, table = tmp_path / "src" / "upstairs" / "learners" / "metric", "METRIC_LEARNERS: dict[str, Entry] = {\n"
    (learners / "cosine_protonet.py").write_text(learner + "\n")
    text = (learners / "table.py").read_text().replace(table, f"{options}\n\n\n{table}    {line}\n")
    (learners / "table.py").write_text(text)
    laws = tmp_path / "tests" / "learners" / "test_laws.py"
    laws.write_text(laws.read_text().replace("EXPECTED = {\n", f"EXPECTED = {{\n    {row}\n"))
    (tmp_path / "docs" / "learners" / "cosine_protonet.md").write_text("# Prototypes by cosine\n")
    after = files(tmp_path)
    touched = {name for name in after if after[name] != before.get(name)}
    assert len(touched) == 4, touched

    env = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "COLUMNS": "100"}

    def call(*words: str) -> str:
        done = subprocess.run([sys.executable, *words], env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    shown = call("-m", "upstairs", "train", "cosine_protonet", "--help")
    assert re.search(r"--temperature FLOAT[\s│]+Factor of the cosine. \(default: 10.0\)", shown), shown
    small = "--way 3 --width 4 --steps 2 --validations 1 --validation-tasks 2 --data glyphs --quiet --temperature 5"
    call("-m", "upstairs", "train", "cosine_protonet", *small.split(), "--out", "run")
    code = "import upstairs; run = upstairs.load('run'); print(run.learner.temperature, run.settings.own.temperature)"
    assert call("-c", code).split() == ["5.0", "5.0"]
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "tests/learners/test_laws.py"]
    config = "[pytest]\naddopts = --import-mode=importlib\npythonpath = tests src\n"
    (tmp_path / "pytest.ini").write_text(config)
    assert "passed" in call(*pytest, "-k", "test_table_on_vectors and cosine_protonet")
