"""Texts: words, hashed tokens, and the tables and folders that they come in."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upstairs.data.text.hashed import BUCKETS, TOKENS, TextFormat, as_text, text_source, words_of
from upstairs.data.text.tables import from_dataset, is_text, open_texts, read_texts, text_splits, texts_of
from upstairs.errors import UpstairsError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What's my BALANCE?", ["what's", "my", "balance", "?"]),
        ("ｆｕｌｌ ﬁnd", ["full", "find"]),
        ("你好，世界 hello", ["你", "好", ",", "世", "界", "hello"]),
        ("שלום مرحبا नमस्ते", ["שלום", "مرحبا", "नमस्ते"]),
        ("party 🎉👨‍👩‍👧!", ["party", "🎉", "👨", "👩", "👧", "!"]),
        ("a\u0000b\u200e c", ["a", "b", "c"]),
        ("internationalization", ["internationa", "lization"]),
        (" \n\t", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_tokens_by_hand() -> None:
    row = TextFormat(3).read("my cat")
    hashed = [1 + zlib.crc32(t.encode()) % (BUCKETS - 1) for t in ("wcat", "bmy cat")]
    grams = ["<c", "ca", "at", "t>", "<ca", "cat", "at>", "<cat", "cat>"]
    hashed += [1 + zlib.crc32(f"c{g}".encode()) % (BUCKETS - 1) for g in grams]
    assert row.shape == (3, TOKENS) and row.dtype == np.uint16
    assert row[1, : len(hashed)].tolist() == hashed and not row[1, len(hashed) :].any() and not row[2].any()
    assert TextFormat(1).read("my cat")[0].tolist() == row[0].tolist(), "a longer text is cut off"


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_as_empty(text: str) -> None:
    if words_of(text):
        row = TextFormat(8).read(text)
        assert (row > 0).any(1).sum() == min(8, len(words_of(text)))
    else:
        with pytest.raises(UpstairsError, match="is empty"):
            TextFormat(8).read(text)


def test_bytes_and_files(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_bytes("\ufeffcafé".encode())
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    assert as_text(tmp_path / "good.txt") == "café" and as_text(b"caf\xc3\xa9") == "café"
    cases = [
        (tmp_path / "bad.txt", "not UTF-8 at byte 3"), (tmp_path / "none.txt", "cannot be read"), (b"", "is empty"),
        (7, "is a int"), ("...".replace(".", " "), "is empty"),
    ]  # fmt: skip
    for item, message in cases:
        with pytest.raises(UpstairsError, match=message):
            as_text(item)


ROWS = [("pay my bill", "bills"), ("due bill, please", "bills"), ("play jazz", "music"), ("a song\nnow", "music")]


def write(path: Path, header: tuple[str, ...] = ("utterance", "intent")) -> Path:
    if path.suffix == ".jsonl":
        path.write_text(
            "\n".join(json.dumps(dict(zip(header, row, strict=True))) for row in ROWS) + "\n\n", encoding="utf-8"
        )
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        quoted = [mark.join(f'"{value}"' for value in row) for row in [header, *ROWS]]
        path.write_text("\n".join(quoted), encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_tables(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"mine.{kind}")
    assert is_text(path)
    found = read_texts(path)
    assert list(zip(found.texts, found.labels, strict=True)) == ROWS and found.groups is None
    assert texts_of(path) == [text for text, _ in ROWS]
    source = open_texts(path)
    assert source.labels == ("bills", "music") and source.feature_shape == (4, TOKENS) and source.name == "mine"
    assert source.inputs[source.rows[1][0]].tolist() == TextFormat(4).read("play jazz").tolist()
    swapped = write(tmp_path / f"other.{kind}", ("a", "b"))
    with pytest.raises(UpstairsError, match="it has 'a', 'b'; name them as `columns` a,b"):
        read_texts(swapped)
    assert read_texts(swapped, "a, b").labels == found.labels
    for columns, message in (("a", "give two"), ("a,c", "no column 'c'")):
        with pytest.raises(UpstairsError, match=message):
            read_texts(swapped, columns)


def test_a_row_with_a_field_too_many(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nhello,a,\nhello, you,a\nthere,b\n")
    with pytest.raises(UpstairsError, match="row 2 has 3 fields and the header 2: fix them, or leave them out by"):
        read_texts(tmp_path / "a.csv")
    found = read_texts(tmp_path / "a.csv", skip_bad=True)
    assert found.labels == ["a", "b"] and found.notes == ["1 row left out (row 2 has 3 fields and the header 2)"]


def test_too_few_classes_to_split(tmp_path: Path) -> None:
    with pytest.raises(UpstairsError, match="mine has 2 classes, of which 1 would be for train"):
        text_splits(write(tmp_path / "mine.csv"))


def test_a_parquet_file(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow (extra [hub]) is not installed")
    from pyarrow import parquet

    parquet.write_table(
        arrow.table({"text": [t for t, _ in ROWS], "label": [k for _, k in ROWS]}), tmp_path / "a.parquet"
    )
    assert read_texts(tmp_path / "a.parquet").labels == [label for _, label in ROWS]


def test_what_is_wrong_in_a_table_is_named(tmp_path: Path) -> None:
    cases = {
        "empty.csv": ("text,label\n", "has no rows"),
        "hole.csv": ("text,label\nhello,a\n ,b\n", "row 2, text, is empty"),
        "unlabelled.csv": ("text,label\nhello,a\nthere,\n", "row 2 has no label"),
        "broken.jsonl": ('{"text": "hello", "label": "a"}\n{"text": "cut', "line 2 is no JSON object"),
        "broken.json": ("[[1, 2", "no whole JSON file"),
        "shape.json": ('{"train": [["a"]]}', "no list of"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(UpstairsError, match=message):
            read_texts(tmp_path / name)


def test_a_folder_of_text_files(tmp_path: Path) -> None:
    for i, (text, label) in enumerate(ROWS):
        (tmp_path / label).mkdir(exist_ok=True)
        (tmp_path / label / f"{i}.txt").write_text(text)
    (tmp_path / "music" / ".hidden.txt").write_text("no")
    assert is_text(tmp_path) and not is_text(tmp_path / "music")
    (tmp_path / "bills" / "photo.PNG").write_bytes(b"")
    assert not is_text(tmp_path), "pictures with a note beside them"
    (tmp_path / "bills" / "photo.PNG").unlink()
    assert sorted(zip(*read_texts(tmp_path)[:2], strict=True)) == sorted(ROWS)


def test_clinc_by_domain_and_by_lists(tmp_path: Path) -> None:
    intents = [f"intent{i}" for i in range(12)]
    pairs = [[f"say {intent} {e}", intent] for intent in intents for e in range(2)]
    value = {"train": pairs[::2], "test": pairs[1::2], "oos_test": [["what is love", "oos"]]}
    (tmp_path / "data_full.json").write_text(json.dumps(value))
    (tmp_path / "domains.json").write_text(json.dumps({f"d{k}": intents[3 * k : 3 * k + 3] for k in range(4)}))
    splits = text_splits(tmp_path)
    found = [set(part.groups) for part in splits]
    assert set.union(*found) == {"d0", "d1", "d2", "d3"} and not found[0] & found[2] and len(splits.train.rows[0]) == 2
    lists = tmp_path / "splits" / "01"
    lists.mkdir(parents=True)
    for part, names in zip(("train", "valid", "test"), (intents[:6], intents[6:8], intents[8:]), strict=True):
        (lists / f"labels.{part}.txt").write_text("\n".join(names))
    assert set(text_splits(tmp_path, split="01").test.labels) == set(intents[8:])
    with pytest.raises(UpstairsError, match="`split` is '09'"):
        text_splits(tmp_path, split="09")


def test_the_real_clinc(data_dir: Path) -> None:
    splits = text_splits(data_dir / "clinc150")
    assert sum(map(len, splits)) == 150 and all(len(rows) == 150 for part in splits for rows in part.rows)
    assert len({group for part in splits for group in part.groups}) == 10


def test_rows_of_a_data_set() -> None:
    class Names:
        def int2str(self, k: int) -> str:
            return ("no", "yes")[k]

    class Data(list):
        def __init__(self, rows) -> None:
            super().__init__(rows)
            self.features = {"label": Names()}

    source = from_dataset(Data({"sentence": f"text {i}", "label": i % 2} for i in range(6)))
    assert source.labels == ("no", "yes") and [len(rows) for rows in source.rows] == [3, 3]
    with pytest.raises(UpstairsError, match="no column 'mood'"):
        from_dataset(Data([{"sentence": "a", "label": 0}]), label="mood")


def test_labels_that_do_not_fit() -> None:
    with pytest.raises(UpstairsError, match="2 texts and 1 labels"):
        text_source(["a", "b"], ["x"])
    with pytest.raises(UpstairsError, match="text 2 of mine is empty"):
        text_source(["a", " "], ["x", "y"], name="mine")


def test_languages() -> None:
    pytest.importorskip("babel", reason="Babel (extra [text]) is not installed")
    from upstairs.data.text.languages import language_source

    source = language_source()
    assert len(source) > 100 and {"German", "Swahili", "Vietnamese"} <= set(source.labels)
    assert min(map(len, source.rows)) >= 60 and len(source.inputs) > 50_000
