"""The pictures or sounds of a folder or of an unopened zip, by relative name, and how they are arranged in classes."""

import json
import re
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.zip import ZipFileSystem

from upstairs.errors import UpstairsError


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UpstairsError(f"{path} cannot be read ({error}): put the list of the split's classes there") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(_text(path)))
    except (ValueError, TypeError) as error:
        raise UpstairsError(f"{path} is no JSON object ({error}): replace it") from error


IGNORED = frozenset({"thumbs.db", "desktop.ini", "__macosx"})  # and all that starts with a dot
ARRANGE = "arrange them as class/file or group/class/file"
DIGITS = re.compile(r"(\d{1,18})")
DEEPEST = 5  # folders below the first that are looked into; also the end of a link that leads back up
LARGEST_FILE = 2**28  # bytes that one member of a zip may unpack to


class Files(NamedTuple):
    """Which files count."""

    what: str
    extensions: tuple[str, ...]

    def __contains__(self, name: object) -> bool:
        return str(name).lower().endswith(tuple(f".{extension}" for extension in self.extensions))

    def __str__(self) -> str:
        return f"{self.what} ({', '.join(self.extensions)})"


PICTURES = Files("pictures", ("png", "jpg", "jpeg", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm"))
SOUNDS = Files("recordings", ("wav", "flac", "ogg", "mp3", "aiff", "aif"))


@dataclass(frozen=True)
class Tree:
    """The pictures, or the sounds, of a folder or of a zip.

    Attributes:
        name: where they are, for errors.
        stamps: for each file's relative name its bytes, and a number that changes when its content does.
        folders: the relative names of all folders.
        item: a file's relative name -> its path, or its bytes.
        files: which files count.
    """

    name: str
    stamps: dict[str, tuple[int, int]]
    folders: frozenset[str]
    item: Callable[[str], Path | bytes]
    files: Files = PICTURES

    def below(self, folder: str) -> "Tree":
        """The tree of one of its folders."""
        start = f"{folder}/"
        return Tree(
            f"{self.name}/{folder}",
            {name.removeprefix(start): stamp for name, stamp in self.stamps.items() if name.startswith(start)},
            frozenset(name.removeprefix(start) for name in self.folders if name.startswith(start)),
            lambda name: self.item(start + name),
            self.files,
        )


class FileClass(NamedTuple):
    """One class of a tree."""

    label: str  # 'class' or 'group/class'
    group: str  # '' where there is none
    names: tuple[str, ...]  # of its files


@contextmanager
def open_tree(path: str | Path, files: Files = PICTURES) -> Generator[Tree]:
    """The tree of a folder, or of a zip, which is read without unpacking and closed at the end.

    Raises:
        UpstairsError: no such path, a file that is no zip, a folder that may not be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            yield _tree_of(_Folders(), path, files, lambda name: path / name)
            return
        if not path.is_file():
            raise UpstairsError(f"{path} does not exist: give a folder or a zip file of {files.what}")
        with path.open("rb") as stream:
            system = ZipFileSystem(stream)  # it closes the archive when nothing refers to it
            yield _zip_tree(path, system, files)
    except zipfile.BadZipFile as error:
        raise UpstairsError(f"{path} is no whole zip file ({error}): give a folder or a zip of {files.what}") from error
    except OSError as error:
        raise UpstairsError(f"{path} cannot be read ({error}): check its permissions") from error


def arrange(tree: Tree) -> list[FileClass]:
    """The classes of a tree, groups and classes in natural order, and so the files in each.

    Raises:
        UpstairsError: no files, one outside a class folder, one deeper than the others, a class without any.
    """
    if not tree.stamps:
        raise UpstairsError(f"{tree.name} holds no {tree.files}: {ARRANGE}")
    depths = {name: name.count("/") for name in tree.stamps}
    depth = 2 if 2 * sum(found == 2 for found in depths.values()) >= len(depths) else 1
    if wrong := [name for name, found in depths.items() if found != depth]:
        first = min(wrong, key=natural)
        problem = {
            0: f"lies outside a class folder: {ARRANGE}",
            1: f"is arranged as class/file and most others as group/class/file: {ARRANGE}, not both",
            2: f"is arranged as group/class/file and most others as class/file: {ARRANGE}, not both",
        }
        raise UpstairsError(f"{tree.name}/{first} {problem.get(depths[first], f'lies too deep: {ARRANGE}')}")
    found: dict[str, list[str]] = {}
    for name in tree.stamps:
        found.setdefault(name.rpartition("/")[0], []).append(name)
    if empty := [name for name in tree.folders - found.keys() if name.count("/") == depth - 1]:
        raise UpstairsError(
            f"class folder {tree.name}/{min(empty, key=natural)} has no {tree.files}: add some, or remove it"
        )
    return [
        FileClass(label, label.rpartition("/")[0], tuple(sorted(found[label], key=_natural_file)))
        for label in sorted(found, key=natural)
    ]


def natural(name: str) -> list[list[str | int]]:
    """A key that sorts class2 before class10, and every folder's contents together."""
    return [*(_natural_part(part) for part in name.split("/")), [name]]


def _natural_file(name: str) -> tuple[list[str | int], str]:
    return _natural_part(name.rpartition("/")[2]), name


def _natural_part(part: str) -> list[str | int]:
    return [int(piece) if i % 2 else piece for i, piece in enumerate(DIGITS.split(part.casefold()))]


def _is_ignored(name: str) -> bool:
    return any(part.startswith(".") or part.lower() in IGNORED for part in name.split("/"))


class _Folders(LocalFileSystem):
    """Local folders, where a link to a folder is that folder."""

    def info(self, path: Any, **options: Any) -> dict[str, Any]:
        found = super().info(path, **options)
        return found | {"type": "directory"} if found["islink"] and Path(found["name"]).is_dir() else found


def _tree_of(system: AbstractFileSystem, path: Path, files: Files, item: Callable[[str], Path | bytes]) -> Tree:
    """The tree of all that a file system holds, or that is below a local path in it."""
    local = isinstance(system, LocalFileSystem)
    root, deepest = (path.absolute().as_posix(), DEEPEST + 1) if local else ("", None)
    stamps, folders = {}, set()
    found: Any = system.find(root, maxdepth=deepest, withdirs=True, detail=True, on_error="raise")
    for info in found.values():
        name = info["name"].removeprefix(root).strip("/")
        if not name or _is_ignored(name):
            continue
        if info["type"] == "directory":
            folders.add(name)
        elif name in files:  # a link to nothing is kept: reading it will name it
            stamps[name] = (info["size"], info["CRC"] if "CRC" in info else int(1e9 * info["mtime"]))
    return Tree(str(path), stamps, frozenset(folders), item, files)


def _zip_tree(path: Path, system: ZipFileSystem, files: Files) -> Tree:
    """The tree of a zip below the folders that all its files are in; names with backslashes or dots are put right."""
    archive: zipfile.ZipFile = system.zip
    for info in archive.infolist():
        parts = [part for part in info.filename.replace("\\", "/").split("/") if part not in ("", ".")]
        info.filename = "/".join(parts) + "/" * info.is_dir()
    members = {info.filename: info for info in archive.infolist()}

    def item(name: str) -> bytes:
        try:
            if members[name].file_size > LARGEST_FILE:
                raise zipfile.BadZipFile(f"it unpacks to {members[name].file_size} bytes")
            return archive.read(members[name])
        except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, zlib.error) as error:
            raise UpstairsError(f"{path}/{name} cannot be unpacked ({error}): make the zip again") from error

    tree = _tree_of(system, path, files, item)
    start = _common_folder(tree.stamps)
    return tree.below(start) if start else tree


def _common_folder(names: Iterable[str]) -> str:
    """The folders above all files, as 'a/b', while class/file is left below them."""
    parents = sorted(name.split("/")[:-2] for name in names)
    ends = zip(parents[0], parents[-1], strict=False) if parents else ()  # what these two share, all share
    return "/".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], ends))
