"""Damaged files of every kind are refused in a short sentence: what benchmarks/fuzz.py found, and some files anew."""

import importlib.util
import io
import json
import pickle
import random
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

import upstairs
from upstairs.data.audio.format import read_sound
from upstairs.data.images.format import ImageFormat
from upstairs.data.open import open_splits
from upstairs.data.tables import read_table
from upstairs.errors import UpstairsError, reason
from upstairs.settings import DataOptions


def refused(call: Any, *args: Any, match: str) -> None:
    with pytest.raises(UpstairsError, match=match) as found:
        call(*args)
    assert len(str(found.value)) < 1500


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks/fuzz.py"
    spec = importlib.util.spec_from_file_location("fuzz", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoints(fuzz: ModuleType) -> dict[str, bytes]:
    return fuzz.checkpoints()


def test_a_header_that_is_no_json(checkpoints: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(checkpoints["model.safetensors"])
    with safe_open(path, framework="pt") as file:
        meta = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = json.loads(meta["upstairs"])
    wrong: list[tuple[dict[str, Any], str]] = [
        (tensors, meta["upstairs"][:-30]),
        (tensors, "[1, 2]"),
        (tensors, json.dumps({name: value for name, value in header.items() if name != "labels"})),
        (tensors, json.dumps({**header, "shape": "wide"})),
        ({name: value for name, value in tensors.items() if not name.startswith("state.")}, meta["upstairs"]),
        ({**tensors, "support.y": tensors["support.y"] + 1000}, meta["upstairs"]),
    ]
    for values, text in wrong:
        save_file(values, path, metadata={"upstairs": text})
        refused(upstairs.load_adapted, path, match="is damaged")


def test_sounds_of_impossible_rates_and_loudness(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="soundfile (extra [audio]) is not installed")
    path = tmp_path / "a.wav"
    soundfile.write(path, np.sin(np.arange(4000)), 2_139_040_529)
    refused(read_sound, path, match="2139040529 Hz: give .* at 1000 to 400000 Hz")
    soundfile.write(path, np.full(4000, 1e25, np.float32), 16000, "FLOAT")
    refused(read_sound, path, match="no finite or usual numbers")


def test_names_in_a_zip_that_are_no_utf8(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("añb/1.png", b"")  # flagged as UTF-8
    (tmp_path / "a.zip").write_bytes(out.getvalue().replace("ñ".encode(), b"\xed\xed"))
    refused(open_splits_of, tmp_path / "a.zip", match=r"no whole zip file")


def open_splits_of(path: Path) -> None:
    open_splits(DataOptions(data=str(path)), quiet=True)


@pytest.mark.parametrize("rows", [[128], ["x"], 7, [[0]]])
def test_a_class_dict_that_does_not_fit(rows: Any, tmp_path: Path) -> None:
    images = np.zeros((4, 8, 8, 3), np.uint8)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"image_data": images, "class_dict": {"a": rows, "b": [1]}}))
    refused(open_splits_of, tmp_path / "a.pkl", match="class_dict that does not fit")


def test_large_deep_pictures_take_little_memory(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)).save(tmp_path / "a.png")
    row = ImageFormat(64, 1, False).read(tmp_path / "a.png")
    assert row.min() == 0 and row.max() == 255


def test_reasons_are_short_lines() -> None:
    assert reason(ValueError("a\x00b" + 1000 * "c" + "\nd")) == "a?b" + 197 * "c"
    assert reason(ValueError()) == "ValueError"


def test_a_table_of_many_columns_names_some(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",".join(f"column {i}" for i in range(500)) + "\n", encoding="utf-8")
    with pytest.raises(UpstairsError, match="and 480 more"):
        read_table(tmp_path / "a.csv").find("text")


READERS = ["pictures", "sounds", "tables", "numbers", "archives", "arrays", "checkpoints"]


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(
    name: str, fuzz: ModuleType, checkpoints: dict[str, bytes], tmp_path: Path
) -> None:
    if name == "sounds":
        pytest.importorskip("soundfile", reason="soundfile (extra [audio]) is not installed")
    make, read = fuzz.READERS[name]
    whole, dice = checkpoints if name == "checkpoints" else make(), random.Random(1)
    refusals = 0
    for key in [*whole] * (40 // len(whole) + 1):
        (tmp_path / key).write_bytes(fuzz.damaged(whole[key], b"", dice))
        try:
            read(tmp_path / key)
        except UpstairsError as error:
            refusals += 1
            assert len(str(error)) < 3000
    assert refusals
