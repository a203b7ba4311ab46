"""One resolver of layouts: folders, zips and tars alike; splits, tables, patterns; what was read, and what was not."""

import shutil
import struct
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.runs import SMALL, Call
from helpers.sounds import bytes_of, tone
from upstairs.data.audio.folders import open_sounds, sound_splits
from upstairs.data.files import ARRAYS, NOTES, SOUNDS, open_tree
from upstairs.data.images.arrays import ArrayFormat, array_splits, read_arrays
from upstairs.data.images.datasets import open_data, open_source
from upstairs.data.images.folders import files_by_class, folder_source
from upstairs.data.images.format import ImageFormat
from upstairs.data.layouts.classes import Layout, own_parts, part_of
from upstairs.data.layouts.resolve import find_layout
from upstairs.data.open import open_splits
from upstairs.data.readers import reader_for
from upstairs.data.source import Source
from upstairs.data.splits import divided
from upstairs.errors import UpstairsError
from upstairs.settings import DataOptions


def picture(path: Path, seed: int = 0, size: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def pictures(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        picture(root / name, seed)
    return root


def classes(root: Path, count: int, examples: int = 3, start: int = 0) -> Path:
    return pictures(root, *(f"c{k}/{e}.png" for k in range(start, start + count) for e in range(examples)))


def layout_of(path: Path, **options: str) -> Layout:
    with open_tree(path) as tree:
        return find_layout(tree, **options)


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


NAMES = st.sampled_from(["a", "b", "class 1", "class 10", "class 2", "É", "e\u0301té", "猫", "images", "data", " x "])
LITTER = [".DS_Store", "Thumbs.db", "__MACOSX/._0.png", "@eaDir/0.png", ".ipynb_checkpoints/0.png", "desktop.ini"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    labels=st.sets(NAMES, min_size=1, max_size=5), group=st.sampled_from([(), ("g",), ("g", "h", "i")]),
    parts=st.sampled_from([(), ("train", "test"), ("Training", "validation", "testing")]),
    wrapper=st.sampled_from(["", "archive", "archive/images/Images"]), litter=st.sets(st.sampled_from(LITTER)),
    same=st.booleans(),
)  # fmt: skip
def test_a_zip_is_read_as_the_folder(
    labels: set[str], group: tuple[str, ...], parts: tuple[str, ...], wrapper: str, litter: set[str], same: bool
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "top"
        for place, part in enumerate(parts or ("",)):
            for label in labels:
                for name in group or ("",):
                    own = label if same or not part else f"{label.strip()}{place}"
                    picture(root / wrapper / part / name / own / "0.png", place)
        for name in litter:
            (root / wrapper / name).parent.mkdir(parents=True, exist_ok=True)
            (root / wrapper / name).write_bytes(b"x")
        path = zipped(root, Path(scratch) / "top.zip")
        with tarfile.open(Path(scratch) / "top.tar.gz", "w:gz") as archive:
            archive.add(root, "top")
        found = [layout_of(one) for one in (root, path, Path(scratch) / "top.tar.gz")]
        short = [
            [(one.label, one.group, len(one.names)) for one in layout.classes] + [layout.parts, layout.notes]
            for layout in found
        ]
        assert short[0] == short[1] == short[2] and not found[0].bad
        assert {one.label.split("/")[-1] for one in found[0].classes}.isdisjoint({"train", "test", "archive", "top"})
        assert all(one.label == unicodedata.normalize("NFC", one.label) for one in found[0].classes)


def test_train_and_test_folders_of_the_same_classes_are_joined(tmp_path: Path) -> None:
    for part in ("train", "test"):
        classes(tmp_path / "d" / part, 6)
    splits = open_data(tmp_path / "d")
    labels = [set(part.labels) for part in splits]
    assert sum(map(len, labels)) == 6 and set.union(*labels) == {f"c{k}" for k in range(6)}
    assert all(len(rows) == 6 for part in splits for rows in part.rows)
    assert "train and test hold the same classes" in splits.train.summary


def test_a_class_of_several_parts_is_in_the_first(tmp_path: Path) -> None:
    classes(tmp_path / "train", 8)
    classes(tmp_path / "val", 3, start=7)
    classes(tmp_path / "test", 4, start=9)
    splits = open_data(tmp_path)
    assert [sorted(part.labels) for part in splits] == [
        [f"c{k}" for k in range(8)],
        ["c8", "c9"],
        ["c10", "c11", "c12"],
    ]
    assert "2 classes of several parts joined into the first: c7, c9" in splits.train.summary


@pytest.mark.parametrize(
    "names",
    [
        ("training_set/training_set", "test_set/test_set"), ("seg_train/seg_train", "seg_test/seg_test"),
        ("train/images", "test/images"), ("x/y/Train", "x/y/Valid"), ("train", "dev"),
    ],
)  # fmt: skip
def test_names_of_split_folders(names: tuple[str, str], tmp_path: Path) -> None:
    classes(tmp_path / names[0], 5)
    classes(tmp_path / names[1], 3, start=5)
    splits = open_data(tmp_path)
    assert set(splits.train.labels) | set(splits.val.labels) == {f"c{k}" for k in range(5)}
    assert set(splits.test.labels) == {"c5", "c6", "c7"}


def test_train_and_test_inside_each_class(tmp_path: Path) -> None:
    layout = layout_of(pictures(tmp_path, *(f"c{k}/{part}/0.png" for k in range(3) for part in ("train", "test"))))
    assert [(one.label, len(one.names)) for one in layout.classes] == [("c0", 2), ("c1", 2), ("c2", 2)]
    assert "were joined" in layout.notes[0]


def test_a_stray_file_beside_split_folders_makes_no_leak(tmp_path: Path) -> None:
    classes(tmp_path / "train", 4)
    classes(tmp_path / "test", 4)
    picture(tmp_path / "docs" / "figure.png")
    with pytest.raises(UpstairsError, match=r"docs/figure\.png (lies outside the folders|.*arranged)"):
        open_data(tmp_path)
    splits = open_data(tmp_path, skip_bad=True)
    assert sorted(label for part in splits for label in part.labels) == ["c0", "c1", "c2", "c3"]


def test_words_are_no_part() -> None:
    assert part_of("trainer")[0] == part_of("latest")[0] == part_of("Bus")[0] == ""
    assert part_of("test_set") == ("test", ()) and part_of("seg_train") == ("train", ("seg",))
    assert own_parts([("a", "train"), ("b", "test")]) == ({"a": "train", "b": "test"}, "")


def test_names_in_zips_are_decoded(tmp_path: Path) -> None:
    class Unmarked(zipfile.ZipInfo):
        codec = ""

        def _encodeFilenameFlags(self):
            return self.filename.encode(self.codec), self.flag_bits & ~0x800

    for codec, labels in (
        ("gbk", ["猫", "狗", "马", "羊"]), ("shift_jis", ["ねこ", "いぬ", "うま"]), ("euc_kr", ["고양이", "개", "말"]),
        ("big5", ["貓", "狗", "馬"]), ("cp866", ["кошка", "собака"]), ("cp437", ["café", "über"]),
        ("utf-8", ["é", "猫"]),
    ):  # fmt: skip
        Unmarked.codec = codec
        with zipfile.ZipFile(tmp_path / f"{codec}.zip", "w") as archive:
            for label in labels:
                archive.writestr(Unmarked(f"{label}/0.png"), b"x")
        assert {one.label for one in layout_of(tmp_path / f"{codec}.zip").classes} == set(labels), codec


def test_what_was_read_and_what_was_not(tmp_path: Path) -> None:
    classes(tmp_path, 4)
    (tmp_path / "c0" / "a.heif").write_bytes(b"")
    for name in ("c0/a.dng", "c1/b.dng", "c1/notes.txt", "README"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "c0" / "a.heif").unlink()
    summary = folder_source(tmp_path).summary
    assert summary == (
        "12 pictures of 4 classes; 4 files ignored (.dng 2: convert them to PNG, .txt 1, no extension 1)"
    )
    train = open_splits(DataOptions(data=str(classes(tmp_path / "d", 12))), quiet=True).train
    assert train.summary == "36 pictures of 12 classes"


def test_nothing_that_can_be_read(tmp_path: Path) -> None:
    for name in ("a/1.m4a", "b/1.m4a"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    assert reader_for(str(tmp_path)).name == "sounds"
    with pytest.raises(UpstairsError, match=r"no recordings .* but 2 files \(\.m4a 2: ffmpeg -i IN OUT\.wav\)"):
        open_splits(DataOptions(data=str(tmp_path)), quiet=True)
    (tmp_path / "x.rar").write_bytes(b"Rar!")
    with (
        pytest.raises(UpstairsError, match=r"\.rar file, which is not read: unpack them"),
        open_tree(tmp_path / "x.rar"),
    ):
        pass


def test_all_bad_files_are_named_together_and_can_be_left_out(call: Call, tmp_path: Path) -> None:
    classes(tmp_path / "d", 12, 5)
    bad = ["c1/0.png", "c4/2.png", "c7/1.png"]
    for name in bad:
        (tmp_path / "d" / name).write_bytes(b"\x89PNG cut")
    with pytest.raises(UpstairsError) as raised:
        folder_source(tmp_path / "d")
    assert all(name in str(raised.value) for name in bad) and "3 of 60 pictures" in str(raised.value)
    words = ("train", "protonet", "--data", tmp_path / "d", *SMALL, "--steps", 1, "--out", tmp_path / "run", "--quiet")
    status, _, err = call(*words)
    assert status == 2 and "--skip-bad leaves them out" in err
    status, _, err = call(*words, "--skip-bad")
    assert status == 0 and "3 that cannot be read left out: c1/0.png, c4/2.png, c7/1.png" in err
    status, _, err = call("evaluate", tmp_path / "run", "--tasks", 5, "--way", 2, "--query", 1, "--json", "--quiet")
    assert status == 0, err
    alone = tmp_path / "alone"
    shutil.copytree(tmp_path / "d", alone)
    for name in bad:
        (alone / name).unlink()
    np.testing.assert_array_equal(folder_source(tmp_path / "d", skip_bad=True).inputs, folder_source(alone).inputs)


def test_silent_sounds_are_named_together(tmp_path: Path) -> None:
    pytest.importorskip("soundfile", reason="soundfile (extra [audio]) is not installed")
    for k in range(4):
        (tmp_path / f"w{k}").mkdir()
        for e in range(3):
            (tmp_path / f"w{k}" / f"{e}.wav").write_bytes(bytes_of(tone(300 + 100 * k, seconds=0.3), "WAV"))
    (tmp_path / "w0" / "1.wav").write_bytes(bytes_of(np.zeros(4000, np.float32), "WAV"))
    (tmp_path / "w3" / "2.wav").write_bytes(b"")
    with pytest.raises(UpstairsError, match=r"is silent.*2 of 12 recordings .*: w0/1\.wav, w3/2\.wav"):
        open_sounds(tmp_path)
    source = open_sounds(tmp_path, skip_bad=True)
    assert [len(rows) for rows in source.rows] == [2, 3, 3, 2] and "2 that cannot be read left out" in source.summary
    (tmp_path / "_background_noise_").mkdir()
    (tmp_path / "_background_noise_" / "n.wav").write_bytes(bytes_of(tone(100, seconds=1), "WAV"))
    source = open_sounds(tmp_path, skip_bad=True, seconds=0.5)
    assert len(source) == 4 and "1 recording of _background_noise_ left out" in source.summary
    assert source.feature_shape == (1, 64, 50)


def test_sounds_of_the_same_words_in_train_and_test_do_not_leak(tmp_path: Path) -> None:
    pytest.importorskip("soundfile", reason="soundfile (extra [audio]) is not installed")
    for part in ("train", "validation", "test"):
        for k in range(6):
            (tmp_path / part / f"w{k}").mkdir(parents=True)
            (tmp_path / part / f"w{k}" / "0.wav").write_bytes(bytes_of(tone(300 + 100 * k, seconds=0.3), "WAV"))
    splits = sound_splits(tmp_path)
    assert not set(splits.train.labels) & set(splits.test.labels) and all(len(rows) == 3 for rows in splits.test.rows)


@pytest.mark.parametrize(("top", "white"), [(1023, 1023), (4080, 4095), (65535, None), (300, 511)])
def test_the_range_of_deep_pictures_is_that_of_the_data(top: int, white: int | None, tmp_path: Path) -> None:
    for k in range(4):
        values = np.linspace(0, top if k == 3 else top / 2, 400).astype(np.uint16).reshape(20, 20)
        (tmp_path / f"c{k}").mkdir()
        Image.fromarray(values).save(tmp_path / f"c{k}" / "0.png")
    source = folder_source(tmp_path, ink=False)
    assert isinstance(source.format, ImageFormat) and source.format.tones == (white and (0, white))
    assert source.inputs[3].max() >= 255 * top / ((white or 65535) + 1) - 2 and source.inputs[0].max() < 130
    assert ImageFormat.from_json(source.format.to_json()) == source.format
    if white:
        with pytest.raises(UpstairsError, match=r"white \d+: scale it"):
            source.format.read(Image.fromarray(np.full((9, 9), white + 1, np.uint16)))


def test_colours_of_16_bits_that_use_few_are_refused(tmp_path: Path) -> None:
    def save(path: Path, values: np.ndarray) -> None:  # pillow writes no colours of 16 bits
        path.parent.mkdir(exist_ok=True)
        lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
        chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        ))  # fmt: skip

    values = np.random.default_rng(0).integers(0, 4096, (12, 12, 3))
    for k in range(3):
        save(tmp_path / f"c{k}" / "0.png", values)
    with pytest.raises(UpstairsError, match=r"c0/0\.png is one of the colour pictures of 16 bits"):
        folder_source(tmp_path)
    save(tmp_path / "c1" / "0.png", 16 * values)
    assert folder_source(tmp_path).inputs[1].max() > 200


def test_an_old_format_is_unchanged() -> None:
    old = {"kind": "image", "size": 28, "channels": 1, "ink": True}
    assert ImageFormat.from_json(old).to_json() == old


def test_a_large_jpeg_is_decoded_small(tmp_path: Path) -> None:
    Image.new("L", (12000, 9000), 120).save(tmp_path / "big.jpg", quality=30)
    assert abs(int(ImageFormat(32, 1, False).read(tmp_path / "big.jpg").mean()) - 120) <= 2


def test_a_wav_without_a_length_is_read_to_its_end() -> None:
    pytest.importorskip("soundfile", reason="soundfile (extra [audio]) is not installed")
    from upstairs.data.audio.format import read_sound

    whole = bytes_of(tone(440.0, seconds=0.5), "WAV")
    place = whole.index(b"data") + 4
    assert len(read_sound(whole[:place] + bytes(4) + whole[place + 4 :])) == 8000


TABLE = [(f"{k}_{e}.png", f"kind {k}") for k in range(6) for e in range(3)]


@pytest.mark.parametrize(
    ("name", "head", "row"),
    [
        ("labels.csv", "image_path,label", "images/{},{}"), ("metadata.csv", "file_name,category", "{},{}"),
        ("meta/data.tsv", "fold\tfilename\tspecies", "1\t{}\t{}"), ("labels.csv", "id,breed", "{0:.3},{1}"),
        ("labels.csv", "path,label", "C:\\data\\images\\{},{}"),
    ],
)  # fmt: skip
def test_a_table_of_labels(name: str, head: str, row: str, tmp_path: Path) -> None:
    for k, (file, _) in enumerate(TABLE):
        picture(tmp_path / "images" / file, k)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("\n".join([head, *(row.format(*one) for one in TABLE)]), encoding="utf-8")
    source = open_source(tmp_path)
    assert source.labels == tuple(f"kind {k}" for k in range(6)) and [len(rows) for rows in source.rows] == [3] * 6
    assert f"labels from {name}" in source.summary
    if "png" in row.format(*TABLE[0]):
        assert (
            reader_for(str(tmp_path / name)).name == "pictures" and open_source(tmp_path / name).labels == source.labels
        )
        assert list(files_by_class(tmp_path / name)) == list(source.labels)
        with pytest.raises(UpstairsError, match="holds the labels itself: leave it out"):
            open_source(tmp_path / name, pattern="{label}_{n}")


def test_names_in_a_table_are_compared_composed(tmp_path: Path) -> None:
    picture(tmp_path / "images" / unicodedata.normalize("NFD", "pâté.png"))
    picture(tmp_path / "images" / "b.PNG")
    (tmp_path / "labels.csv").write_text("file,label\npâté.png,x\nB.png,y\n", encoding="utf-8")
    assert open_source(tmp_path).labels == ("x", "y")


def test_rows_without_a_file_are_named_together(tmp_path: Path) -> None:
    for file, _ in TABLE:
        picture(tmp_path / file)
    rows = [f"{file},{label}" for file, label in TABLE]
    (tmp_path / "labels.csv").write_text(
        "\n".join(["file,label", *rows, "gone.png,kind 1", "0_0.png,", "1_0.png,other"])
    )
    with pytest.raises(UpstairsError, match=r"row 19 names gone\.png.*3 of 18 pictures"):
        open_source(tmp_path / "labels.csv")
    assert len(open_source(tmp_path / "labels.csv", skip_bad=True)) == 6


def test_a_table_that_agrees_with_the_folders_is_not_used(tmp_path: Path) -> None:
    classes(tmp_path, 3)
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"c{k}/0.png,super\n" for k in range(3)))
    assert folder_source(tmp_path).labels == ("c0", "c1", "c2")
    assert folder_source(tmp_path, columns="file,label").labels == ("super",)
    with pytest.raises(UpstairsError, match=r"has no column 'a': it has 'file', 'label'"):
        folder_source(tmp_path, columns="a,b")


def test_lists_of_classes_split_them(tmp_path: Path) -> None:
    classes(tmp_path, 7)
    for part, own in (("train", "c0 c3 c5"), ("val", "c1 c6"), ("test", "c2 c4")):
        (tmp_path / f"{part}.txt").write_text("\n".join(own.split()))
    assert [part.labels for part in open_data(tmp_path)] == [("c0", "c3", "c5"), ("c1", "c6"), ("c2", "c4")]
    (tmp_path / "test.txt").write_text("c0/0.png\nc1/0.png")
    splits = open_data(tmp_path)
    assert "not used" in splits.train.summary and sum(map(len, splits)) == 7


def test_patterns_of_names(tmp_path: Path) -> None:
    pictures(tmp_path, *(f"{dog}_{n}.png" for dog in ("basset_hound", "pug", "saluki", "corgi") for n in (1, 2, 10)))
    with pytest.raises(UpstairsError, match=r"write `pattern` '\{label\}_\{n\}'"):
        open_data(tmp_path)
    source = open_source(tmp_path, pattern="{label}_{n}")
    assert source.labels == ("basset_hound", "corgi", "pug", "saluki")
    for wrong, why in (("{word}_{n}", "needs one {label}"), ("{label}-{n}", "fits no file")):
        with pytest.raises(UpstairsError, match=why):
            open_source(tmp_path, pattern=wrong)


def test_a_pattern_is_proposed_beside_files_that_it_does_not_fit(tmp_path: Path) -> None:
    pictures(tmp_path / "train", *(f"{kind}.{n}.png" for kind in ("cat", "dog") for n in range(3)))
    pictures(tmp_path / "test1", "0.png", "1.png")
    with pytest.raises(UpstairsError, match=r"\(cat, dog\), write `pattern` '\{label\}\.\{n\}'"):
        open_data(tmp_path)
    (tmp_path / "x.tgz").write_bytes(b"no tar")
    with pytest.raises(UpstairsError, match=r"no whole tar file\): make it again"):
        open_data(tmp_path / "x.tgz")


def test_spoken_digits_are_known_by_their_names(tmp_path: Path) -> None:
    pytest.importorskip("soundfile", reason="soundfile (extra [audio]) is not installed")
    for digit in range(5):
        for speaker in ("ada", "bob", "cy"):
            for n in range(2):
                name = f"{digit}_{speaker}_{n}.wav"
                (tmp_path / name).write_bytes(bytes_of(tone(300 + 90 * digit + n, seconds=0.3), "WAV"))
    source = open_sounds(tmp_path)
    assert source.labels == ("0", "1", "2", "3", "4") and set(source.speakers) == {"ada", "bob", "cy"}
    assert "pattern '{label}_{speaker}_{n}'" in source.summary


@pytest.mark.parametrize(("count", "sizes"), [(4, [2, 0, 2]), (6, [2, 2, 2]), (8, [4, 2, 2]), (25, [16, 4, 5])])
def test_few_classes_are_divided_so_that_each_part_has_two(count: int, sizes: list[int], tmp_path: Path) -> None:
    source = Source.from_arrays(np.zeros((count, 2)), np.arange(count))
    assert [len(part) for part in divided(source)] == sizes
    splits = open_data(classes(tmp_path, count))
    assert [len(part) for part in splits] == sizes
    assert ("divided as" in splits.train.summary) == (count < 25)
    if count == 8:
        options = DataOptions(data=str(tmp_path), ratio="2,1,1")
        assert [len(part) for part in open_splits(options, quiet=True)] == [4, 2, 2]
        with pytest.raises(UpstairsError, match="change `ratio`"):
            open_splits(DataOptions(data=str(tmp_path), ratio="0.8,0.1,0.1"), quiet=True)
        with pytest.raises(UpstairsError, match="`ratio` is 'a': give three shares"):
            open_splits(DataOptions(data=str(tmp_path), ratio="a"), quiet=True)


def test_classes_of_one_example_are_left_out(tmp_path: Path) -> None:
    classes(tmp_path, 12, 4)
    picture(tmp_path / "lone" / "0.png")
    splits = open_splits(DataOptions(data=str(tmp_path)), quiet=True)
    assert all("lone" not in part.labels for part in splits)
    assert "1 class with fewer than two examples left out: lone" in splits.train.summary


def test_size_and_channels(tmp_path: Path) -> None:
    data = str(classes(tmp_path, 8))
    assert open_splits(DataOptions(data=data, size=20, channels=1), quiet=True).train.feature_shape == (1, 20, 20)
    with pytest.raises(UpstairsError, match="`seconds` is about sounds"):
        open_splits(DataOptions(data=data, seconds=1.0), quiet=True)


def test_class_folders_of_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(6):
        (tmp_path / f"c{k}").mkdir()
        for e in range(3):
            np.save(tmp_path / f"c{k}" / f"{e}.npy", rng.integers(0, 4000, (20, 18, 5)).astype(np.uint16))
    splits = open_splits(DataOptions(data=str(tmp_path)), quiet=True)
    assert splits.train.feature_shape == (5, 20, 18) and splits.train.format == ArrayFormat((5, 20, 18), True, 4095.0)
    one = np.load(tmp_path / "c0" / "0.npy")
    row = splits.train.format.read(tmp_path / "c0" / "0.npy")
    np.testing.assert_allclose(row, one.transpose(2, 0, 1) / 4095, rtol=1e-6)
    assert ArrayFormat.from_json({**splits.train.format.to_json(), "size": [5, 20, 18]}) == splits.train.format
    assert len(files_by_class(tmp_path, ARRAYS)["c0"]) == 3
    np.save(tmp_path / "c0" / "odd.npy", np.zeros((3, 3)))
    with pytest.raises(UpstairsError, match=r"odd\.npy has float64 of shape \[3, 3\]"):
        read_arrays(tmp_path)


@pytest.mark.parametrize("kind", ["npz", "pkl", "class_dict.npz", "class_dict.pkl"])
def test_packed_arrays(kind: str, tmp_path: Path) -> None:
    import pickle

    x = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3)).astype(np.uint8)
    y = [f"k{i % 8}" for i in range(24)]
    rows = {label: [i for i, own in enumerate(y) if own == label] for label in set(y)}
    value = {"image_data": x, "class_dict": rows} if "class_dict" in kind else {"x": x, "y": np.array(y)}
    path = tmp_path / f"data.{kind}"
    if kind.endswith("npz"):
        np.savez(path, **value)
    else:
        path.write_bytes(pickle.dumps(value))
    assert reader_for(str(path)).name == "arrays"
    source, _ = read_arrays(path)
    assert source.labels == tuple(f"k{k}" for k in range(8)) and source.feature_shape == (3, 16, 16)
    assert source.format == ImageFormat(16, 3, False)
    for k, own in enumerate(source.rows):
        np.testing.assert_array_equal(
            np.sort(source.inputs[own].reshape(3, -1), 0),
            np.sort(x[rows[f"k{k}"]].transpose(0, 3, 1, 2).reshape(3, -1), 0),
        )
    assert [len(part) for part in array_splits(path)] == [4, 2, 2]


def test_packed_arrays_by_part(tmp_path: Path) -> None:
    for part, start, count in (("train", 0, 4), ("val", 4, 2), ("test", 6, 2)):
        np.savez(
            tmp_path / f"mini-{part}.npz", x=np.zeros((2 * count, 5)), y=np.repeat(np.arange(start, start + count), 2)
        )
    assert [part.labels for part in array_splits(tmp_path)] == [("0", "1", "2", "3"), ("4", "5"), ("6", "7")]


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "evil.pkl"
    made = tmp_path / "made"
    path.write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % str(made).encode())
    with pytest.raises(UpstairsError, match=r"os\.system, which is not read"):
        read_arrays(path)
    assert not made.exists()
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(UpstairsError, match="cannot be read"):
        read_arrays(path)


def test_texts_are_found_by_the_same_resolver(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label in ("pos", "neg"):
            (tmp_path / "aclImdb" / part / label).mkdir(parents=True)
            (tmp_path / "aclImdb" / part / label / "0.txt").write_text(f"{part} {label}")
    with open_tree(tmp_path, NOTES) as tree:
        layout = find_layout(tree)
    assert [(one.label, len(one.names)) for one in layout.classes] == [("neg", 2), ("pos", 2)] and not layout.parts
    with open_tree(tmp_path, SOUNDS) as tree, pytest.raises(UpstairsError, match="holds no recordings"):
        find_layout(tree)
