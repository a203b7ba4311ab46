"""Glyphs: a data set without download, letters of many scripts drawn from matplotlib's fonts."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from upstairs.data.cache import memory_mapped
from upstairs.data.images.format import ImageFormat
from upstairs.data.images.warp import Warp
from upstairs.data.source import Source
from upstairs.data.splits import Splits, split_by_list
from upstairs.errors import UpstairsError

# The prefix of the Unicode names of a script's letters, and the script. Of two look-alikes the earlier in this order
# stays, so that no test letter has a twin in training. Unicode names three scripts Georgian.
TRAIN = {"LATIN": "Latin", "GREEK": "Greek", "CANADIAN SYLLABICS": "Canadian", "COPTIC": "Coptic", "LISU": "Lisu"}
VAL = {"CYRILLIC": "Cyrillic"}
TEST = {
    "ARMENIAN": "Armenian",
    "GEORGIAN LETTER": "Mkhedruli",
    "GEORGIAN CAPITAL LETTER": "Asomtavruli",
    "GEORGIAN SMALL LETTER": "Nuskhuri",
    "HEBREW": "Hebrew",
    "ARABIC": "Arabic",
    "LAO": "Lao",
    "OLD ITALIC": "Old Italic",
}
SCRIPTS = TRAIN | VAL | TEST

# A fixed list, so that new fonts in matplotlib change no class.
FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)  # fmt: skip

LEAST_FACES = 3  # the fewest different pictures of a letter
LEAST_ROWS = 20  # the fewest rows of a letter: enough for 5 shots and 15 queries
CODES = 0x11000  # above the highest code point, that of Old Italic
SIDE = 28  # the size at which letters are compared, so that classes do not depend on the size asked for
FILLED = 20 / 28  # the letter's longer side, as a share of the picture's side
SAME = 0.02  # two faces of a letter count as one below this (see `_difference`)
ALIKE = 0.04  # as SAME, for two letters of a face; a bar across a letter still distinguishes it
ALIKE_KIN = 0.25  # as ALIKE, for capital, small and small capital, whose strokes differ in width at one size
KIN_SHARE = 0.4  # a letter that looks like its kin in this share of its faces is left out
REVISION = 2  # raise it when drawing or selection changes


def glyphs(*, size: int = 28, progress: Callable[[int, int], None] | None = None) -> Splits:
    """Returns letters of fourteen scripts, each in 3 to 16 typefaces of DejaVu and STIX, which matplotlib installs.

    Classes are letters, groups are scripts, and splits share no script: 5 for training (Latin, Greek, Canadian
    syllabics and the distinct letters of Coptic and Lisu), Cyrillic for validation, 8 for test. Composed and
    compatibility letters are left out, and letters that look like an earlier one in the same face.

    Every example is warped anew each time it is drawn (see `Warp`), in all three splits. A letter repeats its faces
    until it has 20 rows, so a face may occur in both support and query of a task, under two warps. At 1 shot and 15
    queries this affects 2% of the queries of a letter with 16 faces, 4% with 12, 8% with 8, 21% with 4 and 30% with 3.
    It raises nearest centroid on raw pixels by 3 points for letters with 4 faces, and not measurably with 6 or more.

    The first call takes some seconds; later ones open the cache.

    Args:
        size: pixels along each side, 8 to 256; it does not change the classes.
        progress: called with (steps done, all steps) while the letters are drawn.

    Returns:
        Three sources with inputs uint8 [rows, 1, size, size], background 0, ink 255, in one shared memory-mapped file.

    Raises:
        UpstairsError: a size out of range, missing fonts, or a cache folder that cannot be written.
    """
    if not 8 <= size <= 256:
        raise UpstairsError(f"glyphs are asked for at `size` {size}: give a size from 8 to 256 pixels")
    made_by = f"{version('matplotlib')} {version('pillow')} {unicodedata.unidata_version}"
    half, steps = len(FACES), 2 * len(FACES)
    report = progress or (lambda done, total: None)
    chosen = memory_mapped(
        f"glyphs chosen {REVISION} {made_by}", lambda: _choose(lambda done: report(done, steps)), (len(FACES), CODES)
    )
    letters = _in_order(chr(code) for code in np.flatnonzero(chosen.any(0)))
    faces = [np.flatnonzero(chosen[:, ord(letter)]) for letter in letters]
    counts = [len(own) for own in faces]
    ends = np.cumsum(counts).tolist()
    inputs = memory_mapped(
        f"glyphs drawn {REVISION} {made_by}", lambda: _draw_all(letters, faces, size), (ends[-1], 1, size, size),
        progress=lambda done, total: report(half + half * done // total, steps),
    )  # fmt: skip
    source = Source(
        "glyphs", inputs, tuple(_label(letter) for letter in letters),
        tuple(np.resize(np.arange(end - n, end), max(n, LEAST_ROWS)) for n, end in zip(counts, ends, strict=True)),
        groups=tuple(_script(letter) for letter in letters), augment=Warp(), format=ImageFormat(size, 1, ink=True),
    )  # fmt: skip
    parts = ([i for i, g in enumerate(source.groups) if g in part.values()] for part in (TRAIN, VAL, TEST))
    return split_by_list(source, *parts)


def _beginning(letter: str) -> str:
    """Returns the prefix of the letter's name that tells its script, or ''."""
    name = unicodedata.name(letter, "")
    return next((beginning for beginning in SCRIPTS if name.startswith(beginning + " ")), "")


def _script(letter: str) -> str:
    return SCRIPTS[_beginning(letter)]


def _label(letter: str) -> str:
    """Returns a readable name: 'Armenian small ayb' for 'ARMENIAN SMALL LETTER AYB'."""
    rest = unicodedata.name(letter).removeprefix(_beginning(letter)).lower().split()
    return " ".join((_script(letter), *(word for word in rest if word != "letter")))


def _kin(letter: str) -> str:
    """Returns a name that a letter's capital, small and small capital share."""
    return " ".join(word for word in _label(letter).split() if word not in ("capital", "small"))


def _in_order(letters: Iterable[str]) -> list[str]:
    order = {beginning: place for place, beginning in enumerate(SCRIPTS)}
    return sorted(letters, key=lambda letter: (order[_beginning(letter)], letter))


def _is_wanted(letter: str) -> bool:
    category = unicodedata.category(letter)
    composed = unicodedata.normalize("NFKD", letter) != letter
    return category.startswith("L") and category != "Lm" and not composed and bool(_beginning(letter))


def _face(name: str) -> Path:
    import matplotlib  # late, since it takes a third of a second

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    if not path.is_file():
        raise UpstairsError(f"glyphs are drawn from matplotlib's fonts and {path} is missing: reinstall it with pip")
    return path


def _characters(name: str) -> list[str]:
    """Returns the characters of a face."""
    from fontTools.ttLib import TTFont

    with TTFont(_face(name), lazy=True) as font:
        return [chr(code) for code, glyph in (font.getBestCmap() or {}).items() if glyph != ".notdef" and code < CODES]


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    # drawn five times too large; basic layout is in every build of pillow
    return ImageFont.truetype(_face(name), 5 * size, layout_engine=ImageFont.Layout.BASIC)


def _draw(letter: str, font: ImageFont.FreeTypeFont, size: int) -> UInt8[np.ndarray, "size size"]:
    """Draws the letter centred and at one size; zeros if it has no ink."""
    left, top, right, bottom = (int(edge) for edge in font.getbbox(letter))
    square = Image.new("L", (size, size))
    large = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(large).text((-left, -top), letter, fill=255, font=font)
    if box := large.getbbox():
        width, height = box[2] - box[0], box[3] - box[1]
        scale = FILLED * size / max(width, height)
        fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
        place = ((size - fitted[0]) // 2, (size - fitted[1]) // 2)
        square.paste(large.resize(fitted, Image.Resampling.HAMMING, box=box), place)
    return np.asarray(square)


def _draw_all(letters: list[str], faces: list[np.ndarray], size: int) -> Iterator[UInt8[np.ndarray, "1 size size"]]:
    fonts, pairs = [_font(name, size) for name in FACES], zip(letters, faces, strict=True)
    return (_draw(letter, fonts[face], size)[None] for letter, own in pairs for face in own)


def _difference(pictures: UInt8[np.ndarray, "n s s"]) -> Float[np.ndarray, "n n"]:
    """Returns squared distances over the products of the norms: 0 for equal pictures, 2 for disjoint ink."""
    # 6 bits a pixel: sums stay below 2**24 and are exact in float32 on any machine
    flat = (pictures.reshape(len(pictures), -1) >> 2).astype(np.float32)
    products = (flat @ flat.T).astype(np.float64)
    squares = products.diagonal()
    return (squares[:, None] + squares - 2 * products) / np.sqrt(squares[:, None] * squares)


def _any_earlier(alike: Bool[np.ndarray, "n n"]) -> Bool[np.ndarray, " n"]:
    return np.array([row[:place].any() for place, row in enumerate(alike)])


def _choose(report: Callable[[int], None]) -> UInt8[np.ndarray, "faces codes"]:
    """Returns 1 for each face and letter whose picture is kept."""
    characters = [_characters(name) for name in FACES]
    often = Counter(letter for own in characters for letter in own)
    candidates = {letter for letter, count in often.items() if count > LEAST_FACES and _is_wanted(letter)}
    kept: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    like_kin: Counter[str] = Counter()
    for face, name in enumerate(FACES):
        font = _font(name, SIDE)
        drawn = {letter: _draw(letter, font, SIDE) for letter in _in_order(candidates.intersection(characters[face]))}
        drawn = {letter: picture for letter, picture in drawn.items() if picture.any()}
        kin = np.unique([_kin(letter) for letter in drawn], return_inverse=True)[1]
        difference = _difference(np.stack(list(drawn.values())))
        twin = _any_earlier((difference < ALIKE_KIN) & (kin[:, None] == kin))
        old = _any_earlier(difference < ALIKE) | twin
        for place, (letter, picture) in enumerate(drawn.items()):
            like_kin[letter] += int(twin[place])
            if not old[place]:
                kept[letter][face] = picture
        report(face + 1)
    return _distinct({letter: own for letter, own in kept.items() if like_kin[letter] < KIN_SHARE * often[letter]})


def _distinct(kept: dict[str, dict[int, np.ndarray]]) -> UInt8[np.ndarray, "faces codes"]:
    """Removes pictures that two faces or two letters share, and then letters with too few faces."""
    chosen, seen = np.zeros((len(FACES), CODES), np.uint8), set()
    for letter in _in_order(kept):
        own = {face: picture for face, picture in kept[letter].items() if picture.tobytes() not in seen}
        if not own:
            continue
        again = _any_earlier(_difference(np.stack(list(own.values()))) < SAME)
        own = {face: own[face] for face, repeated in zip(list(own), again, strict=True) if not repeated}
        if len(own) >= LEAST_FACES:
            chosen[list(own), ord(letter)] = 1
            seen.update(picture.tobytes() for picture in own.values())
    return chosen
