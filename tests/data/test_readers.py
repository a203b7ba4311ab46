"""The table of readers: each kind of data has one, and a checkpoint finds its format by the kind that it names."""

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.runs import draw_folder, mini_folder
from helpers.sounds import folder as sound_folder
from upstairs.data import BUILT_IN, KINDS
from upstairs.data.audio.format import AudioFormat
from upstairs.data.images.format import ImageFormat
from upstairs.data.open import absolute
from upstairs.data.readers import FORMATS, READERS, read_format, reader_for, reader_of
from upstairs.data.regression.functions import FUNCTIONS
from upstairs.data.text.embeddings import FrozenFormat
from upstairs.data.text.hashed import TextFormat
from upstairs.data.text.tokens import PieceFormat
from upstairs.errors import UpstairsError
from upstairs.storage import load_tensors, save_tensors
from upstairs.training.inputs import Inputs, read_support
from upstairs.training.model import load_adapted

EACH = (ImageFormat(32, 3, False), AudioFormat(0.5, 32), TextFormat(7), FrozenFormat("m", 12), PieceFormat("m", 9))


def test_every_kind_has_one_reader() -> None:
    assert sorted(kind for reader in READERS for kind in reader.kinds) == sorted(KINDS)
    assert {*FUNCTIONS, "glyphs", "languages"} == set(BUILT_IN) <= set(KINDS)
    for name in BUILT_IN:
        assert name in reader_for(name).kinds and absolute(name) == name


def test_data_finds_its_reader(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("text,label\nhello,a\nbye,b\n")
    sounds, pictures = sound_folder(tmp_path / "sounds"), draw_folder(tmp_path / "pictures", classes=2)
    found = [reader_for(str(path)).name for path in (tmp_path / "table.csv", sounds, pictures, tmp_path / "none")]
    assert found == ["texts", "sounds", "pictures", "pictures"]
    assert reader_for(f"{pictures} + languages").name == "pictures"


@pytest.mark.parametrize("format", EACH, ids=lambda format: format.kind)
def test_a_format_is_saved_and_read(format: object) -> None:
    value = format.to_json()
    assert value["kind"] in FORMATS and read_format(value) == format
    assert format in (read_format({**value, "reading": 1}), read_format(value)) and reader_of(format).formats
    assert Inputs.from_json({"shape": [3], "format_of_inputs": value}).format == format


def test_formats_of_older_files() -> None:
    assert read_format({"kind": "frozen", "model": "m", "size": 12}) == FrozenFormat("m", 12, rows=1)
    assert Inputs.from_json({"shape": [3], "format_of_inputs": None}).format is None
    with pytest.raises(UpstairsError, match="of the kind 'film' and this version reads"):
        read_format({"kind": "film"})
    with pytest.raises(UpstairsError, match="needs kind 'text' and words"):
        read_format({"kind": "text"})


def test_what_a_format_says_of_the_data() -> None:
    assert [format.net for format in EACH] == [None, "sound", "bag", "projection", None]
    assert [format.is_text for format in EACH] == [False, False, True, True, True]
    assert [format.is_tokens for format in EACH] == [False, False, True, False, True]
    assert reader_of(None).name == "pictures" and [reader_of(format).name for format in EACH] == [
        "pictures", "sounds", "texts", "texts", "texts",
    ]  # fmt: skip


def test_a_support_set_is_read_by_the_runs_reader(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("text,label\nhello,a\nbye,b\n")
    labels, items, y = read_support(tmp_path / "table.csv", Inputs((7, 1), TextFormat(7)))
    assert (labels, items, y) == (["a", "b"], ["hello", "bye"], [0, 1])
    labels, items, _ = read_support(draw_folder(tmp_path / "pictures", classes=2), Inputs((1, 28, 28), None))
    assert len(labels) == 2 and all(item.suffix == ".png" for item in items)


def test_an_adapted_model_of_an_older_version_still_predicts(tmp_path: Path) -> None:
    import upstairs as up

    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    splits = up.split_by_ratio(up.Source.from_arrays(x, np.arange(60) % 12), (0.5, 0.25, 0.25))
    run = up.train(
        "protonet", data=splits, out=tmp_path / "run", steps=2, way=3, shot="1", query=2, width=8, validations=1,
        validation_tasks=4, quiet=True,
    )  # fmt: skip
    model = run.adapt({"a": x[:2], "b": x[2:4]})
    path = model.save(tmp_path / "model.safetensors")
    tensors, meta = load_tensors(path, kind="adapted")
    meta["settings"]["rate"] = meta["settings"].pop("lr")  # as it was called
    save_tensors(path, tensors, {name: value for name, value in meta.items() if name != "kind"}, kind="adapted")
    assert load_adapted(path).predict(x[:4]) == model.predict(x[:4])


def test_tables_of_pictures_in_a_folder_are_no_texts(tmp_path: Path) -> None:
    """train.csv, val.csv and test.csv that name pictures by names as a Mac writes them (NFD)."""
    folder = mini_folder(tmp_path / "mini")
    assert reader_for(str(folder)).name == "pictures"
    (tmp_path / "texts").mkdir()
    for part in ("train", "test"):
        (tmp_path / "texts" / f"{part}.csv").write_text("text,label\nhello there,a\n", encoding="utf-8")
    assert reader_for(str(tmp_path / "texts")).name == "texts"
