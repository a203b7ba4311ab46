"""Pictures of every kind come out alike, and what is no picture is refused by name."""

import io
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from upstairs.data.images.format import ImageFormat, read_picture
from upstairs.errors import UpstairsError

INK = ImageFormat(28, 1, ink=True)
GREY = ImageFormat(16, 1, ink=False)
COLOUR = ImageFormat(16, 3, ink=False)


def drawing(width: int = 56, height: int = 56) -> Image.Image:
    """A black L on white: no symmetry, so that a turn shows."""
    picture = Image.new("L", (width, height), 255)
    pen = ImageDraw.Draw(picture)
    pen.line([(14, 10), (14, 44)], fill=0, width=5)
    pen.line([(14, 44), (30, 44)], fill=0, width=5)
    return picture


def encode(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def with_alpha(colour: int) -> Image.Image:
    """The L in one colour on nothing; the hidden colour of the nothing is the same."""
    alpha = Image.eval(drawing(), lambda value: 255 - value)
    return Image.merge("LA", (Image.new("L", alpha.size, colour), alpha))


def palette_with_transparency() -> bytes:
    picture = drawing().point(lambda value: value // 255).convert("P")
    picture.putpalette([10, 10, 10, 0, 0, 0])
    return encode(picture, transparency=1)


SAME_DRAWING = {
    "black on white": lambda: drawing(),
    "white on black": lambda: Image.eval(drawing(), lambda value: 255 - value),
    "one bit": lambda: drawing().convert("1"),
    "colour": lambda: drawing().convert("RGB"),
    "palette": lambda: drawing().convert("P"),
    "CMYK": lambda: drawing().convert("RGB").convert("CMYK"),
    "black on nothing": lambda: with_alpha(0),
    "white on nothing": lambda: with_alpha(255),
    "black on nothing, RGBA file": lambda: encode(with_alpha(0).convert("RGBA")),
    "palette with a transparent colour": palette_with_transparency,
    "16 bits": lambda: encode(Image.fromarray(np.asarray(drawing()).astype(np.uint16) * 257)),
    "32-bit integers": lambda: Image.fromarray(np.asarray(drawing()).astype(np.int32) * 257),
    "floating TIFF": lambda: encode(Image.fromarray(np.asarray(drawing()).astype(np.float32) / 255), "TIFF"),
    "CMYK TIFF": lambda: encode(drawing().convert("RGB").convert("CMYK"), "TIFF"),
    "GIF": lambda: encode(drawing(), "GIF"),
    "BMP": lambda: encode(drawing(), "BMP"),
    "WebP": lambda: encode(drawing().convert("RGB"), "WEBP", lossless=True),
    "PGM": lambda: encode(drawing(), "PPM"),
    "grey on grey": lambda: drawing().point(lambda value: 90 + value // 2),
    "array": lambda: np.asarray(drawing()),
    "float array": lambda: np.asarray(drawing()) / 255,
    "bool array": lambda: np.asarray(drawing()) > 127,
    "[h, w, 3]": lambda: np.repeat(np.asarray(drawing())[:, :, None], 3, axis=2),
    "[3, h, w] tensor": lambda: torch.from_numpy(np.asarray(drawing()).copy())[None].expand(3, -1, -1),
    "[h, w, 1] int64": lambda: np.asarray(drawing()).astype(np.int64)[:, :, None],
    "turned by EXIF": lambda: encode(drawing().transpose(Image.Transpose.ROTATE_90), "TIFF", exif=exif_orientation(6)),
}


def exif_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("kind", SAME_DRAWING)
def test_the_same_drawing_in_any_form_is_the_same_row(kind: str) -> None:
    row = INK.read(SAME_DRAWING[kind]())
    assert row.shape == (1, 28, 28)
    assert row.dtype == np.uint8
    assert np.abs(row.astype(int) - INK.read(drawing()).astype(int)).max() <= 2


def test_ink_is_255_on_0() -> None:
    row = INK.read(drawing())[0]
    assert row.max() == 255
    assert (row == 0).mean() > 0.8
    assert row[10:20, 7].min() > 200  # the upright of the L
    assert row[10:18, 12:].max() == 0  # and nothing to the right of it


def test_strokes_that_touch_the_border_do_not_turn_the_picture() -> None:
    picture = drawing()
    ImageDraw.Draw(picture).line([(0, 0), (55, 0), (55, 20)], fill=0, width=3)
    assert (INK.read(picture) == 0).mean() > 0.7


def test_a_blank_page_stays_blank() -> None:
    noise = np.random.default_rng(0).integers(240, 256, (60, 60)).astype(np.uint8)
    assert INK.read(noise).max() < FAINT
    assert INK.read(np.full((5, 5), 255, np.uint8)).max() == 0


FAINT = 20


def test_a_thin_stroke_survives_a_small_size() -> None:
    picture = Image.new("L", (280, 280), 255)
    ImageDraw.Draw(picture).line([(60, 40), (60, 240)], fill=0, width=6)
    assert INK.read(picture)[0, 10:20].max(axis=1).min() > 80


def test_ink_is_padded_and_a_photo_is_cropped() -> None:
    wide = Image.new("L", (80, 20), 255)
    ImageDraw.Draw(wide).rectangle([2, 2, 77, 17], fill=0)
    row = INK.read(wide)[0]
    assert row[:10].max() == 0 and row[18:].max() == 0  # the padding is background
    assert row[14, 1:27].min() > 200  # and the whole of the width is there
    photo = np.zeros((20, 60, 3), np.uint8)
    photo[:, 20:40] = (200, 100, 50)
    assert (COLOUR.read(photo) == np.array([200, 100, 50], np.uint8)[:, None, None]).all()


def test_a_photo_keeps_its_tones() -> None:
    light = np.full((32, 32), 230, np.uint8)
    light[8:24, 8:24] = 130
    row = GREY.read(light)
    assert row[0, 0, 0] == 230 and row[0, 8, 8] == 130
    assert GREY.read(np.full((3, 4, 4), 0.5)).tolist() == np.full((1, 16, 16), 128).tolist()


def test_16_bits_of_a_photo() -> None:
    tones = np.arange(256, dtype=np.uint16).reshape(16, 16)
    np.testing.assert_array_equal(GREY.read(encode(Image.fromarray(tones * 257)))[0], tones)
    np.testing.assert_array_equal(GREY.read(Image.fromarray((tones / 255).astype(np.float32)))[0], tones)


def test_shapes_of_every_format() -> None:
    for size in (1, 5, 64):
        for channels in (1, 3):
            for ink in (True, False):
                row = ImageFormat(size, channels, ink).read(drawing(40, 60))
                assert row.shape == (channels, size, size) and row.dtype == np.uint8 and row.flags.c_contiguous


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (1, 1)])
def test_extreme_shapes(shape: tuple[int, int]) -> None:
    for format in (INK, GREY):
        assert format.read(np.zeros(shape, np.uint8)).shape == (1, format.size, format.size)


def test_exif_turns_a_photo(tmp_path: Path) -> None:
    photo = Image.new("RGB", (64, 64), "red")
    photo.paste("blue", (0, 0, 64, 32))  # blue above red
    path = tmp_path / "photo.jpg"
    photo.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif_orientation(6), quality=95)
    row = COLOUR.read(path)
    assert row[2, 2].min() > 200 and row[0, 13].min() > 200


def test_a_large_jpeg_is_read_well_when_decoded_small() -> None:
    ramp = Image.linear_gradient("L").resize((1600, 1600))
    row = GREY.read(encode(ramp, "JPEG", quality=95))
    assert np.abs(row[0].mean(1) - (np.arange(16) + 0.5) * 16).max() < 3
    assert read_picture(encode(ramp, "JPEG"), least=300).size == (400, 400)
    lines = np.tile(np.repeat(np.array([0, 255], np.uint8), 200), 4)  # two pixels for each in the result
    striped = GREY.read(encode(Image.fromarray(np.tile(lines, (1600, 1))), "JPEG", quality=95))[0]
    assert striped.reshape(16, 4, 4)[:, :, 2:].min() > 220 and striped.reshape(16, 4, 4)[:, :, :2].max() < 35


def test_json_round_trip() -> None:
    for format in (INK, COLOUR):
        assert ImageFormat.from_json(format.to_json()) == format
    with pytest.raises(UpstairsError, match="needs kind 'image'"):
        ImageFormat.from_json({"kind": "sound", "size": 3})


@pytest.mark.parametrize(("size", "channels"), [(0, 1), (5000, 1), (28, 2)])
def test_impossible_formats(size: int, channels: int) -> None:
    with pytest.raises(UpstairsError, match=r"`size`|`channels`"):
        ImageFormat(size, channels, ink=True)


MODES = [
    "1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "LA", "La", "PA", "RGBX", "RGBa", "I;16", "I;16L",
    "I;16B",
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_in_any_mode_is_read(mode: str) -> None:
    picture = read_picture(Image.new(mode, (8, 8)))
    assert picture.mode in ("L", "RGB") and picture.size == (8, 8)


def test_a_faint_picture_on_premultiplied_alpha_is_read_as_any_other() -> None:
    grey, alpha = drawing(), Image.eval(drawing(), lambda value: 255 - value)
    plain = Image.merge("LA", (grey, alpha))
    assert (INK.read(plain.convert("La")) == INK.read(plain)).all()


def test_a_mode_that_cannot_be_converted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(*_: object) -> None:
        raise ValueError("conversion from LAB to RGB not supported")  # as some versions of pillow do

    monkeypatch.setattr(Image.Image, "convert", convert)
    with pytest.raises(UpstairsError, match=r"colours\.tif is a picture of mode LAB, which is not read.*: save it as"):
        read_picture(Image.new("LAB", (8, 8)), name="colours.tif")


def bomb() -> bytes:
    """A PNG whose header promises 20,000 x 20,000 pixels."""
    png = bytearray(encode(Image.new("L", (1, 1))))
    png[16:24] = (20_000).to_bytes(4) * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4)
    return bytes(png)


def middling_bomb() -> bytes:
    """100 million pixels: pillow by itself would warn of this one and decode it."""
    png = bytearray(bomb())
    png[16:24] = (10_000).to_bytes(4) * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4)
    return bytes(png)


NO_PICTURE = {
    "text": (b"not a picture at all\n" * 20, "no picture that can be read"),
    "empty": (b"", r"is empty \(0 bytes\)"),
    "header alone": (encode(drawing())[:40], "broken or truncated|no picture"),
    "bomb": (bomb(), "more than 64 million pixels"),
    "middling bomb": (middling_bomb(), "more than 64 million pixels"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "no picture"),
}


@pytest.mark.parametrize("kind", NO_PICTURE)
@pytest.mark.parametrize("as_file", [True, False])
def test_no_picture_is_refused_by_name(kind: str, as_file: bool, tmp_path: Path) -> None:
    content, message = NO_PICTURE[kind]
    path = tmp_path / "wrong.png"
    path.write_bytes(content)
    with pytest.raises(UpstairsError, match=message) as raised:
        INK.read(path if as_file else content, name=None if as_file else "wrong.png")
    assert "wrong.png" in str(raised.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    whole = encode(Image.fromarray(noise), kind)
    COLOUR.read(whole)
    with pytest.raises(UpstairsError, match=r"truncated|no picture"):
        COLOUR.read(whole[: int(len(whole) * share)], name="cut")


def test_a_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    whole = encode(Image.fromarray(noise), "JPEG", progressive=True)
    with pytest.raises(UpstairsError, match="truncated"):
        COLOUR.read(whole[:-200])


def test_random_damage_is_an_error_or_a_picture_and_nothing_else() -> None:
    generator = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"):
        whole = np.frombuffer(encode(drawing().convert("RGB"), kind), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            damaged[generator.integers(0, len(damaged), 4)] = generator.integers(0, 256, 4)
            try:
                assert COLOUR.read(damaged.tobytes()).shape == (3, 16, 16)
            except UpstairsError as error:
                assert "the picture" in str(error)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UpstairsError, match=r"none\.png does not exist"):
        INK.read(tmp_path / "none.png")
    with pytest.raises(UpstairsError, match=r"is a folder"):
        INK.read(str(tmp_path))
    with pytest.raises(UpstairsError, match=r"does not exist|cannot be read"):
        INK.read("null\0character.png")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"shape \[4, 4, 2\]"),
        (np.zeros(9, np.uint8), r"shape \[9\]"),
        (np.zeros((2, 3, 4, 4), np.uint8), r"shape \[2, 3, 4, 4\]"),
        (np.zeros((0, 4), np.uint8), r"shape \[0, 4\]"),
        (np.full((4, 4), 7.0), "outside 0 to 1"),
        (np.full((4, 4), np.nan), "outside 0 to 1"),
        (np.full((4, 4), 300), "outside 0 to 255"),
        (np.full((4, 4), -1), "outside 0 to 255"),
        (np.full((4, 4), "a"), "<U1"),
    ],
)
def test_arrays_that_are_no_pictures(array: np.ndarray, message: str) -> None:
    with pytest.raises(UpstairsError, match=message):
        INK.read(array)


def test_other_things() -> None:
    with pytest.raises(UpstairsError, match="is a dict: give a path"):
        INK.read({})
    with pytest.raises(UpstairsError, match="0 x 0 pixels"):
        INK.read(Image.new("L", (0, 0)))


def test_a_given_image_is_not_changed() -> None:
    picture = drawing().convert("RGBA")
    before = picture.tobytes()
    INK.read(picture)
    assert picture.tobytes() == before and picture.mode == "RGBA"


def test_warning_filters_survive_threads() -> None:
    before, interval = list(warnings.filters), sys.getswitchinterval()
    content = encode(drawing())
    threads = [threading.Thread(target=lambda: [read_picture(content) for _ in range(50)]) for _ in range(8)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert warnings.filters == before
