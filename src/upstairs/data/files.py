"""Lists the pictures or sounds of a folder or a zip, and groups them by class."""

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


IGNORED = frozenset({"thumbs.db", "desktop.ini", "__macosx"})  # as are names that start with a dot
ARRANGE = "arrange them as class/file or group/class/file"
DIGITS = re.compile(r"(\d{1,18})")
DEEPEST = 5  # levels of folders that are searched, which also ends cyclic links
LARGEST_FILE = 2**28  # the most bytes that one member of a zip may unpack to


class Files(NamedTuple):
    """A kind of file, recognised by its extension."""

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
    """The files of one kind in a folder or a zip.

    Attributes:
        name: the path of the folder or zip, for errors.
        stamps: relative name -> (size in bytes, a number that changes with the content).
        folders: the relative names of all folders.
        item: relative name -> the file's path, or its bytes.
        files: the kind of file that is listed.
    """

    name: str
    stamps: dict[str, tuple[int, int]]
    folders: frozenset[str]
    item: Callable[[str], Path | bytes]
    files: Files = PICTURES

    def below(self, folder: str) -> "Tree":
        """Returns the tree of one of its folders."""
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
    group: str  # '' without groups
    names: tuple[str, ...]  # its files


@contextmanager
def open_tree(path: str | Path, files: Files = PICTURES) -> Generator[Tree]:
    """Opens the tree of a folder or a zip, which is read without unpacking and closed at the end.

    Raises:
        UpstairsError: the path does not exist, is no zip file, or cannot be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            yield _tree_of(_Folders(), path, files, lambda name: path / name)
            return
        if not path.is_file():
            raise UpstairsError(f"{path} does not exist: give a folder or a zip file of {files.what}")
        with path.open("rb") as stream:
            system = ZipFileSystem(stream)  # closes the archive when it is garbage-collected
            yield _zip_tree(path, system, files)
    except zipfile.BadZipFile as error:
        raise UpstairsError(f"{path} is no whole zip file ({error}): give a folder or a zip of {files.what}") from error
    except OSError as error:
        raise UpstairsError(f"{path} cannot be read ({error}): check its permissions") from error


def group_files(tree: Tree) -> list[FileClass]:
    """Returns the classes of a tree; groups, classes and files are in natural order (see `natural`).

    Raises:
        UpstairsError: no files, files at different depths, or an empty class folder.
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
        FileClass(label, label.rpartition("/")[0], tuple(sorted(found[label], key=natural)))
        for label in sorted(found, key=natural)
    ]


def natural(name: str) -> list[list[str | int]]:
    """Returns a sort key that puts class2 before class10 and keeps a folder's contents together."""
    return [*(_natural_part(part) for part in name.split("/")), [name]]


def _natural_part(part: str) -> list[str | int]:
    return [int(piece) if i % 2 else piece for i, piece in enumerate(DIGITS.split(part.casefold()))]


class _Folders(LocalFileSystem):
    """A local file system that follows links to folders."""

    def info(self, path: Any, **options: Any) -> dict[str, Any]:
        found = super().info(path, **options)
        return found | {"type": "directory"} if found["islink"] and Path(found["name"]).is_dir() else found


def _tree_of(system: AbstractFileSystem, path: Path, files: Files, item: Callable[[str], Path | bytes]) -> Tree:
    """Returns the tree of a whole zip, or of a local path."""
    local = isinstance(system, LocalFileSystem)
    root, deepest = (path.absolute().as_posix(), DEEPEST + 1) if local else ("", None)
    stamps, folders = {}, set()
    found: Any = system.find(root, maxdepth=deepest, withdirs=True, detail=True, on_error="raise")
    for info in found.values():
        name = info["name"].removeprefix(root).strip("/")
        if not name or any(part.startswith(".") or part.lower() in IGNORED for part in name.split("/")):
            continue
        if info["type"] == "directory":
            folders.add(name)
        elif name in files:  # a broken link is kept, so that reading it raises an error
            stamps[name] = (info["size"], info["CRC"] if "CRC" in info else int(1e9 * info["mtime"]))
    return Tree(str(path), stamps, frozenset(folders), item, files)


def _zip_tree(path: Path, system: ZipFileSystem, files: Files) -> Tree:
    """Returns the tree of a zip below the folders that all its files share; backslashes and dots in names are fixed."""
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
    """Returns the folders that all files share, as 'a/b', leaving at least class/file below them."""
    parents = sorted(name.split("/")[:-2] for name in names)
    ends = (
        zip(parents[0], parents[-1], strict=False) if parents else ()
    )  # the first and the last in order share what all share
    return "/".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], ends))
