"""Features of a frozen encoder as inputs: read alone, from folders, sheets and recordings, and kept in the cache."""

import io
import json
import os
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import upstairs
from helpers.encoders import save_onnx, some_sound
from helpers.runs import Call
from upstairs.data.encoded import EncodedFormat, encoded_format
from upstairs.data.open import open_splits, split_own
from upstairs.data.readers import read_format
from upstairs.encoders.base import Encoder
from upstairs.encoders.open import _opened
from upstairs.errors import UpstairsError
from upstairs.settings import DataOptions

SEEN: list[int] = []  # sizes of the batches that the encoder below received


def means(weight: float = 1.0, modality: Any = "image", digest: str = "") -> Encoder:
    """An encoder whose features are means of colours over six parts of a picture, or of samples."""

    def prepare(item: Any) -> np.ndarray:
        if modality == "text":
            return np.array([len(item), item.count("a")], np.float32)
        if modality == "audio":
            return np.asarray(item, np.float32)
        assert item.mode == "RGB"
        return np.asarray(item.resize((3, 2)), np.float32).reshape(-1)

    def embed(prepared: Any) -> np.ndarray:
        SEEN.append(len(prepared))
        rows = [[len(one), one.std()] if modality == "audio" else one for one in prepared]
        return np.asarray(rows, np.float32) * np.float32(weight)

    size = 18 if modality == "image" else 2
    return Encoder("mine", modality, size, "own", digest or f"{modality} {weight}", prepare, embed, 8000, 4)


def directions() -> Encoder:
    """As `means`; the first colour is always 128, so that brightness is a direction: the length is ignored."""
    own = means()

    def prepare(item: Any) -> np.ndarray:
        return np.append(np.float32(128), own.prepare(item)[1:])

    return replace(own, prepare=prepare)


class Pairs(list):
    """A `Dataset` of (picture, label)."""


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an encoder of pictures, and a cache of its own."""
    monkeypatch.setenv("UPSTAIRS_CACHE", str(tmp_path / "cache"))
    module = ModuleType("own_module")
    module.__dict__["make"] = means
    monkeypatch.setitem(sys.modules, "own_module", module)
    _opened.cache_clear()
    SEEN.clear()
    return "own_module:make"


def save_photos(path: Path, classes: int = 10, each: int = 8) -> Path:
    rng = np.random.default_rng(0)
    for k in range(classes):
        (path / f"c{k}").mkdir(parents=True)
        for e in range(each):
            x = np.clip(rng.normal(0, 10, (20, 30, 3)) + 25 * k, 0, 255).astype(np.uint8)
            Image.fromarray(x).save(path / f"c{k}" / f"{e}.png")
    return path


def opened(data: Path | str, encoder: str, **options: Any) -> Any:
    return open_splits(DataOptions(data=str(data), encoder=encoder, **options), quiet=True)


def test_features_are_computed_once_for_each_content(door: str, tmp_path: Path) -> None:
    photos = save_photos(tmp_path / "photos")
    first = opened(photos, door)
    assert sum(SEEN) == 80 and max(SEEN) == 64, "in batches"
    inputs, rows = first.train.inputs, first.train.rows
    for label, own in zip(first.train.labels, rows, strict=True):
        picture = Image.open(photos / label / "3.png")
        np.testing.assert_allclose(inputs[own[3]], np.asarray(picture.resize((3, 2)), np.float32).reshape(-1))
    again = opened(photos, door)
    np.testing.assert_array_equal(again.train.inputs, inputs)
    assert sum(SEEN) == 80, "the second run reads the cache"
    save = Image.fromarray(np.full((9, 9, 3), 7, np.uint8))
    save.save(photos / "c3" / "new.png")
    assert len(opened(photos, door).train.inputs) == 81 and sum(SEEN) == 81, "one picture more is one computation more"
    os.utime(photos / "c1" / "1.png")
    (photos / "c0").rename(photos / "renamed")
    opened(photos, door)
    assert sum(SEEN) == 81, "the content decides, not the name or the time"
    save.save(photos / "c3" / "same.png")
    opened(photos, door)
    assert sum(SEEN) == 81, "a copy is known"


def test_changed_weights_are_computed_again_and_refused_in_a_checkpoint(
    door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.modules["own_module"].__dict__["make"] = directions
    photos = save_photos(tmp_path / "photos")
    options = {"steps": 3, "way": 3, "query": 2, "quiet": True}
    run = upstairs.train("protonet", data=photos, encoder=door, out=tmp_path / "run", **options)
    assert run.settings.net == "projection" and run.inputs.shape == (18,)
    model = run.adapt({"dark": [photos / "c0" / "1.png"], "light": [photos / "c9" / "1.png"]})
    model.save(tmp_path / "model.safetensors")
    again = upstairs.load_adapted(tmp_path / "model.safetensors")
    items = [photos / "c1" / "2.png", Image.open(photos / "c8" / "1.png"), (photos / "c9" / "2.png").read_bytes()]
    assert again.predict(items) == ["dark", "light", "light"]
    computed = sum(SEEN)
    monkeypatch.setattr("own_module.make", lambda: means(2.0))
    _opened.cache_clear()
    with pytest.raises(UpstairsError, match=r"`encoder` own_module:make has other weights or another preprocessing"):
        again.predict(items)
    opened(photos, door)
    assert sum(SEEN) == computed + 80


def test_from_the_command_line(door: str, call: Call, tmp_path: Path) -> None:
    sys.modules["own_module"].__dict__["make"] = directions
    photos, out = save_photos(tmp_path / "photos"), tmp_path / "run"
    options = ("--way", 3, "--query", 2, "--steps", 3, "--out", out, "--quiet")
    status, _, err = call("train", "protonet", "--data", photos, "--encoder", door, *options)
    assert status == 0, err
    found = json.loads(call("evaluate", out, "--way", 2, "--query", 2, "--tasks", 20, "--json")[1])
    assert found["accuracy"] > 0.9 and "nearest_centroid" in found["baselines"]
    for more, message in {
        ("--size", 32): "--size changes what is read and --encoder reads its inputs in its own way",
        ("--rotate-classes",): "--rotate-classes changes what is read",
        ("--net", "pretrained"): "own_module:make has no network that could be trained",
        ("--jitter",): "--jitter is for pictures",
        ("--encoder", "sub/no/where"): "--encoder sub/no/where is a path that does not exist",
    }.items():
        words = ("train", "protonet", "--data", photos, "--encoder", door, *options, *more, "--out", tmp_path / "no")
        status, _, err = call(*words)
        assert status == 2 and message in err and err.count("\n") == 1, f"{more}: {err}"


def test_an_encoder_of_another_modality(door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = save_photos(tmp_path / "photos", 5, 3)
    table = tmp_path / "texts.csv"
    table.write_text("text,label\n" + "".join(f"word{i} {i},{'abcde'[i % 5]}\n" for i in range(20)))
    with pytest.raises(UpstairsError, match="reads pictures and the data is texts: give an encoder of texts"):
        opened(table, door)
    with pytest.raises(UpstairsError, match="`encoder` mine reads sounds and the data is pictures"):
        encoded_format(means(modality="audio"), "image")
    monkeypatch.setattr("own_module.make", lambda: means(modality="text"))
    _opened.cache_clear()
    with pytest.raises(UpstairsError, match="reads texts and the data is pictures: give an encoder of pictures"):
        opened(photos, door)
    splits = opened(table, door)
    assert splits.train.inputs.shape[1:] == (2,) and splits.train.format.kind == "encoded_text"


def odd_pictures() -> dict[str, tuple[bytes, Image.Image]]:
    """Files of odd kinds, and the RGB picture that each shows."""
    rng = np.random.default_rng(0)
    plain = Image.fromarray(rng.integers(0, 256, (12, 18, 3), np.uint8).astype(np.uint8))
    grey = plain.convert("L")
    deep = np.asarray(grey).astype(np.uint16) * 257
    turned = Image.Exif()
    turned[0x0112] = 6
    palette, after = plain.quantize(16), {"save_all": True, "append_images": [plain.rotate(90).quantize(16)]}
    seen = {
        "deep.png": (Image.fromarray(deep), {}, grey),
        "cmyk.tif": (plain.convert("CMYK"), {}, plain.convert("CMYK").convert("RGB")),
        "palette.png": (palette, {}, palette.convert("RGB")),
        "grey.png": (grey, {}, grey),
        "bits.png": (grey.convert("1"), {}, grey.convert("1")),
        "moving.gif": (palette, after, palette.convert("RGB")),
        "turned.png": (plain, {"exif": turned}, plain.transpose(Image.Transpose.ROTATE_270)),
        "thin.png": (plain.crop((0, 0, 1, 12)), {}, plain.crop((0, 0, 1, 12))),
    }
    made = {}
    for name, (picture, options, expected) in seen.items():
        stream = io.BytesIO()
        picture.save(stream, {"png": "PNG", "tif": "TIFF", "gif": "GIF"}[name.split(".")[1]], **options)
        made[name] = stream.getvalue(), expected.convert("RGB")
    return made


@pytest.mark.parametrize("name", odd_pictures())
def test_odd_pictures(name: str, tmp_path: Path) -> None:
    content, expected = odd_pictures()[name]
    form = encoded_format(means(), "image")
    row = np.asarray(expected.resize((3, 2)), np.float32).reshape(-1)
    np.testing.assert_allclose(form.read(content), row, atol=1)
    (tmp_path / name).write_bytes(content)
    np.testing.assert_array_equal(form.read(tmp_path / name), form.read(content))
    np.testing.assert_allclose(form.read_many([tmp_path / name, expected, np.asarray(expected)]), [row] * 3, atol=1)


def test_paths_are_known_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTAIRS_CACHE", str(tmp_path / "cache"))
    form, path = encoded_format(means(), "image"), tmp_path / "a.png"
    for grey in (10, 20):
        Image.new("RGB", (5, grey), (grey, grey, grey)).save(path)
        for item in (str(path), path, path.read_bytes(), Image.open(path), np.full((5, 5), grey, np.uint8)):
            assert form.read_many([item]).tolist() == [[grey] * 18]


def test_a_thin_picture_is_not_blown_up(tmp_path: Path) -> None:
    """A processor that resizes the shorter side would make 256 x 256,000 pixels of it."""
    pytest.importorskip("transformers", reason="transformers (extra [vision]) is not installed")
    from helpers.encoders import save_transformer
    from upstairs.encoders.pictures import within_ratio

    assert within_ratio(Image.new("L", (1, 2000))).size == (1, 16) and within_ratio(Image.new("L", (90, 6))).size == (
        90,
        6,
    )
    save_transformer("clip", tmp_path)
    form = encoded_format(str(tmp_path), "image")
    assert np.isfinite(form.read(np.zeros((2000, 1, 3), np.uint8))).all()


def test_bad_pictures_are_named_or_left_out(door: str, tmp_path: Path) -> None:
    photos = save_photos(tmp_path / "photos", 6, 4)
    (photos / "c2" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(UpstairsError, match=r"c2/bad\.png"):
        opened(photos, door)
    computed = sum(SEEN)
    splits = opened(photos, door, skip_bad=True)
    assert "1 that cannot be read left out" in splits.train.summary and computed == sum(SEEN) == 24


def test_arrays_and_sheets_are_read_as_pictures(door: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 3, 8, 8), np.uint8).astype(np.uint8)
    np.savez(tmp_path / "pack.npz", x=x, y=np.repeat(np.arange(10), 6))
    splits = opened(tmp_path / "pack.npz", door)
    rows = np.concatenate(splits.train.rows)
    picture = Image.fromarray(x[rows[0]].transpose(1, 2, 0))
    np.testing.assert_allclose(splits.train.inputs[rows[0]], np.asarray(picture.resize((3, 2)), np.float32).reshape(-1))
    assert splits.train.inputs is splits.test.inputs and sum(SEEN) == 60
    opened(tmp_path / "pack.npz", door)
    assert sum(SEEN) == 60
    np.savez(tmp_path / "flat.npz", x=rng.normal(size=(60, 5)), y=np.repeat(np.arange(10), 6))
    with pytest.raises(UpstairsError, match=r"`encoder` reads pictures and flat has inputs of shape \[5\]"):
        opened(tmp_path / "flat.npz", door)


def test_data_of_ones_own_is_read_by_the_encoder(door: str, tmp_path: Path) -> None:
    """Pictures of a `Dataset` keep their size until the encoder reads them; arrays of a `Source` are pictures too."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (200, 300, 3), np.uint8).astype(np.uint8)) for _ in range(30)]
    options = {"steps": 2, "way": 2, "query": 2, "quiet": True, "encoder": door}
    pairs = Pairs([(picture, i % 10) for i, picture in enumerate(pictures)])
    run = upstairs.train("protonet", data=pairs, out=tmp_path / "one", **options)
    assert run.inputs.shape == (18,) and run.inputs.format.kind == "encoded_image"
    first = split_own(pairs, DataOptions(encoder=door)).train
    np.testing.assert_allclose(first.inputs[7], np.asarray(pictures[7].resize((3, 2)), np.float32).reshape(-1))
    source = upstairs.Source.from_arrays(rng.integers(0, 256, (30, 3, 8, 8)).astype(np.uint8), np.arange(30) % 10)
    run = upstairs.train("protonet", data=source, out=tmp_path / "two", **options)
    assert run.inputs.shape == (18,)
    episodes = upstairs.Episodes(source, way=2, shot=1, query=2)
    assert split_own(episodes, DataOptions(encoder=door)).train.feature_shape == (18,)
    with pytest.raises(UpstairsError, match=r"`encoder` reads pictures and arrays has inputs of shape \[4\]"):
        split_own(upstairs.Source.from_arrays(rng.normal(size=(30, 4)), np.arange(30) % 10), DataOptions(encoder=door))


def test_an_interrupted_run_keeps_what_it_has_computed(
    door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = save_photos(tmp_path / "photos", 10, 16)
    whole = means()

    def stopped(prepared: Any) -> np.ndarray:
        if sum(SEEN) >= 128:
            raise KeyboardInterrupt
        return whole.embed(prepared)

    monkeypatch.setattr("own_module.make", lambda: replace(whole, embed=stopped))
    with pytest.raises(KeyboardInterrupt):
        opened(photos, door)
    monkeypatch.setattr("own_module.make", lambda: whole)
    _opened.cache_clear()
    opened(photos, door)
    assert SEEN == [64, 64, 32]


def test_omniglot_without_its_turned_classes(door: str, data_dir: Path) -> None:
    """A turned class has other features, which are not computed."""
    from upstairs.data.images.datasets import open_data

    plain = open_data(data_dir / "omniglot")
    splits = opened(data_dir / "omniglot", door)
    assert len(plain.train) == 4 * len(splits.train) and not splits.train.turns
    assert splits.train.labels == tuple(
        label for label, turn in zip(plain.train.labels, plain.train.turns, strict=True) if turn == 0
    )


def test_recordings_at_the_rate_of_the_encoder(door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("soundfile", reason="soundfile (extra [audio]) is not installed")
    import soundfile

    monkeypatch.setattr("own_module.make", lambda: means(modality="audio"))
    _opened.cache_clear()
    for k in range(6):
        (tmp_path / "sounds" / f"w{k}").mkdir(parents=True)
        for e in range(4):
            samples = some_sound(0.5 + 0.25 * (e % 2), 16000, 10 * k + e)
            soundfile.write(tmp_path / "sounds" / f"w{k}" / f"{e}.wav", samples, 16000)
    splits = opened(tmp_path / "sounds", door)
    assert splits.train.augment is None and splits.train.format.kind == "encoded_sound"
    assert {float(n) for n in np.asarray(splits.train.inputs)[:, 0]} == {4000.0, 6000.0}
    one_second = opened(tmp_path / "sounds", door, seconds=1.0)
    assert {float(n) for n in np.asarray(one_second.train.inputs)[:, 0]} == {8000.0}
    form = splits.train.format
    assert form.read((some_sound(0.5, 8000), 8000))[0] == 4000 and form.read((some_sound(40, 8000), 8000))[0] == 240_000
    run = upstairs.train(
        "protonet", data=tmp_path / "sounds", encoder=door, out=tmp_path / "run", steps=2, way=2, query=1, quiet=True
    )
    model = run.adapt({"a": [(some_sound(0.5, 8000), 8000)], "b": [(some_sound(1.0, 8000), 8000)]})
    assert model.predict([(some_sound(0.5, 44100), 44100)]) == ["a"]
    assert model.predict_windows((some_sound(2.0, 8000), 8000))


def test_a_damaged_store_is_made_again(door: str, tmp_path: Path) -> None:
    photos = save_photos(tmp_path / "photos", 5, 3)
    opened(photos, door)
    (store,) = (tmp_path / "cache").glob("features-*.sqlite")
    for file in (tmp_path / "cache").glob("*.npy"):
        file.unlink()
    store.write_bytes(b"no database" * 500)
    opened(photos, door)
    assert sum(SEEN) == 30
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE features SET row = x'00'")
    for file in (tmp_path / "cache").glob("*.npy"):
        file.unlink()
    opened(photos, door)
    assert sum(SEEN) == 45, "rows of another length are computed again"


def test_what_an_onnx_file_does_not_say_is_said(tmp_path: Path, call: Call) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime (extra [onnx]) is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    photos = save_photos(tmp_path / "photos", 6, 4)
    save_onnx(tmp_path / "tiny.onnx", ["n", 3, 12, 12])
    words = ("--data", photos, "--encoder", tmp_path / "tiny.onnx", "--steps", 2, "--way", 2, "--query", 2)
    status, _, err = call("train", "protonet", *words, "--out", tmp_path / "run")
    note = "tiny.onnx does not say how pictures are prepared: they are cropped to 12 x 12"
    assert status == 0 and err.count(note) == 1, err
    assert note not in call("evaluate", tmp_path / "run", "--way", 2, "--query", 1, "--tasks", 5)[2]


def test_what_is_saved_of_a_format() -> None:
    form = encoded_format(means(), "image")
    assert isinstance(form, EncodedFormat) and (form.shape, form.net, form.dtype) == ((18,), "projection", np.float32)
    assert read_format(json.loads(json.dumps(form.to_json()))) == form
    assert replace(form, digest="x") != form
