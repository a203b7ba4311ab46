"""Pictures without download: symbols of matplotlib's font in colour, as if photographed, for a demo."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from upstairs.storage import write_atomically

SYMBOLS = {
    "telephone": "☎", "plane": "✈", "umbrella": "☂", "knight": "♞", "snowman": "☃", "anchor": "⚓", "scissors": "✂",
    "cup": "☕", "envelope": "✉", "sun": "☀", "cloud": "☁", "heart": "♥", "music": "♫", "gear": "⚙", "skull": "☠",
    "scales": "⚖", "snowflake": "❄", "flower": "❀", "shamrock": "☘", "swords": "⚔",
}  # fmt: skip
FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono")
SIDE = 160  # pixels


def draw_symbols(folder: Path, *, each: int, seed: int = 0, classes: int = 10) -> Path:
    """Writes a folder of JPEG files for each symbol, `each` pictures of it, and returns `folder`.

    Typeface, size, place, angle, colours, light and noise are drawn at random. Files that exist stay.
    """
    for number, (name, symbol) in enumerate([*SYMBOLS.items()][:classes]):
        for place in range(each):
            path = folder / name / f"{place:02}.jpg"
            if not path.is_file():
                rng = np.random.default_rng([seed, number, place])
                write_atomically(path, _jpeg(_picture(symbol, rng)))
    return folder


def _picture(symbol: str, rng: np.random.Generator) -> Image.Image:
    import matplotlib  # late, since it takes a third of a second

    face = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{rng.choice(FACES)}.ttf"
    ink = Image.new("L", (SIDE, SIDE), 0)
    font = ImageFont.truetype(face, int(rng.uniform(0.5, 0.95) * SIDE))
    where = tuple(SIDE / 2 + rng.uniform(-0.1, 0.1, 2) * SIDE)
    ImageDraw.Draw(ink).text(where, symbol, fill=255, font=font, anchor="mm")
    ink = ink.rotate(rng.uniform(-25, 25), Image.Resampling.BICUBIC)
    ink = ink.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    share = np.asarray(ink, np.float32)[..., None] / 255
    back, front = rng.uniform(0, 255, (2, 3))
    while np.abs(back - front).mean() < 70:  # the symbol must be seen
        back, front = rng.uniform(0, 255, (2, 3))
    light = np.linspace(rng.uniform(0.6, 1), rng.uniform(0.6, 1), SIDE)[:, None, None]
    pixels = (back * (1 - share) + front * share) * light + rng.normal(0, rng.uniform(2, 12), (SIDE, SIDE, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _jpeg(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    return stream.getvalue()
