"""Generation of pictures of new classes from a folder of examples."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from upstairs.console import counting, tell_user
from upstairs.data.files import PICTURES
from upstairs.data.images.folders import files_by_class
from upstairs.data.images.format import ImageFormat
from upstairs.errors import UpstairsError
from upstairs.experiments.report.figures import to_image, to_png
from upstairs.storage import write_atomically
from upstairs.training.run import load

Pictures = Sequence[np.ndarray]
SHOWN = 10  # support examples, and generated ones, of each class on the sheet
LEAST = 56  # side of one picture on the sheet, in pixels


def generate_folder(
    path: Path, *, support: Path, out: Path, count: int = 20, seed: int = 0, quiet: bool = False
) -> Path:
    """Generates `count` pictures of each class of a folder as out/class/number.png; returns the path of out/sheet.png.

    Raises:
        UpstairsError: the run does not generate pictures, a support picture cannot be read, or `out` is not empty.
    """
    run = load(path)
    run.generator(count)
    if not isinstance(run.inputs.format, ImageFormat):
        raise UpstairsError(f"{path} was not trained on pictures: write upstairs.load({str(path)!r}).generate(...)")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UpstairsError(f"{out} holds something already, and nothing is written over: choose another `out`")
    classes = classes_in(support)
    rows = {}
    with counting("generating", quiet=quiet) as progress:
        for done, (label, files) in enumerate(classes.items()):
            made = run.generate({label: files}, count=count, seed=seed)[label]
            rows[label] = (list(run.inputs.read(files[:SHOWN]).numpy()), list(made[:SHOWN]))
            for number, pixels in enumerate(made):
                write_atomically(out / label / f"{number:0{len(str(count - 1))}d}.png", to_png(to_image(pixels)))
            if progress:
                progress(done + 1, len(classes))
    write_atomically(out / "sheet.png", to_png(make_sheet(rows)))
    if not quiet:
        tell_user(f"{out}: {count} pictures of each of {len(rows)} classes; look at {out / 'sheet.png'} first")
    return out / "sheet.png"


def classes_in(folder: Path) -> dict[str, list[Path | bytes]]:
    """Returns the pictures of a folder by class: class/file, or files of one class, named as the folder; or of a file.

    Raises:
        UpstairsError: there is no such folder, or it has no pictures.
    """
    if folder.is_file() and folder.name in PICTURES:
        return {folder.stem: [folder]}
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    own = [file for file in inside if file.name in PICTURES]
    if own and not any(child.is_dir() and not child.name.startswith(".") for child in inside):
        return {folder.resolve().name: list[Path | bytes](own)}
    return files_by_class(folder)


def make_sheet(rows: Mapping[str, tuple[Pictures, Pictures]]) -> Image.Image:
    """Draws a row for each class: its support examples, a line, and the generated pictures."""
    side = next(iter(rows.values()))[0][0].shape[-1]
    cell = side * max(1, -(-LEAST // side)) + 6
    left, right = (max(len(row[part]) for row in rows.values()) for part in (0, 1))
    sheet = Image.new("RGB", (cell * (left + right) + 12, cell * len(rows)), "white")
    for y, (shown, made) in enumerate(rows.values()):
        for x, pixels in [*enumerate(shown), *((left + k, p) for k, p in enumerate(made))]:
            picture = to_image(pixels).resize((cell - 6, cell - 6), Image.Resampling.NEAREST)
            sheet.paste(picture, (cell * x + 3 + 12 * (x >= left), cell * y + 3))
    sheet.paste((128, 128, 128), (cell * left + 4, 0, cell * left + 6, sheet.height))
    return sheet
