"""Every learner and every other path through the library computes what it did when `golden.json` was recorded.

Where a change is meant: python benchmarks/golden.py record tests/golden.json --reduced
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent
EXPECTED = json.loads((HERE / "golden.json").read_text())
TOLERANCE = 1e-8


@pytest.fixture(scope="module")
def golden() -> ModuleType:
    """The benchmark as a module; it sets and restores torch's default dtype around each row by itself."""
    path = HERE.parent / "benchmarks" / "golden.py"
    spec = importlib.util.spec_from_file_location("golden_for_tests", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, in torch.func.jvp
@pytest.mark.parametrize("name", EXPECTED)
def test_it_computes_what_it_did(golden: ModuleType, name: str) -> None:
    found = golden.record(golden.rows(reduced=True)[name], golden.REDUCED)
    bad = {part: value for part, value in golden.differences(EXPECTED[name], found).items() if value > TOLERANCE}
    assert not bad, f"{name} computes something else: relative differences {bad}, {found.get('refused', '')}"


def test_it_can_fail(golden: ModuleType) -> None:
    row = EXPECTED["maml/vectors"]
    for part in ("losses", "sizes", "predictions"):
        changed = {**row, part: [*row[part][:-1], row[part][-1] * (1 + 1e-7)]}
        assert golden.differences(row, changed)[part] > TOLERANCE
    assert golden.differences(row, {"refused": "no"}) and not golden.differences(row, json.loads(json.dumps(row)))
