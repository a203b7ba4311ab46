"""A public class or function has one name for itself: no two modules define the same one."""

import ast
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import pytest

import upstairs
from upstairs import learners

HOME = Path(upstairs.__file__).parent


def names_of(source: str) -> set[str]:
    """The public classes and functions that a module defines."""
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return {n.name for n in ast.parse(source).body if isinstance(n, kinds) and not n.name.startswith("_")}


def doubles(sources: dict[str, str]) -> dict[str, list[str]]:
    """Names with the modules that define them, where there are several."""
    found = defaultdict(list)
    for module, source in sorted(sources.items()):
        for name in names_of(source):
            found[name].append(module)
    return {name: modules for name, modules in found.items() if len(modules) > 1}


def test_no_two_modules_define_the_same_public_name() -> None:
    sources = {str(f.relative_to(HOME)): f.read_text(encoding="utf-8") for f in HOME.rglob("*.py")}
    assert not (found := doubles(sources)), f"rename one of each: {found}"


def test_a_double_is_found() -> None:
    one = "class Step: ...\ndef _own(): ...\nclass Other:\n    def run(self): ..."
    two = "def run(): ...\ndef _own(): ...\nasync def Step(): ..."
    assert doubles({"a.py": one, "b.py": two}) == {"Step": ["a.py", "b.py"]}


@pytest.mark.parametrize("package", [upstairs, learners])
def test_type_checkers_see_the_names_that_are_imported_late(package: ModuleType) -> None:
    """One list is for them and one for Python: reading the first at each import would cost time and need the source."""
    blocks = [
        n for n in ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8")).body if isinstance(n, ast.If)
    ]
    imports = [n for block in blocks for n in block.body if isinstance(n, ast.ImportFrom)]
    seen = {alias.name: n.module for n in imports for alias in n.names}
    assert seen == {name: f"upstairs.{module}" for name, module in package._HOME.items()}
