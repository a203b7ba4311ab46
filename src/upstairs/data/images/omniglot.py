"""Omniglot, in its published layout."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from upstairs.data.cache import Progress
from upstairs.data.class_augmentation import TURNS
from upstairs.data.files import Tree, common_folder, open_tree, read_labels
from upstairs.data.images.format import ImageFormat
from upstairs.data.layouts.resolve import find_layout
from upstairs.data.layouts.rows import source_of
from upstairs.data.source import Source
from upstairs.data.splits import Splits, split_by_list

OMNIGLOT = ("images_background.zip", "images_evaluation.zip")


def omniglot_splits(path: str | Path, *, size: int = 28, progress: Progress | None = None) -> Splits:
    """Opens Omniglot's 1,623 characters in four rotations, split as in Vinyals et al. (2016): 4112, 688, 1692 classes.

    Lake, Salakhutdinov, Tenenbaum: Human-level concept learning through probabilistic program induction (2015).

    Args:
        path: the folder with images_background.zip, images_evaluation.zip and splits/vinyals/{train,val,test}.txt.

    Returns:
        Sources of inputs [32460, 1, size, size], ink 255, with labels such as 'Greek/character01/rot090'; groups are
        the alphabets.

    Raises:
        UpstairsError: a missing or broken file, or a list that names an unknown class.
    """
    source = _omniglot(path, size, progress)
    turned = replace(
        source,
        labels=tuple(f"{label}/{turn}" for label in source.labels for turn in TURNS),
        rows=tuple(rows for rows in source.rows for _ in TURNS),
        groups=tuple(group for group in source.groups for _ in TURNS),
        turns=tuple(range(len(TURNS))) * len(source),
    )
    folder = Path(path) / "splits" / "vinyals"
    return split_by_list(turned, *(read_labels(folder / f"{part}.txt") for part in Splits._fields))


def _omniglot(path: str | Path, size: int, progress: Progress | None) -> Source:
    with ExitStack() as stack:
        trees = [stack.enter_context(open_tree(Path(path) / name)) for name in OMNIGLOT]
        trees = [tree.below(common_folder(tree.stamps)) for tree in trees]
        owner = {name: tree for tree in trees for name in tree.stamps}
        folders = frozenset().union(*(tree.folders for tree in trees))
        stamps = {name: tree.stamps[name] for name, tree in owner.items()}
        both = Tree(str(path), stamps, folders, lambda name: owner[name].item(name))
        return source_of(
            both, find_layout(both, skip_bad=None), ImageFormat(size, 1, True), name="omniglot", progress=progress
        )
