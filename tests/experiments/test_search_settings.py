"""`upstairs search`: what is varied is read, trials are runs, and the best of them is named."""

from pathlib import Path

import pytest

from helpers.runs import draw_folder
from upstairs.errors import UpstairsError
from upstairs.experiments.search import Range, parse_space


def test_what_to_vary() -> None:
    space = parse_space(
        ["lr=1e-4..0.1:log", "inner-steps=1..5", "--norm=batch,group", "width=16,32", "shot=1,1-5"], "maml"
    )
    assert space == {
        "lr": Range(1e-4, 0.1, log=True), "inner_steps": Range(1, 5), "norm": ["batch", "group"], "width": [16, 32],
        "shot": ["1", "1-5"],
    }  # fmt: skip
    assert isinstance(space["inner_steps"].low, int)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("speed=1..2", "no setting 'speed'"),
        ("lr", "cannot be read"),
        ("lr=1..x", "cannot"),
        ("lr=1:log", "cannot"),
        ("shot=1..5", "cannot be read"),
        ("net=conv4,foo", "`net` is 'foo': choose conv4"),
    ],
)
def test_what_cannot_be_varied_is_refused(word: str, message: str) -> None:
    with pytest.raises(UpstairsError, match=message):
        parse_space([word], "maml")


@pytest.mark.filterwarnings("ignore")  # of Optuna's own libraries
def test_the_command_searches_and_goes_on(call, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed (extra [search])")
    draw_folder(tmp_path / "data", classes=12, size=12, examples=4)
    vary = ["--vary", "lr=1e-4..1e-1:log", "width=2,4"]
    words = ["search", "protonet", "--data", tmp_path / "data",
             "--steps", 2, "--validation-tasks", 2, "--validations", 1, "--way", 3, "--query", 2]  # fmt: skip
    words.append("--quiet")
    for name, trials, more in (("one", 2, []), ("one", 3, []), ("two", 1, ["--earlier", "one"])):
        status, out, error = call(*words, *vary, "--out", tmp_path / name, "--trials", trials, *more)
        assert status == 0, error
        assert f"{trials} trials, 0 ended early" in out and "--lr" in out and "--width" in out
    assert len(list((tmp_path / "one").glob("trial-*/best.safetensors"))) == 3
    for wrong, message in (
        (["--out", tmp_path / "one", "--vary", "lr=0.1,0.2"], "another --out"),
        (["--out", tmp_path / "x", "--storage", tmp_path / "nowhere" / "s.db"], "cannot be opened"),
        (["--out", tmp_path / "x", "--storage", "nosuch://me:secret@x"], "nosuch://me:***@x cannot be reached"),
        (["--out", tmp_path / "x", "--vary", "net=conv4,foo"], "--net is 'foo': choose conv4"),
        (["--out", tmp_path / "y", "--train-on-validation"], "a search needs the score of validation tasks"),
    ):
        status, _, error = call(*words, *([] if "--vary" in wrong else vary), "--trials", 5, *wrong)
        assert status == 2 and message in error and "Traceback" not in error, error
    assert (tmp_path / "search.journal").is_file()


def test_without_optuna_the_command_is_one_line(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    draw_folder(tmp_path / "data", classes=12, size=12, examples=4)
    status, _, error = call("search", "protonet", "--vary", "width=2,4", "--data", tmp_path / "data", "--out",
                            tmp_path / "x", "--way", 3, "--query", 2, "--quiet")  # fmt: skip
    assert status == 2 and "pip install 'upstairs[search]'" in error and "Traceback" not in error
    assert not (tmp_path / "x").exists(), "nothing is left behind"
