"""The code of docs/bilevel.md runs as it stands there."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "bilevel.md"


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, in torch.func.jvp
def test_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S))
    names: dict = {}
    exec(
        code.replace("steps=100", "steps=6")
        .replace("memory=500", "memory=500, repeats=2")
        .replace("outer_steps=20", "outer_steps=2"),
        names,
    )
    shown = capsys.readouterr().out
    assert "use " in shown and "validation loss" in shown and (tmp_path / "methods.png").is_file()
    assert names["found"].rows
