"""Finds the classes of a tree of files: one resolver for pictures, sounds, arrays and texts, folders and archives."""

from dataclasses import replace

from upstairs.data.files import Tree, count_of, listed
from upstairs.data.layouts.classes import PATTERNS, Layout, are_digits, by_folders, by_pattern, refusal, with_lists
from upstairs.data.layouts.listed import by_tables
from upstairs.data.tables import refuse_pattern
from upstairs.errors import UpstairsError


def find_layout(
    tree: Tree, *, columns: str | None = None, pattern: str | None = None, skip_bad: bool | None = False
) -> Layout:
    """Returns the classes of a tree of files.

    Folders are read as class/file or group/class/file, below any folders that all files share; train, val and test
    folders, above or below the classes, are no classes: see `divided`. A table whose rows name the files and their
    labels is used where the folders hold no classes, and so is a pattern of the files' names.

    Args:
        columns: the table's columns for path and label, as 'file,word'; None finds them.
        pattern: how the files' names hold their labels, as '{label}_{speaker}_{n}'.
        skip_bad: leave out files that have no place, which otherwise are an error. None is an error that names no
            option.

    Raises:
        UpstairsError: no files of the kind, files without a class, or a pattern beside a table that was given as data.
    """
    if tree.table:
        refuse_pattern(f"{tree.name}/{tree.table}", pattern)
    layout = by_pattern(tree, pattern) if pattern else by_tables(tree, columns) if tree.stamps else None
    layout = layout or with_lists(tree, by_folders(tree))
    if layout.hint and not layout.used and are_digits(tree):
        layout = by_pattern(tree, PATTERNS[0])
    if layout.bad and not skip_bad:
        raise refusal(layout.bad, f"{len(tree.stamps)} {tree.files.what}", option=skip_bad is not None)
    if not layout.classes:
        raise UpstairsError(next(iter(layout.bad.values())))
    notes = [f"{len(layout.bad)} without a class left out: {listed(layout.bad)}"] if layout.bad else []
    notes += [f"{count_of(len(layout.empty), 'class folder')} without {tree.files.what} passed over: "
              f"{listed(layout.empty)}"] if layout.empty else []  # fmt: skip
    return replace(layout, notes=(*layout.notes, *notes))
