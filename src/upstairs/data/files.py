"""Opens a folder, a zip or a tar as a tree of files of one kind, without what computers leave in folders."""

import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from PIL import features

from upstairs.data.cache import cache_directory
from upstairs.errors import UpstairsError, reason


def read_labels(path: Path) -> list[str]:
    """Returns the words of a list of classes."""
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UpstairsError(
            f"{path} cannot be read ({reason(error)}): put the list of the split's classes there"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UpstairsError(f"{path} is no JSON object ({reason(error)}): replace it") from error


# Names that are never data, nor are names that start with a dot or "~$".
NOISE = "_background_noise_"
LITTER = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin",
     "system volume information", "lost+found", "icon\r", "__pycache__", NOISE}
)  # fmt: skip
ARRANGE = "arrange them as class/file or group/class/file"
DIGITS = re.compile(r"(\d{1,18})")
DEEPEST = 12  # levels of folders that are searched
BESIDE = ("meta", "metadata", "annotations", "labels", "lists", "splits", "csv")  # folders of tables, beside the files
MOST_LISTED = 10  # names in a message
LARGEST_FILE = 2**28  # the most bytes that one member of a zip may unpack to
TARS = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
LABEL_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


class Files(NamedTuple):
    """A kind of file, recognised by its extension.

    Attributes:
        what: its name in messages.
        extensions: those that can be read.
        others: extension -> what to do with files of this kind that cannot be read.
    """

    what: str
    extensions: tuple[str, ...]
    others: Mapping[str, str] = {}

    def __contains__(self, name: object) -> bool:
        return extension_of(str(name)) in self.extensions

    def __str__(self) -> str:
        return f"{self.what} ({', '.join(self.extensions)})"


def _pictures() -> Files:
    read = ["png", "jpg", "jpeg", "jfif", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"]
    others = dict.fromkeys(("dng", "cr2", "nef", "arw", "svg", "psd", "jp2", "jxl", "dcm"), "convert them to PNG")
    heif = find_spec("pillow_heif") is not None
    for there, names, remedy in (
        (heif, ("heic", "heif"), "pip install pillow-heif"),
        (heif or features.check("avif"), ("avif",), "pip install -U pillow"),
    ):
        read += names if there else ()
        others |= {} if there else dict.fromkeys(names, remedy)
    return Files("pictures", tuple(read), others)


PICTURES = _pictures()
SOUNDS = Files(
    "recordings", ("wav", "flac", "ogg", "oga", "opus", "mp3", "aiff", "aif", "au", "caf", "w64"),
    dict.fromkeys(("m4a", "aac", "wma", "webm", "mp4", "mov", "amr", "3gp"), "ffmpeg -i IN OUT.wav"),
)  # fmt: skip
ARRAYS = Files("arrays", ("npy",))
NOTES = Files("texts", ("txt",), dict.fromkeys(("docx", "doc", "pdf", "rtf", "md"), "save them as .txt"))
REMEDIES = {
    **PICTURES.others, **SOUNDS.others, **NOTES.others,
    **dict.fromkeys(("xlsx", "xls", "ods"), "save the sheet as CSV"), **dict.fromkeys(("7z", "rar"), "unpack them"),
    **dict.fromkeys(("h5", "hdf5", "mat", "pt", "arrow", "tfrecord"), "save it as .npz (x, y) or as CSV"),
}  # fmt: skip


@dataclass(frozen=True)
class Tree:
    """The files of one kind in a folder, a zip or a tar.

    Attributes:
        name: the path of the folder or archive, for errors.
        stamps: relative name -> (size in bytes, a number that changes with the content).
        folders: the relative names of all folders.
        item: relative name -> the file's path, or its bytes.
        files: the kind of file that is listed.
        others: the relative names of all other files.
        noise: the number of recordings of background noise, which are no class.
        table: the table of labels that was given as the data, by relative name; '' if none was.
    """

    name: str
    stamps: dict[str, tuple[int, int]]
    folders: frozenset[str]
    item: Callable[[str], Path | bytes]
    files: Files = PICTURES
    others: tuple[str, ...] = ()
    noise: int = 0
    table: str = ""

    def read(self, name: str) -> bytes:
        """Returns the bytes of a file."""
        item = self.item(name)
        return item if isinstance(item, bytes) else item.read_bytes()

    def below(self, folder: str) -> "Tree":
        """Returns the tree of one of its folders."""
        start = f"{folder}/" if folder else ""
        return Tree(
            f"{self.name}/{folder}".rstrip("/"),
            {name.removeprefix(start): stamp for name, stamp in self.stamps.items() if name.startswith(start)},
            frozenset(name.removeprefix(start) for name in self.folders if name.startswith(start)),
            lambda name: self.item(start + name),
            self.files,
        )


@dataclass
class _Listing:
    """Sorts the files of a tree into those of the kind, others and litter."""

    files: Files
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    others: list[str] = field(default_factory=list)
    noise: int = 0

    def add(self, name: str, stamp: tuple[int, int] | None) -> None:
        """Adds a file, or a folder if it has no stamp."""
        parts = name.split("/")
        if any(part.startswith((".", "~$")) or part.lower() in LITTER for part in parts):
            self.noise += stamp is not None and NOISE in parts and name in self.files
        elif stamp is None:
            self.folders.add(name)
        elif name in self.files:
            self.stamps[name] = stamp
        else:
            self.others.append(name)

    def tree(self, name: str, item: Callable[[str], Path | bytes]) -> Tree:
        folders = self.folders | {
            name[:i] for name in (*self.stamps, *self.others) for i, letter in enumerate(name) if letter == "/"
        }  # an archive need not list them
        return Tree(name, self.stamps, frozenset(folders), item, self.files, tuple(self.others), self.noise)


@contextmanager
def open_tree(path: str | Path, files: Files = PICTURES) -> Generator[Tree]:
    """Opens the tree of a folder, a zip or a tar, or the tree that a table of labels lies in; closes it at the end.

    A zip is read without unpacking; a tar is unpacked into the cache folder once. The tree of a folder without files
    of the kind and with one zip is that of the zip.

    Raises:
        UpstairsError: the path does not exist, is of another kind, or cannot be read.
    """
    path = Path(path)
    try:
        if path.is_file() and path.suffix.lower() in LABEL_TABLES:
            with open_tree(path.parent, files) as tree:
                if tree.stamps or path.resolve().parent.name.lower() not in BESIDE:
                    yield replace(tree, table=path.name)
                    return
            with open_tree(path.parent.resolve().parent, files) as tree:
                yield replace(tree, table=f"{path.parent.resolve().name}/{path.name}")
            return
        if path.is_dir():
            tree = _folder_tree(path, files)
            zips = [name for name in tree.others if "/" not in name and extension_of(name) == "zip"]
            if tree.stamps or len(zips) != 1:
                yield tree
                return
            with open_tree(path / zips[0], files) as inner:
                own = set(tree.others) - set(zips)

                def beside(name: str) -> Path | bytes:
                    return path / name if name in own else inner.item(name)

                yield replace(inner, item=beside, others=(*inner.others, *sorted(own)))
            return
        if not path.is_file():
            raise UpstairsError(f"{path} does not exist: give a folder or a zip file of {files.what}")
        if path.name.lower().endswith(TARS):
            yield replace(_folder_tree(_unpacked(path), files), name=str(path))
            return
        if path.name in files:
            raise UpstairsError(f"{path} is a file: give a folder with one folder of {files.what} for each class")
        if (kind := extension_of(path.name)) in REMEDIES:
            raise UpstairsError(f"{path} is a .{kind} file, which is not read: {REMEDIES[kind]}")
        with zipfile.ZipFile(path) as archive:
            yield _zip_tree(path, archive, files)
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError) as error:
        raise UpstairsError(
            f"{path} is no whole zip file ({reason(error)}): give a folder or a zip of {files.what}"
        ) from error
    except OSError as error:
        raise UpstairsError(f"{path} cannot be read ({reason(error)}): check its permissions") from error


def extension_of(name: str) -> str:
    """Returns the extension in lower case, without its dot; '' for none."""
    return name.rpartition("/")[2].lower().strip().rpartition(".")[2] if "." in name.rpartition("/")[2] else ""


HEIC = "a HEIC picture: pip install pillow-heif"
CONTENTS = (  # (place, bytes, what they are), the longest first
    (4, b"ftyphei", HEIC), (4, b"ftypmif1", HEIC),
    (4, b"ftypavif", "an AVIF picture: pip install -U pillow"),
    (4, b"ftyp", "an MP4 or M4A file: ffmpeg -i IN OUT.wav"),
    (0, b"\x1a\x45\xdf\xa3", "a WEBM or MKV file: ffmpeg -i IN OUT.wav"), (0, b"%PDF", "a PDF"),
    (0, b"PK\3\4", "a zip"), (0, b"\x89PNG", "a PNG picture"), (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"OggS", "an OGG sound"), (0, b"fLaC", "a FLAC sound"), (0, b"ID3", "an MP3 sound"),
    (8, b"WAVE", "a WAV sound"),
    *((0, start, "a web page") for start in (b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML", b"<?xml")),
    (0, b"version https://git-lfs", "a pointer of Git LFS: git lfs pull"),
)  # fmt: skip


def content_of(item: Path | bytes | str) -> str:
    """Returns what a file is by its first bytes, as 'its content is a web page'; '' if unknown."""
    try:
        if not isinstance(item, bytes):
            with Path(item).open("rb") as stream:
                item = stream.read(64)
    except OSError:
        return ""
    said = next((what for at, magic, what in CONTENTS if item.lstrip(b" \r\n\t")[at:].startswith(magic)), "")
    return said and f"its content is {said}"


def name_of(path: str | Path) -> str:
    """Returns the name of a data set: that of its folder or archive, without an extension."""
    path = Path(path).resolve()
    return path.name if path.is_dir() else path.name.removesuffix(path.suffix).removesuffix(".tar")


def plain(name: str) -> str:
    """Returns a name as it is compared: composed (NFC), its parts without spaces around, with forward slashes."""
    return "/".join(part.strip() for part in unicodedata.normalize("NFC", name).replace("\\", "/").split("/"))


def ignored(tree: Tree, without: Iterable[str] = ()) -> str:
    """Returns what was not read, as '96 files ignored (.heic 96: pip install pillow-heif)'; '' if nothing was."""
    left = set(tree.others) - set(without)
    kinds = Counter(map(extension_of, left))
    remedies = REMEDIES if tree.stamps else {**REMEDIES, "": "give their names one, such as .png, .wav or .txt"}
    if not kinds:
        return ""
    said = ", ".join(
        f"{f'.{kind}' if kind else 'no extension'} {count}" + (f": {remedies[kind]}" if kind in remedies else "")
        for kind, count in sorted(kinds.items(), key=lambda one: (-one[1], not one[0], one[0]))[:6]
    )
    return f"{count_of(kinds.total(), 'file')} ignored ({said}{', ...' if len(kinds) > 6 else ''})"


def count_of(count: int, what: str) -> str:
    """Returns '1 file', '2 files', '2 classes'."""
    return f"{count} {what}{('es' if what.endswith('s') else 's') * (count != 1)}"


def alike(labels: Iterable[str]) -> str:
    """Returns a note if two labels differ in capitals alone; '' if none do."""
    kinds = sorted(set(labels))
    last = {label.casefold(): label for label in kinds}
    other = next((label for label in kinds if last[label.casefold()] != label), None)
    return f"{other!r} and {last[other.casefold()]!r} are two classes" if other else ""


def listed(names: Iterable[str]) -> str:
    """Returns names as 'a, b', of many the first ten and the number of the others."""
    names = list(names)
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more


def natural(name: str) -> list[list[str | int]]:
    """Returns a sort key that puts class2 before class10 and keeps a folder's contents together."""
    return [*(_natural_part(part) for part in name.split("/")), [name]]


def _natural_part(part: str) -> list[str | int]:
    return [int(piece) if i % 2 else piece for i, piece in enumerate(DIGITS.split(part.casefold()))]


def common_folder(names: Iterable[str]) -> str:
    """Returns the folders that all files share, as 'a/b', leaving at least class/file below them."""
    parents = sorted(name.split("/")[:-2] for name in names)
    ends = (
        zip(parents[0], parents[-1], strict=False) if parents else ()
    )  # the first and the last in order share what all share
    return "/".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], ends))


def _folder_tree(path: Path, files: Files) -> Tree:
    """Returns the tree of a folder; links to folders are followed, except into a folder that they lie in."""
    found = _Listing(files)

    def walk(folder: Path, start: str, above: tuple[Path, ...]) -> None:
        real = folder.resolve()
        if real in above or len(above) > DEEPEST:
            return
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir():
                    found.add(start + entry.name, None)
                    if start + entry.name in found.folders:
                        walk(Path(entry.path), f"{start}{entry.name}/", (*above, real))
                    elif entry.name == NOISE:
                        found.noise += sum(one.name in files for one in Path(entry.path).iterdir())
                else:
                    try:
                        stat = entry.stat()
                        stamp = (stat.st_size, int(1e9 * stat.st_mtime))
                    except OSError:  # a broken link is kept, so that reading it raises an error
                        stamp = (0, 0)
                    found.add(start + entry.name, stamp)

    walk(path, "", ())
    return found.tree(str(path), lambda name: path / name)


def _zip_tree(path: Path, archive: zipfile.ZipFile, files: Files) -> Tree:
    """Returns the tree of a zip; encodings, backslashes and dots of names are fixed."""
    found, members = _Listing(files), {}
    for name, info in zip(_decoded(archive.infolist()), archive.infolist(), strict=True):
        name = "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
        if name:
            members[name] = info
            found.add(name, None if info.is_dir() or info.filename.endswith("\\") else (info.file_size, info.CRC))

    def item(name: str) -> bytes:
        try:
            if members[name].file_size > LARGEST_FILE:
                raise zipfile.BadZipFile(f"it unpacks to {members[name].file_size} bytes")
            return archive.read(members[name])
        except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, MemoryError, zlib.error) as error:
            raise UpstairsError(f"{path}/{name} cannot be unpacked ({reason(error)}): make the zip again") from error

    return found.tree(str(path), item)


# Encodings of the names in zips that do not say theirs, and the scripts that each is used for. They are tried in order:
# a stricter one first. Detectors of encodings need more text than a few names of classes.
_CJK = ("CJK", "HIRAGANA", "KATAKANA")
_CODECS = (("utf-8", ("",)), ("euc_kr", ("HANGUL",)), ("gb2312", _CJK), ("shift_jis", _CJK), ("big5", _CJK),
           ("cp866", ("CYRILLIC",)), ("gbk", _CJK))  # fmt: skip


def _decoded(members: list[zipfile.ZipInfo]) -> list[str]:
    """Returns the names of a zip's members; those that are not marked as UTF-8 are decoded together."""
    unmarked = [i for i, one in enumerate(members) if not one.flag_bits & 0x800]
    names = [one.orig_filename.partition("\0")[0] for one in members]
    raw = b"\0".join(names[i].encode("cp437", "replace") for i in unmarked)
    for codec, scripts in _CODECS:
        try:
            text = raw.decode(codec)
        except UnicodeDecodeError:
            continue
        foreign = {letter for letter in text if ord(letter) > 127 and letter.isalpha()}
        mixed = codec in ("big5", "cp866", "gbk") and re.search(r"[a-zA-Z][^\0-\x7f]|[^\0-\x7f][a-zA-Z]", text)
        if not mixed and all(unicodedata.name(letter, "").startswith(scripts) for letter in foreign):
            for i, name in zip(unmarked, text.split("\0"), strict=False):
                names[i] = name
            break
    return names


def _unpacked(path: Path) -> Path:
    """Returns the folder in the cache that holds the files of a tar."""
    stat = path.stat()
    digest = hashlib.sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    folder = cache_directory() / f"{digest.hexdigest()[:32]}.unpacked"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, suffix=".partial"))
        try:
            with tarfile.open(path) as archive:
                archive.extractall(partial, filter="data")
            if not folder.is_dir():
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        why = "it is no whole tar file" if isinstance(error, tarfile.TarError) else reason(error)
        raise UpstairsError(f"{path} cannot be unpacked ({why}): make it again, or give the unpacked folder") from error
    return folder
