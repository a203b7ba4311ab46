"""How folders and zips are read as classes, and which arrangements are refused by name."""

import zipfile
from pathlib import Path

import pytest

from upstairs.data.files import natural, open_tree
from upstairs.data.layouts.resolve import find_layout
from upstairs.errors import UpstairsError


def fill(folder: Path, *names: str) -> Path:
    """Files of these names; a name that ends with / is an empty folder."""
    for name in names:
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(name.encode())
    return folder


def pack(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name.encode())
    return path


def classes_of(path: Path) -> dict[str, tuple[str, ...]]:
    with open_tree(path) as tree:
        return {one.label: one.names for one in find_layout(tree, skip_bad=None).classes}


def test_classes_in_natural_order(tmp_path: Path) -> None:
    fill(tmp_path, "b10/x2.png", "b2/x10.PNG", "b2/x9.png", "B1/y.jpeg")
    assert list(classes_of(tmp_path).items()) == [
        ("B1", ("B1/y.jpeg",)), ("b2", ("b2/x9.png", "b2/x10.PNG")), ("b10", ("b10/x2.png",)),
    ]  # fmt: skip


def test_natural_order_of_odd_names() -> None:
    names = ["a", "a/1", "a 1", "a2/1", "a10/1", "²", "1" * 300, "٣", ""]
    assert sorted(["c", "B", "a", "b"], key=natural) == ["a", "B", "b", "c"]
    backwards = list(reversed(names))
    assert sorted(names, key=natural) == sorted(backwards, key=natural)
    assert sorted(["a10/1", "a2/1", "a/1"], key=natural) == ["a/1", "a2/1", "a10/1"]


def test_groups(tmp_path: Path) -> None:
    fill(tmp_path, "Greek/beta/1.png", "Greek/alpha/1.png", "Latin/alpha/1.png", "README.md", "Latin/notes.txt")
    with open_tree(tmp_path) as tree:
        found = find_layout(tree, skip_bad=None).classes
    assert [(one.label, one.group) for one in found] == [
        ("Greek/alpha", "Greek"), ("Greek/beta", "Greek"), ("Latin/alpha", "Latin"),
    ]  # fmt: skip


LITTER = (".git/objects/x.png", "a/.hidden.png", "a/._1.png", "a/Thumbs.db", ".DS_Store", "__MACOSX/a/1.png", "a/sub/")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_litter_is_ignored(kind: str, tmp_path: Path) -> None:
    names = ("a/1.png", "b/1.png", "a/labels.txt", *LITTER)
    path = fill(tmp_path / "data", *names) if kind == "folder" else pack(tmp_path / "data.zip", *names)
    assert classes_of(path) == {"a": ("a/1.png",), "b": ("b/1.png",)}


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a/1.png", "a/2.png", "2.png"), r"/2\.png lies outside a class folder"),
        (("a/1.png", "b/1.png", "c/d/2.png"), r"c/d/2\.png is arranged as group/class/file and most others as class/"),
        (("a/b/1.png", "c/b/1.png", "c/2.png"), r"c/2\.png is arranged as class/file and most others as group/class/f"),
        (("a/b/1.png", "a/b/c/1.png", "d/e/1.png"), r"a/b/c/1\.png lies too deep"),
        (("a/b/c/d/1.png", "e/b/c/d/1.png"), r"b/c/d/1\.png lies too deep"),
        (("a/1.txt",), "holds no pictures"),
        ((), "holds no pictures"),
    ],
)
def test_arrangements_that_are_refused(kind: str, names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    with pytest.raises(UpstairsError, match=message):
        classes_of(fill(tmp_path, *names) if kind == "folder" else pack(path, *names))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_an_empty_class_folder_is_passed_over_with_a_word(kind: str, tmp_path: Path) -> None:
    for k, (names, said) in enumerate(
        [(("a/1.png", "b/1.png", "c/"), "c"), (("a/1.png", "b/1.png", "c/1.txt"), "c"),
         (("a/b/1.png", "d/b/1.png", "a/c/"), "a/c")]
    ):  # fmt: skip
        path = fill(tmp_path / str(k), *names) if kind == "folder" else pack(tmp_path / f"{k}.zip", *names)
        with open_tree(path) as tree:
            layout = find_layout(tree)
        assert len(layout.classes) == 2 and layout.empty == (said,)
        assert layout.notes == (f"1 class folder without pictures passed over: {said}",)


def test_an_empty_group_is_no_class(tmp_path: Path) -> None:
    assert list(classes_of(fill(tmp_path, "a/b/1.png", "c/b/1.png", "empty/"))) == ["a/b", "c/b"]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("top/a/1.png", "top/b/1.png"), ["a", "b"]),
        (("top/", "top/a/", "top/a/1.png", "top/b/1.png"), ["a", "b"]),
        (("x/y/g/a/1.png", "x/y/h/b/1.png"), ["g/a", "h/b"]),
        (("./a/1.png", "./b/1.png"), ["a", "b"]),
        (("top\\a\\1.png", "top\\b\\1.png"), ["a", "b"]),
        (("/top/only/1.png",), ["only"]),
        (("only/1.png",), ["only"]),
        (("ab/c/1.png", "abc/c/1.png"), ["ab/c", "abc/c"]),
    ],
)
def test_the_folders_above_a_zips_classes_are_left_out(
    names: tuple[str, ...], labels: list[str], tmp_path: Path
) -> None:
    assert list(classes_of(pack(tmp_path / "data.zip", *names))) == labels


def test_items(tmp_path: Path) -> None:
    fill(tmp_path / "data", "train/a/1.png")
    with open_tree(tmp_path / "data") as tree:
        below = tree.below("train")
        assert below.item("a/1.png") == tmp_path / "data" / "train/a/1.png" and below.folders == {"a"}
    with open_tree(pack(tmp_path / "data.zip", "top/a/1.png", "top/b/1.png")) as tree:
        assert tree.item("top/b/1.png") == b"top/b/1.png"


def test_links(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", "1.png")
    fill(tmp_path / "data", "a/1.png")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    assert list(classes_of(tmp_path / "data")) == ["a", "b"]
    for folder in ("a", "b"):  # circles end
        (tmp_path / "data" / folder / "up").symlink_to(tmp_path / "data")
    assert list(classes_of(tmp_path / "data")) == ["a", "b"]


def test_zips_that_cannot_be_read(tmp_path: Path) -> None:
    path = pack(tmp_path / "data.zip", "a/1.png", "b/1.png")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"a/1.pnga/1.png", b"a/1.pnga/X.png"))  # a stored byte: the checksum tells
    with open_tree(path) as tree, pytest.raises(UpstairsError, match=r"data\.zip/a/1\.png cannot be unpacked"):
        tree.item("a/1.png")
    path.write_bytes(whole[:-30])
    with pytest.raises(UpstairsError, match=r"data\.zip is no whole zip"):
        classes_of(path)
    encrypted = bytearray(whole)
    encrypted[6] |= 1
    encrypted[whole.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(encrypted)
    with open_tree(path) as tree, pytest.raises(UpstairsError, match=r"cannot be unpacked .*encrypted"):
        tree.item("a/1.png")
    with pytest.raises(UpstairsError, match="does not exist"):
        classes_of(tmp_path / "none")
