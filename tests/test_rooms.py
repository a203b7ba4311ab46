"""Data walks one way through the house: a file imports only from rooms above its own."""

import ast
from pathlib import Path

import upstairs

HOME = Path(upstairs.__file__).parent
# Rooms from the top; the files of one line are one room.
ROOMS = [
    ["errors"],
    ["schedule"],
    ["settings", "process", "search"],
    ["options"],
    ["tree"],
    ["stacked"],
    ["calling"],
    ["inner", "core"],
    ["minimise"],
    ["tasks"],
    ["nets", "inputs"],
    ["learners"],
    ["derivatives"],
    ["plan", "rewrite", "chunks", "purity"],
    ["compiled", "explain"],
    ["engine", "statistics", "defaults", "embedded"],
    ["estimators", "unroll", "outer", "remedies"],
    ["evaluate", "checkpoint", "testing"],
    ["trainer", "optimizer", "judging"],
    ["run"],
    ["console", "report", "recipes"],
    ["pipeline", "opening", "bilevel", "cards", "provenance"],
    ["session", "generation"],
    ["comparison", "breadth", "demo", "vary", "reproduce", "sweeps"],
    ["survey"],
    ["commands"],
    ["cli"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names}


def imports(file: Path) -> set[str]:
    """Rooms of this library that a file imports from, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        found |= {n.split(".")[1] for n in names if n.startswith("upstairs.")}
    return found


def test_a_file_imports_only_from_rooms_above() -> None:
    files = [f for f in HOME.rglob("*.py") if f.relative_to(HOME) != Path("__init__.py")]
    assert len(files) > 20
    for file in files:
        room = file.relative_to(HOME).parts[0].removesuffix(".py")
        assert room in LEVEL, f"{room} has no place in the house: add it to ROOMS"
        for other in imports(file) - {room}:
            assert LEVEL[other] < LEVEL[room], f"{file.name} imports {other}, which is below"


def test_files_and_classes_are_small() -> None:
    for file in HOME.rglob("*.py"):
        text = file.read_text()
        assert text.count("\n") <= 255, f"{file} has more than 250 lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                limit = 110 if node.name in ("Learner", "Source", "Settings") else 85
                assert lines <= limit, f"{node.name} in {file.name} has {lines} lines"
                if file.parent.name == "learners":
                    own = lines - len((ast.get_docstring(node) or "").splitlines())
                    assert own <= 60, f"{node.name} in {file.name} has {own} lines without what it says of itself"


def test_importing_the_package_is_instant() -> None:
    """No torch until it is needed: `import upstairs` and `upstairs --help` must not wait for it."""
    import subprocess
    import sys

    code = "import upstairs.cli, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
