"""Runs on several kinds of data, and the table of runs by kinds of data."""

import json
from pathlib import Path

import pytest

from helpers.runs import SMALL, Call, draw_folder


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    home = tmp_path_factory.mktemp("data")
    return draw_folder(home / "one", classes=15), draw_folder(home / "two", classes=20, seed=5)


def test_a_run_on_two_kinds_and_the_table(call: Call, kinds: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = kinds
    both = f"{one} + {two}"
    words = (*SMALL, "--steps", 12, "--quiet")
    for name, data in (("one", one), ("both", both)):
        status, _, err = call("train", "protonet", "--data", data, *words, "--out", tmp_path / name)
        assert status == 0, err
    assert (
        call("train", "protonet", "--data", both, "--mix", "3,1", *words, "--out", tmp_path / "both", "--resume")[0]
        == 2
    )
    table = ("breadth", tmp_path / "one", tmp_path / "both", "--data", one, two, "--way", 3, "--tasks", 30, "--quiet")
    status, out, err = call(*table, "--json", "--out", tmp_path / "breadth.png")
    assert status == 0, err
    result = json.loads(out)
    assert (tmp_path / "breadth.png").read_bytes().startswith(b"\x89PNG")
    assert [len(row["cells"]) for row in result["rows"]] == [2, 2, 2]
    for row in result["rows"]:
        scores = [cell["accuracy"] for cell in row["cells"]]
        assert row["worst"] == min(scores) and row["mean"] == pytest.approx(sum(scores) / 2)
    own = json.loads(call("evaluate", tmp_path / "one", "--way", 3, "--tasks", 30, "--no-baselines", "--json")[1])
    assert result["rows"][0]["cells"][0] == {"accuracy": own["accuracy"], "ci95": own["ci95"]}
    for words, message in (
        ((*table, "--out", tmp_path / "breadth.nonesuch"), "cannot be drawn"),
        (("evaluate", tmp_path / "both", "--split", "all"), "--split all is about one data set"),
    ):
        status, _, err = call(*words)
        assert status == 2 and message in err and err.count("\n") == 1, err
    plain = json.loads(call("evaluate", tmp_path / "one", "--way", 3, "--tasks", 30, "--json")[1])["baselines"]
    assert result["rows"][2]["cells"][0]["accuracy"] == plain["nearest_centroid"]["accuracy"]
    shown = call(*table)[1]
    assert "one + two" in shown and "worst" in shown
    mixture = json.loads(call("evaluate", tmp_path / "both", "--way", 3, "--tasks", 40, "--json")[1])
    assert mixture["data"] == both and {"nearest_centroid", "scratch"} == set(mixture["baselines"])


def test_texts_and_pictures_in_one_page(call: Call, kinds: tuple[Path, Path], tmp_path: Path) -> None:
    """A run has no score on inputs that it does not read."""
    table = tmp_path / "words.csv"
    stems = ("bar", "kon", "lim", "mut", "nor", "pas", "ruk", "sel", "tiv", "vad")
    table.write_text("\n".join(["text,label", *(f"{stem}{end} {stem},{stem}" for stem in stems for end in "xyz")]))
    words = (*SMALL, "--steps", 2, "--quiet")
    for name, data in (("pictures", kinds[0]), ("texts", table)):
        status, _, err = call("train", "protonet", "--data", data, *words, "--out", tmp_path / name)
        assert status == 0, err
    page, asked = tmp_path / "breadth.html", ("--way", 2, "--tasks", 20)
    both = ("breadth", tmp_path / "pictures", tmp_path / "texts")
    status, out, err = call(*both, "--data", kinds[0], table, *asked, "--json", "--out", page)
    assert status == 0, err
    cells = [[cell is not None for cell in row["cells"]] for row in json.loads(out)["rows"]]
    assert cells == [[True, False], [False, True], [True, True]]
    assert "Trained on rows, tested on columns, 2-way 1-shot" in page.read_text()
    assert "±" in page.read_text() and "words" in page.read_text()
    for data, message in ((table, "pictures reads the inputs of none"), (kinds[0], "texts reads the inputs of none")):
        status, _, err = call(*both, "--data", data, *asked)
        assert status == 2 and message in err and err.count("\n") == 1, err
    status, _, err = call("breadth", tmp_path / "pictures", "--data", table)
    assert status == 2 and "no run reads the inputs of" in err


def test_mistakes(call: Call, kinds: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = kinds
    train = ("train", "protonet", *SMALL, "--steps", 2, "--out", tmp_path / "out", "--quiet")
    cases = [
        ((*train, "--data", f"{one} + {two}", "--mix", "1"), "give one above 0 for each"),
        ((*train, "--data", f"{one} + {two}", "--mix", "a,b"), "--mix is 'a,b'"),
        ((*train, "--data", f"{one} + sinusoid"), "sinusoid"),
        ((*train, "--data", f"{one} + nowhere"), "nowhere does not exist"),
        ((*train, "--data", f"{one} + {two}", "--hard", "0.2"), "--hard draws"),
        ((*train, "--data", f"{one} + "), "on each side of '+'"),
        ((*train, "--data", one, "--mix", "2,1"), "there is one data set"),
        ((*train, "--data", one, "--columns", "a,b"), "has no table for --columns 'a,b'"),
        ((*train, "--data", one, "--encoder", "./mini"), "--encoder ./mini is a path that does not exist"),
        ((*train, "--data", one, "--net", "bag"), "--net bag reads texts"),
    ]
    for words, message in cases:
        status, _, err = call(*words)
        assert status == 2 and message in err and err.count("\n") == 1, f"{words}: {err}"
