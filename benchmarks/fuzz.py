# ruff: noqa: T201
"""Damaged files, given to every reader: each must answer, or refuse in a sentence, within 10 seconds and 1 GiB.

python benchmarks/fuzz.py [--minutes 30] [--readers pictures,sounds,...] [--out build/fuzz] [--seed 0]

A reader has a process of its own, all of them run at once. Whole files (made here, of every kind that the reader takes)
are damaged: bytes are flipped, set to extreme values, cut out, repeated, moved in from another file, or the end is
missing. Anything but an `UpstairsError` is a find: another exception, a death of the process, 10 seconds of a core, or
1 GiB more than the process had. The file of each find is kept in OUT/READER, with a line in OUT/READER.txt.
"""

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS, MEMORY = 10, 2**30
EXTREMES = [bytes([b]) * n for b in (0, 0x7F, 0x80, 0xFF) for n in (1, 2, 4, 8)] + [
    b'"',
    b"\n",
    b"\t",
    b"{",
    b"[",
    b",",
]


def damaged(whole: bytes, other: bytes, dice: random.Random) -> bytes:
    """Returns the content with one to eight damages."""
    data = bytearray(whole)
    for _ in range(dice.choice((1, 1, 2, 4, 8))):
        if not data:
            break
        at, size = dice.randrange(len(data)), dice.choice((1, 4, 16, 256))
        if dice.random() < 0.4:  # headers are near the beginning
            at = min(at, dice.randrange(64))
        kind = dice.randrange(7)
        if kind == 0:
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            extreme = dice.choice(EXTREMES)
            data[at : at + len(extreme)] = extreme
        elif kind == 2:
            del data[at : at + size]
        elif kind == 3:
            data[at:at] = data[at : at + size] * dice.choice((1, 2, 50))
        elif kind == 4 and other:
            start = dice.randrange(len(other))
            data[at : at + size] = other[start : start + size]
        elif kind == 5:
            data[at : at + size] = dice.randbytes(size)
        else:
            del data[at:]
    return bytes(data)


def pictures() -> dict[str, bytes]:
    """A small picture in every format and mode."""
    import numpy as np
    from PIL import Image

    found = {}
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 4), np.uint8)
    kinds = {
        "png": ["L", "RGB", "RGBA", "P", "I;16", "1"], "jpg": ["L", "RGB", "CMYK"], "bmp": ["RGB", "P"],
        "gif": ["P"], "webp": ["RGB", "RGBA"], "tif": ["L", "RGB", "I;16", "F", "I"], "ppm": ["RGB"], "pgm": ["L"],
    }  # fmt: skip
    for ending, modes in kinds.items():
        for mode in modes:
            deep = {"I;16": np.uint16, "F": np.float32, "I": np.int32}.get(mode)
            picture = Image.fromarray(pixels).convert("RGB" if mode != "RGBA" else mode)
            picture = Image.fromarray(pixels[..., 0].astype(deep)) if deep else picture.convert(mode)
            out = io.BytesIO()
            name = {"jpg": "jpeg", "tif": "tiff", "pgm": "ppm"}.get(ending, ending)
            picture.save(out, name, **({"exif": Image.Exif()} if ending == "jpg" else {}))
            found[f"{mode.replace(';', '')}.{ending}"] = out.getvalue()
    return found


def sounds() -> dict[str, bytes]:
    import numpy as np
    import soundfile

    tone, found = np.sin(np.arange(4000) / 9).astype(np.float32), {}
    for ending, kinds in {"aiff": ["PCM_24"], "wav": ["PCM_16", "FLOAT", "ULAW", "IMA_ADPCM"], 
                          "flac": ["PCM_16"], "ogg": ["VORBIS", "OPUS"],
                          "mp3": [None]}.items():  # fmt: skip
        for kind in kinds:
            out = io.BytesIO()
            soundfile.write(out, tone, 16000 if kind == "OPUS" else 11025, kind, format=ending.upper())
            found[f"{kind}.{ending}"] = out.getvalue()
    return found


def tables() -> dict[str, bytes]:
    rows = [(f"the text number {i}, said {'twice' if i % 2 else 'once'}", "abcd"[i % 4]) for i in range(24)]
    records = [{"text": text, "label": label} for text, label in rows]
    lines = ["text,label", *(f'"{text}",{label}' for text, label in rows)]
    found = {
        "a.csv": "\n".join(lines).encode(),
        "bom.csv": "\n".join(lines).encode("utf-8-sig"),
        "wide.csv": "\n".join(lines).encode("utf-16"),
        "old.csv": "\n".join(lines).replace("text", "täxt").replace("täxt,", "text,", 1).encode("cp1252"),
        "semicolons.csv": "\n".join(["text;label", *(f"{text};{label}" for text, label in rows)]).encode(),
        "a.tsv": "\n".join(["text\tlabel", *("\t".join(row) for row in rows)]).encode(),
        "a.jsonl": "\n".join(map(json.dumps, records)).encode(),
        "records.json": json.dumps(records).encode(),
        "pairs.json": json.dumps(rows).encode(),
        "columns.json": json.dumps({"text": {i: t for i, (t, _) in enumerate(rows)},
                                    "label": {i: y for i, (_, y) in enumerate(rows)}}).encode(),
    }  # fmt: skip
    for ending, module in (("xlsx", "openpyxl"), ("parquet", "pyarrow")):
        try:
            __import__(module)
        except ImportError:
            continue
        out = io.BytesIO()
        if ending == "xlsx":
            import openpyxl

            book = openpyxl.Workbook()
            for row in [("text", "label"), *rows]:
                book.active.append(row)
            book.save(out)
        else:
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.Table.from_pylist(records), out)
        found[f"a.{ending}"] = out.getvalue()
    return found


def numbers() -> dict[str, bytes]:
    """Tables of regression tasks."""
    dice = random.Random(0)
    rows = [f"{'abcdef'[i % 6]},{dice.random():.3f},{dice.random():.3f},{dice.random():.3f}" for i in range(72)]
    return {"cities.csv": "\n".join(["city,temp,hour,load", *rows]).encode()}


def archives() -> dict[str, bytes]:
    import tarfile

    some, found = pictures(), {}
    names = {f"data/{c}/{i}.png": some["RGB.png"] for c in "abcd" for i in range(3)}
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", kind) as archive:
            for name, content in names.items():
                archive.writestr(name, content)
        found[f"{kind}.zip"] = out.getvalue()
    for mode, ending in (("w", "tar"), ("w:gz", "tar.gz")):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode) as archive:
            for name, content in names.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        found[f"a.{ending}"] = out.getvalue()
    return found


def arrays() -> dict[str, bytes]:
    import pickle

    import numpy as np

    x = np.random.default_rng(0).random((24, 3, 6, 6)).astype(np.float32)
    y = np.arange(24) % 4
    found = {}
    for name, content in {"one.npz": {"x": x, "y": y}, "packed.npz": {"image_data": x, "labels": y}}.items():
        out = io.BytesIO()
        np.savez_compressed(out, **content)
        found[name] = out.getvalue()
    bytes_of = (255 * x.transpose(0, 2, 3, 1)).astype(np.uint8)
    found["mini.pkl"] = pickle.dumps(
        {"image_data": bytes_of, "class_dict": {c: [*range(i, 24, 4)] for i, c in enumerate("abcd")}}
    )
    return found


def checkpoints() -> dict[str, bytes]:
    import numpy as np

    import upstairs
    from upstairs.data.source import Source
    from upstairs.data.splits import split_by_ratio

    x = np.random.default_rng(0).integers(0, 255, (120, 1, 16, 16), np.uint8)
    data = split_by_ratio(Source.from_arrays(x, np.arange(120) % 12))
    with tempfile.TemporaryDirectory() as folder:
        run = upstairs.train(
            "protonet", data=data, out=f"{folder}/run", steps=2, tasks=1, width=4, validations=1,
            validation_tasks=2, quiet=True,
        )  # fmt: skip
        model = run.adapt((list(x[:4]), ["a", "a", "b", "b"])).save(Path(folder) / "model.safetensors")
        return {"run": (Path(folder) / "run/last.safetensors").read_bytes(), "model.safetensors": model.read_bytes()}


def read_picture(path: Path) -> None:
    from upstairs.data.images.format import ImageFormat

    ImageFormat(28, 3, False).read(path)


def read_sound(path: Path) -> None:
    from upstairs.data.audio.format import AudioFormat

    AudioFormat(1.0).read(path)


def open_any(path: Path, **options: Any) -> None:
    """Opens the file as `upstairs train --data FILE` does."""
    from upstairs.data.open import open_splits
    from upstairs.settings import DataOptions

    open_splits(DataOptions(data=str(path), **options), quiet=True)


def read_table(path: Path) -> None:
    from upstairs.data.text.tables import texts_of

    open_any(path)
    texts_of(path)


def read_numbers(path: Path) -> None:
    open_any(path, target="load")


def load_file(path: Path) -> None:
    import upstairs

    if path.suffix:
        upstairs.load_adapted(path)
        return
    run = path.with_name("folder")
    run.mkdir(exist_ok=True)
    (run / "last.safetensors").write_bytes(path.read_bytes())
    upstairs.load(run)


READERS: dict[str, tuple[Callable[[], dict[str, bytes]], Callable[[Path], None]]] = {
    "pictures": (pictures, read_picture), "sounds": (sounds, read_sound), "tables": (tables, read_table),
    "numbers": (numbers, read_numbers), "archives": (archives, open_any), "arrays": (arrays, open_any),
    "checkpoints": (checkpoints, load_file),
}  # fmt: skip


class Slow(BaseException):
    """The reader took longer than `SECONDS`."""


def work(name: str, minutes: float, out: Path, seed: int) -> None:
    """Runs one reader on damaged files until the time is over; a find is a line of json on standard output."""
    import resource

    import torch

    from upstairs.errors import UpstairsError

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    make, read = READERS[name]
    whole, dice = make(), random.Random(seed)
    out.mkdir(parents=True, exist_ok=True)
    os.environ["UPSTAIRS_CACHE"] = tempfile.mkdtemp(prefix="fuzz-cache-")
    for key, content in whole.items():  # each is read as it is, which also imports what is imported late
        (out / key).write_bytes(content)
        try:
            read(out / key)
        except UpstairsError as error:
            print(json.dumps({"note": f"{key} whole: {error}"}), flush=True)
    now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))

    def late(*_: object) -> None:
        raise Slow

    signal.signal(signal.SIGPROF, late)  # of the processor's time, since other processes may be at work
    signal.signal(signal.SIGALRM, late)
    end, count, refused, finds = time.monotonic() + 60 * minutes, 0, 0, 0
    while time.monotonic() < end:
        key = dice.choice([*whole])
        content = damaged(whole[key], whole[dice.choice([*whole])], dice)
        path = out / key
        path.write_bytes(content)
        count += 1
        found = ""
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(20 * SECONDS)
        try:
            read(path)
        except UpstairsError as error:
            refused += 1
            if len(str(error)) > 3000:
                found = f"an error of {len(str(error))} characters"
        except (Exception, Slow) as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            found = f"{type(error).__name__}: {str(error)[:200]} at {Path(where.filename).name}:{where.lineno}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
        if found:
            kept = out / f"find{finds}-{key}"
            kept.write_bytes(content)
            finds += 1
            print(json.dumps({"find": found, "file": str(kept)}), flush=True)
    print(json.dumps({"files": count, "refused": refused, "finds": finds}), flush=True)


def main() -> None:
    """Starts a process for each reader, and again with another seed where one died."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--readers", default=",".join(READERS))
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.minutes, given.out, given.seed)
        return
    end, running = time.monotonic() + 60 * given.minutes, {}

    def start(name: str, seed: int) -> None:
        words = [sys.executable, __file__, "--work", name, "--minutes", str((end - time.monotonic()) / 60)]
        words += ["--out", str(given.out / name), "--seed", str(seed)]
        log = (given.out / f"{name}.txt").open("a", encoding="utf-8")
        running[name] = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT), seed

    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.readers.split(","):
        start(name, given.seed)
    while running:
        time.sleep(1)
        for name, (process, seed) in list(running.items()):
            if process.poll() is None:
                continue
            del running[name]
            if process.returncode:
                print(f"{name} died with status {process.returncode}: see {given.out / name}", flush=True)
                newest = max((p for p in (given.out / name).iterdir() if p.is_file()), key=lambda p: p.stat().st_mtime)
                newest.rename(newest.with_name(f"death{seed}-{newest.name}"))
                if time.monotonic() < end - 30:
                    start(name, seed + 1)
    for path in sorted(given.out.glob("*.txt")):
        print(path.stem, *path.read_text(encoding="utf-8").splitlines()[-3:], sep="\n  ")


if __name__ == "__main__":
    main()
