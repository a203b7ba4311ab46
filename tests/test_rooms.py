"""The house of CONTRIBUTING.md: a room imports only rooms above it, folders stay small, a public name is unique."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import upstairs

HOME = Path(upstairs.__file__).parent
# The rooms in order: each imports only from those before it. The list in CONTRIBUTING.md is generated from this table.
ROOMS = {
    "errors": "the exceptions that a user reads",
    "stops": "Ctrl-C and SIGTERM wait until what is being done is whole",
    "schedule": "how a learning rate changes over a run",
    "settings": "the options of a run",
    "statistics": "means, intervals and paired differences",
    "console": "progress bars and tables on the terminal",
    "claims": "jobs that workers on any machines share: one has a job, and what a dead one left is taken over",
    "tree": "pytrees of tensors",
    "ranks": "the processes that work on one run, and what they tell each other",
    "functional": "code written for one task, run on all; the inner loop",
    "encoders": "pretrained networks: a name to a function from pictures, sounds or texts to features",
    "core": "`Examples`, `Task`, `Learner` and losses",
    "storage": "safetensors files, written whole or not at all",
    "testing": "`check_learner`: the laws that a learner keeps",
    "data": "from files to tasks",
    "nets": "ordinary modules, and pretrained encoders",
    "learners": "the algorithms, and their registry",
    "engine": "a learner and tasks to gradients or scores",
    "bilevel": "hypergradients of any training loop",
    "training": "options to trainer to checkpoint to `Run` to `Model`",
    "experiments": "what is done with runs: evaluate, compare, report, reproduce",
    "cli": "what a user types",
    "__main__": "`python -m upstairs`",
}
LEVEL = {name: level for level, name in enumerate(ROOMS)}
FILES = sorted(f for f in HOME.rglob("*.py") if f != HOME / "__init__.py")


def imports(file: Path) -> Iterator[str]:
    """The modules of this library that a file imports, anywhere in it, without the first part of their names."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" for a in node.names]
        yield from (name.removeprefix("upstairs.") for name in names if name.startswith("upstairs."))


def room(file: Path) -> str:
    return file.relative_to(HOME).parts[0].removesuffix(".py")


def test_a_room_imports_only_from_rooms_before_it() -> None:
    assert len(FILES) > 20 and len(ROOMS) <= 24
    for file in FILES:
        own = room(file)
        assert own in LEVEL, f"{own} has no place in the house: add it to ROOMS"
        for other in {name.split(".")[0] for name in imports(file)} - {own}:
            if other in LEVEL:  # else a name of the package itself, such as __version__
                assert LEVEL[other] < LEVEL[own], f"{file.relative_to(HOME)} imports {other}, a later room"


def test_the_house_has_at_most_twelve_levels() -> None:
    edges = {name: set() for name in ROOMS}
    for file in FILES:
        edges[room(file)] |= {name.split(".")[0] for name in imports(file)} & set(ROOMS) - {room(file)}
    depth: dict[str, int] = {}
    for name in ROOMS:
        depth[name] = 1 + max((depth[other] for other in edges[name]), default=0)
    assert max(depth.values()) <= 12, depth


def test_no_module_imports_itself_round_a_cycle() -> None:
    edges = {module(file): {module_of(name) for name in imports(file)} - {module(file), ""} for file in FILES}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for other in sorted(edges.get(name, ())):
                visit(other, (*above, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def module(file: Path) -> str:
    return file.relative_to(HOME).with_suffix("").as_posix().removesuffix("/__init__").replace("/", ".")


def module_of(name: str) -> str:
    """The module that an imported name comes from; '' for the package itself."""
    parts = name.split(".")
    while parts and not (HOME.joinpath(*parts).with_suffix(".py").is_file() or HOME.joinpath(*parts).is_dir()):
        parts.pop()
    return ".".join(parts)


def test_folders_hold_at_most_twelve_modules() -> None:
    for folder in {file.parent for file in FILES}:
        modules = [f.stem for f in folder.glob("*.py") if f.stem not in ("__init__", "__main__")]
        assert len(modules) <= 12, f"{folder.relative_to(HOME)} holds {len(modules)}: {', '.join(sorted(modules))}"


def house() -> str:
    """The rooms as the list of CONTRIBUTING.md."""
    width = max(len(name) for name in ROOMS) + 2
    lines = [f"{name + '/' if (HOME / name).is_dir() else name:<{width}}{what}" for name, what in ROOMS.items()]
    return "```\n" + "\n".join(lines) + "\n```\n"


def test_contributing_lists_the_rooms() -> None:
    """`python tests/test_rooms.py` prints the list to paste."""
    text = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert house() in text, f"the list of rooms in CONTRIBUTING.md is not this one:\n{house()}"


def test_importing_the_package_is_instant() -> None:
    """No torch until it is needed: `import upstairs` and `upstairs --help` must not wait for it."""
    code = "import upstairs.cli, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    sys.stdout.write(house())
