"""Tables as people export them: encodings, delimiters, quotation marks, JSON, labels, repeated and cut texts."""

import csv
import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upstairs.data.open import open_splits
from upstairs.data.source import Source
from upstairs.data.tables import DELIMITERS, check_rows, decode, join_names, plain_labels, read_table, split_names
from upstairs.data.text.hashed import TextFormat, text_source
from upstairs.data.text.tables import from_dataset, is_text, open_texts, read_texts, text_splits, texts_of
from upstairs.errors import UpstairsError
from upstairs.settings import DataOptions
from upstairs.training.inputs import Inputs, read_support

ROWS = [(f"please help me, {word} {i}", word) for word in ("late", "refund", "close") for i in range(4)]


def table(path: Path, rows=ROWS, *, header=("text", "label"), code: str = "utf-8", mark: str = ",", end="\n") -> Path:
    quoted = [[str(v).replace('"', '""') for v in row] for row in ([header] if header else []) + list(rows)]
    text = end.join(mark.join(f'"{value}"' for value in row) for row in quoted) + end
    path.write_bytes(text.encode(code))
    return path


def pairs(path: Path, columns: str | None = None, **options) -> list[tuple[str, str]]:
    found = read_texts(path, columns, **options)
    return list(zip(found.texts, found.labels, strict=True))


FOREIGN = {
    "cp1252": "réclamation n°", "gb18030": "我要退款", "big5hkscs": "我要退款我的包裹在哪裡",
    "cp949": "내 소포는 어디에", "cp1256": "أين الطرد الخاص",
    "cp1251": "где моя посылка", "cp1253": "που είναι το δέμα", "cp1254": "kargom nerede ığdır şişe",
    "utf-16": "refund é", "utf-16-le": "refund é", "utf-16-be": "refund é", "utf-32": "refund é", "utf-8-sig": "é",
}  # fmt: skip


@pytest.mark.parametrize("code", FOREIGN)
def test_encodings(code: str, tmp_path: Path) -> None:
    rows = [(f"{FOREIGN[code]} {text}", label) for text, label in ROWS]
    path = table(tmp_path / "a.csv", rows, code=code)
    assert pairs(path) == rows
    said = open_texts(path).summary
    assert said == f"12 texts of 3 classes from a.csv{'' if code == 'utf-8-sig' else '; ' + code}"
    assert pairs(path, encoding=code) == rows


def test_an_encoding_that_nobody_can_tell(tmp_path: Path) -> None:
    """One word of Chinese again and again: refused rather than guessed. A few sentences of Japanese are enough."""
    for code, text in (("cp1256", "أين"), ("gbk", "你好")):
        path = table(tmp_path / "a.csv", [(f"{text} please help", str(i)) for i in range(5)], code=code)
        with pytest.raises(UpstairsError, match="is not UTF-8 in line 2: give its `encoding`"):
            read_texts(path)
    path = table(tmp_path / "a.csv", [("你好", str(i)) for i in range(5)], code="gbk")
    with pytest.raises(UpstairsError, match="is not UTF-8 in line 2: give its `encoding`, or save it as UTF-8"):
        read_texts(path)
    assert pairs(path, encoding="gbk")[0] == ("你好", "0")
    rows = [("荷物はどこですか", "a"), ("返金してください", "a"), ("カードを止めたい", "b"), ("住所を変更したい", "b")]
    assert pairs(table(tmp_path / "b.csv", rows, code="cp932")) == rows
    assert read_table(tmp_path / "b.csv").notes == ["cp932"]
    rows = [("un café", "a"), ("deux cafés", "b")]
    assert pairs(table(tmp_path / "c.csv", rows, code="cp1252")) == rows


def test_errors_of_support_sets_and_of_predictions_name_no_option_of_training(tmp_path: Path) -> None:
    """`adapt` and `predict` have no --encoding and no --skip-bad."""
    unclear = table(tmp_path / "a.csv", [("你好", str(i)) for i in range(5)], code="gbk")
    hole = table(tmp_path / "b.csv", [*ROWS, ("more", ""), ("", "late")])
    inputs = Inputs((7, 1), TextFormat(7))
    for path, call in (
        (unclear, lambda: read_support(unclear, inputs)), (unclear, lambda: texts_of(unclear)),
        (hole, lambda: read_support(hole, inputs)), (hole, lambda: texts_of(hole)),
    ):  # fmt: skip
        with pytest.raises(UpstairsError, match=f"{path}.* (save it as UTF-8|fix them)$"):
            call()


def test_an_encoding_that_is_given(tmp_path: Path) -> None:
    rows = [(f"źdźbło {text}", label) for text, label in ROWS]
    path = table(tmp_path / "a.csv", rows, code="cp1250")
    assert pairs(path, encoding="cp1250") == rows
    good, broken = table(tmp_path / "c.csv", [("é" * 9, "a")]), tmp_path / "b.csv"
    broken.write_bytes(good.read_bytes() + b"ok,\xff\n")
    cases = {
        (path, "ascii"): r"is not ascii \('ascii' codec can't decode byte 0x9f",
        (path, "latin"): "",
        (path, "cp9999"): "`encoding` is 'cp9999', which is none",
        (path, "base64"): "`encoding` is 'base64', which is none",
        (broken, None): "is UTF-8 but for 1 bytes, the first in line 3",
    }
    for (file, code), message in cases.items():
        if not message:
            assert pairs(file, encoding=code) != rows  # the user's word counts
            continue
        with pytest.raises(UpstairsError, match=message):
            read_texts(file, encoding=code)
    (tmp_path / "nul.csv").write_bytes(b"text,label\nhello,a\nhel\0lo,a\n")
    with pytest.raises(UpstairsError, match="a NUL in line 3"):
        read_texts(tmp_path / "nul.csv")


@pytest.mark.parametrize("mark", DELIMITERS)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.csv.gz"])
def test_delimiters(mark: str, name: str, tmp_path: Path) -> None:
    path = table(tmp_path / name, mark=mark, end="\r\n")
    if name.endswith("gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert is_text(path) and pairs(path) == ROWS
    usual = {"a.csv": ",", "a.csv.gz": ","}.get(name, "\t")
    assert read_table(path).notes == ([] if mark == usual else [f"separated by {DELIMITERS[mark]}"])


def test_the_first_line_of_excel(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", mark=";")
    path.write_text("sep=;\n" + path.read_text())
    assert pairs(path) == ROWS


@pytest.mark.parametrize("mark", ["\t", ",", ";"])
def test_lone_quotation_marks_swallow_no_rows(mark: str, tmp_path: Path) -> None:
    """Each a text that csv readers join with the next rows, or up to the end of the file."""
    plain = [(text.replace(",", ""), label) for text, label in ROWS]
    for places in ((2,), (2, 5), (2, 11), (0, 1, 7)):
        for form in ('"{}', '"{} said', '{} 5"', 'a "{}" b', '"{}"s'):
            rows = [(form.format(text) if i in places else text, label) for i, (text, label) in enumerate(plain)]
            path = tmp_path / "a.csv"
            path.write_text("\n".join(mark.join(row) for row in [("text", "label"), *rows]))
            assert pairs(path) == rows, (places, form)
    rows = [('"' + plain[0][0], "late"), (plain[1][0] + '"', "late"), *plain[2:]]  # the two make one field
    path.write_text("\n".join(mark.join(reversed(row)) for row in [("text", "label"), *rows]))
    if mark == "\t":
        assert pairs(path) == rows
    else:
        path.write_text("\n".join(mark.join(row) for row in [("text", "label"), *rows]))
        with pytest.raises(UpstairsError, match="row 1 has several lines between quotation marks, each of which could"):
            read_texts(path)


def test_lone_marks_beside_quoted_texts(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv")
    path.write_text(path.read_text() + '"lone,late\nhello,refund\n')
    assert pairs(path) == [*ROWS, ('"lone', "late"), ("hello", "refund")]
    path.write_text(path.read_text() + '"lone, with a comma,late\n')
    with pytest.raises(UpstairsError, match="row 15 has 3 fields and the header 2"):
        read_texts(path)
    long = [("one\n\ntwo, three\n", "a"), ('he said "hi"\n', "b"), ("x" * 200_000, "a")]
    limit = csv.field_size_limit()
    assert pairs(table(tmp_path / "b.csv", long)) == long and csv.field_size_limit() == limit


def test_blank_lines_and_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\n\ntext,label,\n\na,b,\n,,\n c , d ,\n\n")
    assert pairs(tmp_path / "a.csv") == [("a", "b"), (" c ", "d")]


JSONS = {
    "records": lambda rows: [{"text": t, "label": k} for t, k in rows],
    "pairs": lambda rows: [list(row) for row in rows],
    "parts": lambda rows: {"train": [list(row) for row in rows[:3]], "test": [list(row) for row in rows[3:]]},
    "parts of records": lambda rows: {"version": 1, "examples": [{"text": t, "label": k} for t, k in rows]},
    "columns": lambda rows: {"text": [t for t, _ in rows], "label": [k for _, k in rows]},
    "by label": lambda rows: {k: [t for t, own in rows if own == k] for k in dict.fromkeys(k for _, k in rows)},
    "pandas": lambda rows: {n: {str(i): row[k] for i, row in enumerate(rows)} for k, n in enumerate(("text", "label"))},
}


@pytest.mark.parametrize("form", JSONS)
def test_json(form: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(JSONS[form](ROWS), indent=1))
    assert pairs(tmp_path / "a.json") == ROWS
    assert texts_of(tmp_path / "a.json") == [text for text, _ in ROWS]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.ndjson"])
def test_json_lines(name: str, tmp_path: Path) -> None:
    rows = [("one\u2028line\x85", "a"), *ROWS]
    lines = [json.dumps({"text": t, "label": k}, ensure_ascii=False) for t, k in rows]
    (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    assert pairs(tmp_path / name) == rows
    bad = [*lines[:2], '{"text": "cut', "", "[1, 2]", *lines[2:], '"text"']
    (tmp_path / name).write_text("\n".join(bad), encoding="utf-8")
    message = "line 3 is no JSON object; line 5 is no JSON object; line 17 is no JSON object: fix them, or leave"
    with pytest.raises(UpstairsError, match=message):
        read_texts(tmp_path / name)
    assert pairs(tmp_path / name, skip_bad=True) == rows
    with pytest.raises(UpstairsError, match="line 3 is no JSON object"):
        check_rows(name, read_table(tmp_path / name).bad, skip=None)


def test_what_is_no_table(tmp_path: Path) -> None:
    cases = {
        "a.json": (b'{"a": {"b": [1]}}', "no column that is known"),
        "b.json": (b'{"text": ["a"], "label": []}', "is no list of"),
        "c.json": (b"[" * 100_000, "no whole JSON file"),
        "d.json": (b"3", "is no list of"),
        "a.xls": (b"x", "of a kind that is not read: save it as CSV"),
        "a.ods": (b"PK", "of a kind that is not read: save it as CSV"),
        "old.csv": (b"\xd0\xcf\x11\xe0\xa1", "of a kind that is not read: save it as CSV"),
        "a.xlsx": (b"PK\3\4", "(is no Excel workbook|needs openpyxl).*as CSV"),
        "book.csv": (b"PK\3\4", "(is no Excel workbook|needs openpyxl).*as CSV"),
        "a.parquet": (b"PAR1", "(is no whole Parquet file|needs pyarrow)"),
        "a.csv.gz": (b"\x1f\x8b\0", "cannot be read"),
        "empty.csv": (b"", "has no rows"),
    }
    for name, (data, message) in cases.items():
        (tmp_path / name).write_bytes(data)
        assert is_text(tmp_path / name)
        with pytest.raises(UpstairsError, match=message):
            read_texts(tmp_path / name)


def test_an_excel_workbook(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl (extra [tables]) is not installed")
    book = openpyxl.Workbook()
    for row in [(None, None), ("text", "label"), *ROWS, (None, None), ("more", 1), ("others", 1.0)]:
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    assert pairs(tmp_path / "a.xlsx") == [*ROWS, ("more", "1"), ("others", "1")]


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=80),
    start=st.sampled_from([b"", b"text,label\n", b'[{"text": ', b"\xff\xfe", b"PK", b"PAR1"]),
)
def test_any_bytes_are_read_or_refused(data: bytes, start: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    for name in ("a.csv", "a.txt", "a.json", "a.jsonl"):
        (folder / name).write_bytes(start + data)
        try:
            read_texts(folder / name)
        except UpstairsError as error:
            assert str(error)


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", header=("Cafe\u0301 Message", " Kind "))
    with pytest.raises(
        UpstairsError, match="it has 'Café Message', 'Kind'; name them as `columns` 'Café Message,Kind'"
    ):
        read_texts(path)
    for columns in ("Café Message,Kind", "cafe\u0301 message , KIND"):
        assert pairs(path, columns) == ROWS
    path = table(tmp_path / "b.csv", header=("What, then+", "of it"))
    with pytest.raises(UpstairsError) as caught:
        read_texts(path)
    advice = str(caught.value).split("`columns` '")[1].split("'")[0]
    assert pairs(path, advice) == ROWS  # what the error says can be pasted
    assert split_names(advice) == ["What, then+", "of it"] and join_names(["a", "b"]) == "a,b"
    with pytest.raises(UpstairsError, match="has no column 'other': it has 'What, then"):
        read_texts(path, "other,of it")
    path = table(tmp_path / "c.csv", header=(" Text", "LABEL"))
    assert pairs(path) == ROWS
    path = table(tmp_path / "d.csv", [(*ROWS[0], "g")], header=("text", "label", "Domain"))
    assert read_texts(path).groups == ["g"]


def test_the_advice_on_columns_is_the_likeliest(tmp_path: Path) -> None:
    cases = [
        (["msg", "cat"], [["where is it", "late"]], "msg,cat"),
        (["cat", "msg"], [["late", "where is my parcel"], ["refund", "money back please"]], "msg,cat"),
        (["id", "cat", "msg"], [[i, "ab"[i % 2], f"words {i}"] for i in range(9)], "msg,cat"),
        (["a"], [["x"]], "TEXT,LABEL"),
    ]
    for header, rows, advice in cases:
        with pytest.raises(UpstairsError, match=f"name them as `columns` {advice}$"):
            read_texts(table(tmp_path / "a.csv", rows, header=header))


def test_two_columns_of_text(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.csv", [("Parcel", "where, is it", "late"), ("", "money", "refund")], header=("t", "b", "k")
    )
    assert pairs(path, "t+b,k") == [("Parcel\nwhere, is it", "late"), ("\nmoney", "refund")]
    assert texts_of(path, "t+b,k") == texts_of(path, "t+b") == ["Parcel\nwhere, is it", "\nmoney"]


def test_no_header_row(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", [(label, text) for text, label in ROWS], header=None)
    with pytest.raises(UpstairsError, match="name them as `columns` 2,1, numbers where the first row is an example"):
        read_texts(path)
    assert pairs(path, "2,1") == ROWS and read_texts(path, "2,1").notes == ["no header row"]
    assert pairs(table(tmp_path / "b.csv"), "1,2") == ROWS  # a header of usual names is one
    one = table(tmp_path / "c.csv", [("where is it", "late"), ("money back", "refund")], header=None)
    assert pairs(one, "1,2") == [("where is it", "late"), ("money back", "refund")]


def test_labels_are_plain_values() -> None:
    given = [1, 1.0, "1", "1.0", 2.5, "2.50", True, "true", " a ", "a", "cafe\u0301", np.int64(3), "NONE", "NA"]
    said = ["1", "1", "1", "1", "2.5", "2.50", "true", "true", "a", "a", "café", "3", "NONE", "NA"]
    assert plain_labels(given) == said
    assert plain_labels([1.0, 2.0]) == ["1.0", "2.0"]
    none = [None, float("nan"), np.float32("nan"), "", "  ", "nan", "NaN", "null", "None", [], ["a"], {"a": 1}, b"a"]
    assert plain_labels(none) == [None] * len(none)
    assert plain_labels(["None", "nan", None, " ", np.nan], marks=False) == ["None", "nan", None, None, None]


def test_rows_without_a_label_are_named_together(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS]
    for i, label in enumerate(("NaN", "null", '["a"]', '""', '{"a": 1}', "NaN", "true")):
        lines[i] = f'{{"text": "some {i}", "label": {label}}}'
    lines[7] = '{"text": null, "label": "a"}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    message = (
        r"row 1 has no label \(nan\); row 2 has no label; row 3 has no label \(\['a'\]\); row 4 .*; and 2 more: fix"
    )
    with pytest.raises(UpstairsError, match=message):
        read_texts(tmp_path / "a.jsonl")
    found = read_texts(tmp_path / "a.jsonl", skip_bad=True)
    assert found.labels == ["true", *("close",) * 4] and "7 rows left out (row 1 has no label (nan)" in found.notes[0]


def test_labels_in_python() -> None:
    with pytest.raises(UpstairsError, match="1 of 2 labels are missing or no plain values, the first that of text 2"):
        text_source(["a", "b"], ["x", None])
    assert text_source(["a", "b", "c"], [1, 1.0, "2"]).labels == ("1", "2")
    for y in ([0.0, float("nan")], ["a", None], np.array([1, None], object)):
        with pytest.raises(UpstairsError, match="label 1 is missing"):
            Source.from_arrays(np.zeros((2, 3)), y)

    names = type("Names", (), {"int2str": lambda self, k: ("no", "yes")[k]})()
    Data = type("Data", (list,), {"features": {"label": names}})
    with pytest.raises(UpstairsError, match="row 3 has no label"):
        from_dataset(Data({"text": f"text {i}", "label": k} for i, k in enumerate((0, 1, -1, 0))))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("text,id", "12 texts have 12 different labels, such as '0', so most classes have one text"),
        ("label,text", "12 texts have 12 different labels, such as 'please help me, close 0'"),
        ("text,same", "each of the 12 texts has the label 'one'"),
        ("text,price", "the labels are 10 numbers, such as 0.5: .* or give `target` for regression"),
    ],
)
def test_labels_that_are_unlikely(columns: str, message: str, tmp_path: Path) -> None:
    rows = [(*row, i, "one", 0.5 + i // 2) for i, row in enumerate(ROWS)]
    if "price" in columns:
        rows = [
            (f"{text} {e}", *rest) for e in range(3) for i in range(10) for text, *rest in [(*rows[i][:4], 0.5 + i)]
        ]
    path = table(tmp_path / "a.csv", rows, header=("text", "label", "id", "same", "price"))
    with pytest.raises(UpstairsError, match=message):
        open_texts(path, columns=columns)


def test_repeated_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    again = [("PLEASE  help me, late 0", "late"), ROWS[0], ("please help me, late 1", "close")]
    path = table(tmp_path / "a.csv", [*ROWS, *again])
    source = open_texts(path)
    assert source.summary == (
        "13 texts of 3 classes from a.csv; 2 duplicate texts left out; 1 with several labels, such as "
        "'please help me, late 1': close, late"
    )
    assert [len(rows) for rows in source.rows] == [5, 4, 4] and list(source.texts[:12]) == [text for text, _ in ROWS]


def test_cut_texts_are_counted(tmp_path: Path) -> None:
    rows = [(f"word {'more ' * (300 if i < 3 else 70)} {text}", label) for i, (text, label) in enumerate(ROWS * 6)]
    rows = [(f"{text} {i}", label) for i, (text, label) in enumerate(rows)]
    source = open_texts(table(tmp_path / "a.csv", rows))
    assert source.feature_shape[0] == 78
    assert source.summary.endswith("; 3 of 72 texts are longer than 78 words and were cut: --words 308 reads more")
    assert open_texts(tmp_path / "a.csv", words=308).summary == "72 texts of 3 classes from a.csv"
    assert open_texts(tmp_path / "a.csv", words=5).feature_shape[0] == 5
    short = open_texts(table(tmp_path / "b.csv"))
    assert short.feature_shape[0] == 6 and short.summary == "12 texts of 3 classes from b.csv"


def test_labels_that_differ_in_capitals_alone(tmp_path: Path) -> None:
    source = open_texts(table(tmp_path / "a.csv", [*ROWS, ("a parcel", "Late"), ("my parcel", "Late ")]))
    assert len(source) == 4 and source.summary.endswith("; 'Late' and 'late' are two classes")


def test_texts_that_are_lists(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"text": ["a", "b"], "label": "x"}, {"text": 7, "label": "x"}]))
    with pytest.raises(UpstairsError, match="row 1, text, is empty or no text: fix"):
        read_texts(tmp_path / "a.json")
    assert pairs(tmp_path / "a.json", skip_bad=True) == [("7", "x")]


def test_folders_of_texts_in_other_encodings(tmp_path: Path) -> None:
    for i, (text, label) in enumerate(ROWS):
        (tmp_path / label).mkdir(exist_ok=True)
        (tmp_path / label / f"{i}.txt").write_bytes(f"réclamation n° {text}".encode("cp1252" if i else "utf-16"))
    source = open_texts(tmp_path)
    assert sorted(source.texts) == sorted(f"réclamation n° {text}" for text, _ in ROWS)
    assert source.summary.endswith("; cp1252, utf-16")
    (tmp_path / "late" / "x.txt").write_text(" ")
    with pytest.raises(UpstairsError, match=r"x\.txt is empty: fix them, or leave them out by `skip_bad`"):
        open_texts(tmp_path)
    assert decode(b"\xef\xbb\xbfa", "a") == ("a", "utf-8")


def parts(path: Path, **options) -> list[set[str]]:
    return [set(part.labels) for part in text_splits(path, **options)]


SHARDS = ("train-00000-of-00002.tsv", "train-00001-of-00002.tsv", "test-00000-of-00001.tsv")


@pytest.mark.parametrize("names", [("train.csv", "test.csv"), ("data_train.jsonl", "dev.jsonl", "test.jsonl"), SHARDS])
def test_a_folder_of_tables(names: tuple[str, ...], tmp_path: Path) -> None:
    kinds = [f"kind {k}" for k in range(10)]
    own = {name: kinds[0:6] if "train" in name else kinds[6:8] if "dev" in name else kinds[8:] for name in names}
    for place, (name, labels) in enumerate(own.items()):
        rows = [(f"words {i} {place} of {label}", label) for label in labels for i in range(4)]
        if name.endswith("jsonl"):
            (tmp_path / name).write_text("\n".join(json.dumps({"text": t, "label": k}) for t, k in rows))
        else:
            table(tmp_path / name, rows, mark="\t" if name.endswith("tsv") else ",")
    (tmp_path / "README.md").write_text("about")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    assert is_text(tmp_path)
    found = parts(tmp_path)
    assert found[2] == set(kinds[8:])
    assert found[0] | found[1] == set(kinds[:8] if "dev.jsonl" in names else kinds[:6])
    assert "dev.jsonl" not in names or found[1] == set(kinds[6:8])
    assert f"words 0 {len(names) - 1} of kind 9" in text_splits(tmp_path).test.texts
    with pytest.raises(UpstairsError, match=f"{names[0]}: row 1, text, is empty or no text"):
        if names[0].endswith("jsonl"):
            (tmp_path / names[0]).write_text('{"text": "", "label": "a"}')
        else:
            table(tmp_path / names[0], [("", "a")], mark="\t" if names[0].endswith("tsv") else ",")
        read_texts(tmp_path)


def in_columns(rows: list[dict[str, str]]) -> dict[str, list[str]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize("form", [lambda rows: rows, lambda rows: [[*row.values()] for row in rows], in_columns])
def test_a_split_inside_a_json_file(form: Callable[..., object], tmp_path: Path) -> None:
    own = {"train": range(6), "validation": range(6, 8), "test": range(8, 10)}
    rows = {part: [{"text": f"words {i} of {k}", "label": f"kind {k}"} for k in kinds for i in range(4)]
            for part, kinds in own.items()}  # fmt: skip
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"version": 1, **{part: form(some) for part, some in rows.items()}}))
    assert parts(file) == [{f"kind {k}" for k in kinds} for kinds in own.values()]
    assert parts(file, split="ratio") != parts(file)
    with pytest.raises(UpstairsError, match="is divided into train and test: give the part"):
        read_support(file, Inputs((4, 4), TextFormat(4)))
    same = {part: form([*rows["train"], {"text": f"one more {part}", "label": "kind 0"}]) for part in own}
    file.write_text(json.dumps(same))
    assert "train and test hold the same classes" in open_texts(file).summary
    file.write_text(json.dumps({"train": ["a train", "the train is late"], "test": ["a test", "no test today"]}))
    assert read_texts(file).labels == ["train", "train", "test", "test"]  # names of labels, not of parts


@pytest.mark.parametrize(
    ("column", "words"), [("split", ("train", "validation", "test")), ("Subset", ("TRAIN", "dev", "test set"))]
)
def test_a_column_splits_the_classes_of_a_table(column: str, words: tuple[str, ...], tmp_path: Path) -> None:
    def written(part_of: Callable[[int, int], str], header: tuple[str, ...] = ("text", "label", column)) -> Path:
        rows = [(f"words {i} of {k}", f"kind {k}", part_of(k, i)) for k in range(10) for i in range(4)]
        return table(tmp_path / "a.csv", rows, header=header)

    def own(k: int, _: int) -> str:
        return words[(k >= 6) + (k >= 8)]

    file = written(own)
    assert parts(file) == [{f"kind {k}" for k in kinds} for kinds in (range(6), range(6, 8), range(8, 10))]
    assert parts(file, split="ratio") != parts(file)
    with pytest.raises(UpstairsError, match="is divided into train and test: give the part"):
        read_support(file, Inputs((4, 4), TextFormat(4)))
    assert "1 class of no part of the split left out: kind 3" in (
        text_splits(written(lambda k, i: own(k, i) if k != 3 else "")).test.summary
    )
    source = open_texts(written(lambda k, i: words[2 * (i > 2)]))
    assert "train and test hold the same classes" in source.summary and len(source) == 10
    with pytest.raises(UpstairsError, match=r"`columns` says,kind$"):
        open_texts(written(own, ("says", "kind", column)))


def test_the_name_of_a_table_outranks_its_column_of_parts(tmp_path: Path) -> None:
    for part, kinds in (("train", range(7)), ("test", range(7, 10))):
        lines = [f"words {i} of {k},kind {k},{'test' if k == 1 else 'train'}" for k in kinds for i in range(4)]
        (tmp_path / f"{part}.csv").write_text("\n".join(["text,label,split", *lines]))
    assert parts(tmp_path)[2] == {"kind 7", "kind 8", "kind 9"}


def test_a_pattern_of_names_is_refused_beside_labels_in_a_file(tmp_path: Path) -> None:
    file = table(tmp_path / "a.csv")
    for open_it in (lambda: open_texts(file, pattern="{label}_{n}"), lambda: read_texts(file, pattern="{label}"),
                    lambda: open_texts("languages", pattern="{label}"),
                    lambda: open_splits(DataOptions(data=str(file), pattern="{label}"), quiet=True)):  # fmt: skip
        with pytest.raises(UpstairsError, match=r"`pattern` is '\{label\}.* holds the labels itself: leave it out"):
            open_it()


def test_tables_of_the_same_classes_are_joined(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv"):
        table(tmp_path / name, [(f"{text} of {name}", f"{label} {k}") for text, label in ROWS for k in range(2)])
    splits = text_splits(tmp_path)
    assert sum(map(len, splits)) == 6 and all(len(rows) == 8 for part in splits for rows in part.rows)
    assert "train and test hold the same classes: their files were joined" in splits.train.summary
    table(tmp_path / "other.csv")
    assert sum(map(len, text_splits(tmp_path))) == 6, "other.csv is no part"
    (tmp_path / "train.csv").unlink()
    assert not is_text(tmp_path), "which of two tables?"
    (tmp_path / "test.csv").unlink()
    assert pairs(tmp_path) == ROWS


def notes(path: Path, labels: list[str], count: int = 4) -> Path:
    for label in labels:
        (path / label).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (path / label / f"{i}.txt").write_text(f"{path.name} says {label} {i}")
    return path


def test_folders_and_zips_of_text_files(tmp_path: Path) -> None:
    kinds = [f"kind {k}" for k in range(10)]
    notes(tmp_path / "a" / "train", kinds[:7]), notes(tmp_path / "a" / "test", kinds[7:])
    (tmp_path / "a" / "README.txt").write_text("about")
    (tmp_path / "a" / "train" / kinds[0] / "Thumbs.db").write_bytes(b"\0")
    assert is_text(tmp_path / "a") and parts(tmp_path / "a")[2] == set(kinds[7:])
    notes(tmp_path / "b" / "train", kinds), notes(tmp_path / "b" / "test", kinds)
    splits = text_splits(tmp_path / "b")
    assert sum(map(len, splits)) == 10 and all(len(rows) == 8 for part in splits for rows in part.rows)
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as file:
        for path in sorted((tmp_path / "a").rglob("*.txt")):
            file.write(path, f"wrapper/{path.relative_to(tmp_path / 'a')}")
        file.writestr("__MACOSX/wrapper/._0.txt", b"\0")
    assert is_text(tmp_path / "c.zip") and parts(tmp_path / "c.zip") == parts(tmp_path / "a")
    for number, label in enumerate(kinds * 3):
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / f"{label.replace(' ', '')}_{number}.txt").write_text(f"this is {label} {number}")
    assert is_text(tmp_path / "flat")
    with pytest.raises(UpstairsError, match=r"write `pattern` '\{label\}_\{n\}'"):
        text_splits(tmp_path / "flat")
    assert len(open_texts(tmp_path / "flat", pattern="{label}_{n}")) == 10
    (tmp_path / "a" / "train" / kinds[0] / "photo.jpg").write_bytes(b"")
    assert not is_text(tmp_path / "a"), "texts may be notes on pictures"
