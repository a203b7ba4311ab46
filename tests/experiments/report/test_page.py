import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from upstairs.errors import UpstairsError
from upstairs.experiments.report.figures import CSS
from upstairs.experiments.report.page import render, write_report

SECTIONS = {
    "results": "results",
    "differences": "differences",
    "runs": "training",
    "episode": "episode",
    "depth_shots": "depth",
    "depth_steps": "depth",
    "breadth": "breadth",
}


def find_ids(page: str) -> list[str]:
    """In tags only: a label may well hold id="..." as text."""
    return re.findall(r'<[a-z][^>]* id="([^"]+)"', page)


def read_text(page: str) -> str:
    """What is read on the page, on one line."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", page))


def keep_one(report: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The report with a single result, changed."""
    return report | {"results": [report["results"][0] | changes]}


def test_the_whole_page_stands_alone(whole_page: str) -> None:
    page = whole_page
    ids = find_ids(page)
    assert {"main", "episode", "results", "differences", "training", "depth", "breadth", "made", "words"} <= set(ids)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", page)) <= {(i, "") for i in ids} | {
        ("", i) for i in ids
    }
    assert "<script" not in page
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert len(page.encode()) < 1_500_000


def test_figures_take_their_colours_from_the_page(whole_page: str) -> None:
    figures = re.findall(r'<svg class="figure".*?</svg>', whole_page, flags=re.DOTALL)
    assert len(figures) == 7
    for figure in figures:
        assert not [colour for colour in CSS if colour in figure]
        assert set(re.findall(r"#[0-9a-f]{6}", figure)) == set()
        assert "var(--series-" in figure and "currentColor" in figure
        assert "width=" not in figure.partition(">")[0] and "<style" not in figure


def test_the_same_report_gives_the_same_page(report: dict[str, Any], whole_page: str) -> None:
    assert render(report) == whole_page


@pytest.mark.parametrize("key", [*SECTIONS, "created", "seconds", "machine", "data", "split"])
def test_a_missing_part_is_left_out(report: dict[str, Any], plain_report: dict[str, Any], key: str) -> None:
    report = report if key in SECTIONS else plain_report
    del report[key]
    page = render(report)
    expected = {section for part, section in SECTIONS.items() if part in report} | {"made", "words"}
    assert expected == {i for i in find_ids(page) if i != "main" and "-" not in i}


@pytest.mark.parametrize("key", SECTIONS)
def test_a_part_alone_has_its_section_alone(report: dict[str, Any], key: str) -> None:
    for part in SECTIONS:
        if part != key:
            report[part] = type(report[part])()  # empty is as good as missing
    page = render(report)
    assert {SECTIONS[key], "made", "words"} == {i for i in find_ids(page) if i != "main" and "-" not in i}


def test_the_least_report_has_a_page() -> None:
    page = render({"title": "Nothing yet", "command": "upstairs report", "versions": {}})
    assert "<h1>Nothing yet</h1>" in page
    assert "upstairs report" in read_text(page)
    assert "%" not in read_text(page.partition("<h1>")[2].partition("</header>")[0])


@pytest.mark.parametrize("key", ["title", "command", "versions"])
def test_a_report_without_its_head_is_refused(plain_report: dict[str, Any], key: str) -> None:
    del plain_report[key]
    with pytest.raises(UpstairsError, match=key):
        render(plain_report)


def test_a_result_without_its_way_is_refused(plain_report: dict[str, Any]) -> None:
    with pytest.raises(UpstairsError, match="'way'"):
        render(keep_one(plain_report, way=None))


def test_what_a_user_wrote_is_escaped(report: dict[str, Any]) -> None:
    bad = '<script>alert("1")</script>'
    report["title"] = report["command"] = report["machine"] = report["data"] = bad
    report["versions"] = {bad: bad}
    report["episode"]["classes"][0] = report["episode"]["learner"] = bad
    report["results"][0]["learner"] = report["runs"][0]["learner"] = bad
    report["runs"][0]["settings"] = {bad: bad}
    report["results"][0]["baselines"][bad] = {"accuracy": 0.5}
    report["differences"][0]["pairs"][0]["first"] = bad
    for part in ("depth_steps", "depth_shots", "breadth"):
        report[part][0]["learner"] = bad
    report["breadth"][0]["points"][0]["group"] = 'id="x" url(#y) $a_{b}$ and more'
    report["breadth"][0]["points"][1]["group"] = "#010203 $a_1$"
    page = render(report)
    assert "<script" not in page
    assert "&lt;script&gt;alert" in page
    # nothing in a label is taken for a tag
    assert '>id="x" url(#y) $a_{b}…<' in page and ">#010203 $a_1$</text>" in page
    assert len(find_ids(page)) == len(set(find_ids(page)))


def test_labels_of_any_script_give_no_warning(report: dict[str, Any]) -> None:
    report["breadth"][0]["points"][0]["group"] = "ខ្មែរ 漢字"
    report["depth_shots"][0]["learner"] = "_ខ្មែរ"
    assert "ខ្មែរ 漢字" in render(report)


def test_the_headline_has_the_numbers(plain_report: dict[str, Any]) -> None:
    plain_report["trained_on"] = "91 scripts"
    text = read_text(render(plain_report))
    assert (
        "After meta-training on 91 scripts, protonet reads characters of scripts it has never seen from ONE example "
        "each: 96.8% ± 0.3 right when choosing among 5; without meta-learning, at best 43.6% ± 0.5 (nearest centroid)."
    ) in text
    assert "protonet is 53.2 points above nearest centroid among 5 classes" in text
    assert "Every learner beats every baseline" in text


def test_it_says_so_where_a_learner_is_below_its_baseline(plain_report: dict[str, Any]) -> None:
    text = read_text(render(keep_one(plain_report, accuracy=0.40)))
    assert "protonet is worse than its baseline nearest centroid: 40.0% ± 0.3 to 43.6% ± 0.5 at 5-way 1-shot" in text
    assert "40.0% ± 0.3 right when choosing among 5, which is worse than 43.6% ± 0.5 by nearest centroid" in text
    assert "3.6 points below nearest centroid" in text
    assert "Every learner beats" not in text


def test_a_lead_within_the_intervals_is_no_win(plain_report: dict[str, Any]) -> None:
    text = read_text(render(keep_one(plain_report, accuracy=0.438)))
    assert "protonet does not clearly beat its baseline nearest centroid" in text
    assert "not clearly better than 43.6%" in text


def test_results_on_training_classes_are_not_called_new(plain_report: dict[str, Any]) -> None:
    text = read_text(render(keep_one(plain_report, split="train")))
    assert "it was trained on from ONE example" in text and "never seen" not in text
    assert "the classes of meta-training itself" in text and "held out" not in text


def test_a_learner_that_sees_all_queries_is_marked_and_not_the_best(plain_report: dict[str, Any]) -> None:
    plain_report["results"][0] |= {"transductive": True, "inductive": {"accuracy": 0.93, "ci95": 0.004}}
    page = render(plain_report)
    rows = dict(re.findall(r'<tr><th scope="row">([^<]*)</th><td>(.*?)</td>', page.partition("<details")[0]))
    assert rows["protonet †"] == "96.8%\u00a0±\u00a00.3"
    assert rows["protonet, one query at a time"] == "93.0%\u00a0±\u00a00.4"
    assert rows["fomaml"] == "<strong>94.1%\u00a0±\u00a00.3</strong>"
    assert "fomaml reads characters" in read_text(page)


@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf")])
def test_numbers_that_are_none(report: dict[str, Any], nothing: float | None) -> None:
    report["results"][0]["ci95"] = report["results"][3]["accuracy"] = nothing
    report["results"][4]["baselines"]["scratch"]["accuracy"] = nothing
    report["runs"][0]["history"][3]["accuracy"] = report["runs"][1]["history"][3]["ci95"] = nothing
    report["breadth"][0]["points"][2] |= {"accuracy": nothing}
    report["depth_steps"][0]["points"] = [{"steps": 1, "accuracy": nothing, "ci95": nothing}]
    report["depth_shots"][0]["points"][0]["ci95"] = nothing
    report["differences"][0]["pairs"][1]["difference"] = report["differences"][0]["pairs"][2]["ci95"] = nothing
    text = read_text(render(report))
    assert "maml has no accuracy, its run gave no finite number: at 5-way 1-shot." in text
    assert "96.8% right when choosing among 5" in text
    assert not re.search(r"\b(nan|inf|None)\b", text)


def test_sentences_about_figures(whole_page: str) -> None:
    text = read_text(whole_page)
    assert (
        "named 72 of 75 new ones correctly; its commonest mistake: “Bengali ka” taken for “Devanagari ga” twice" in text
    )
    assert "Five examples of each class instead of one lift protonet from 96.8% to 99.1% ± 0.4" in text
    assert "50 adaptation steps instead of 0 lift maml from 20.1% to 95.1% ± 0.4" in text
    assert "Hardest of 12 scripts for protonet: Devanagari, 86.8% ± 0.8" in text
    assert "protonet is best on validation tasks after 10 min 40 s" in text


def test_differences_are_the_best_learners_and_all_pairs_are_in_the_table(report: dict[str, Any]) -> None:
    page = render(report)
    text = read_text(page)
    assert "On the same tasks, protonet beats maml and scratch and is not clearly apart from fomaml." in text
    assert "Of 4 intervals, 0.2 would miss by chance." in text
    rows = re.findall(r'<tr><th scope="row">([^<]* − [^<]*)</th><td>(.*?)</td><td>(.*?)</td>', page)
    assert ("maml − fomaml", "+1.0\u00a0±\u00a00.3", "yes") in rows and len(rows) == 4
    assert ("protonet − fomaml", "+2.7\u00a0±\u00a02.8", "no") in rows
    report["differences"][0]["pairs"] = [
        {"first": "scratch", "second": "maml", "difference": 0.1, "ci95": 0.01, "clear": True}
    ]
    assert "On the same tasks, maml is beaten by scratch." in read_text(render(report))


def test_sentences_when_more_does_not_help(report: dict[str, Any]) -> None:
    report["depth_shots"] = [
        {
            "learner": "protonet",
            "way": 5,
            "points": [{"shot": 1, "accuracy": 0.9, "ci95": 0.01}, {"shot": 5, "accuracy": 0.8}],
        }
    ]
    report["depth_steps"][0]["points"] = [
        {"steps": k, "accuracy": accuracy, "ci95": 0.01} for k, accuracy in ((0, 0.6), (3, 0.8), (9, 0.601))
    ]
    text = read_text(render(report))
    assert "Five examples of each class instead of one lower protonet from 90.0% to 80.0%" in text
    assert "leave maml about where it was (60.0%, now 60.1% ± 1.0); its best is 80.0% ± 1.0 after 3" in text


def test_an_episode_of_no_pictures_is_left_out(plain_report: dict[str, Any]) -> None:
    for item in plain_report["episode"]["support"] + plain_report["episode"]["query"]:
        item["image"] = np.zeros(12, dtype=np.uint8)
    assert "episode" not in find_ids(render(plain_report))


def test_right_and_wrong_are_told_in_words_and_signs(whole_page: str) -> None:
    page = whole_page
    assert page.count('<span class="tile wrong"') == 3 and page.count('<span class="tile right"') == 72
    assert 'alt="wrong: Bengali ka taken for Devanagari ga, 89% sure"' in page
    assert page.count('aria-hidden="true">✗<') == 3


def test_write_report_makes_folders_and_replaces(plain_report: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    assert write_report({"title": "Old", "command": "", "versions": {}}, path) == path
    assert write_report(plain_report, path) == path
    assert path.read_text(encoding="utf-8") == render(plain_report)
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_page(
    plain_report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(source: Path, target: Path) -> None:
        assert Path(source).read_text(encoding="utf-8").endswith("</html>")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(UpstairsError, match=r"report\.html.*No space left"):
        write_report(plain_report, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_no_file(plain_report: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UpstairsError, match="choose another path"):
        write_report(plain_report, tmp_path)


def test_texts_are_shown_as_they_are(plain_report: dict[str, Any]) -> None:
    """Escaped, cut where they are long, and marked right or wrong as pictures are."""
    episode = {
        "learner": "protonet", "way": 2, "shot": 1, "classes": ["pay", "play"], "accuracy": 0.5,
        "support": [{"text": "pay <b>my</b> bill", "label": 0}, {"text": "a song", "label": 1}],
        "query": [
            {"text": "שלום 🎉", "label": 0, "predicted": 0, "probability": 0.9},
            {"text": "word " * 60, "label": 1, "predicted": 0, "probability": 0.6},
        ],
    }  # fmt: skip
    page = render(plain_report | {"episode": episode})
    shown = re.findall(r'<span class="words">([^<]*)</span>', page)
    assert shown[:3] == ["pay &lt;b&gt;my&lt;/b&gt; bill", "a song", "שלום 🎉"]
    assert shown[3].endswith("word …") and len(shown[3]) <= 90 and len(shown) == 4
    tiles = re.findall(r'class="tile (right|wrong)"', page)
    assert tiles == ["right", "wrong"] and "taken for pay" in page
