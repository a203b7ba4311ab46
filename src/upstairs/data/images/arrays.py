"""Arrays as data: class folders of .npy files, and .npz or .pkl files of inputs and labels."""

import io
import pickle
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32

from upstairs.data.encoded.format import EncoderFormat
from upstairs.data.encoded.packed import encoded_source
from upstairs.data.files import ARRAYS, Tree, extension_of, name_of
from upstairs.data.images.format import ImageFormat
from upstairs.data.layouts.classes import Layout, own_parts, part_of
from upstairs.data.layouts.rows import read_files, sampled, split_layout
from upstairs.data.source import InputFormat, Source, flat_labels, refuse_masked
from upstairs.data.splits import Splits
from upstairs.errors import UpstairsError, reason

PACKS = ("npz", "pkl", "pickle")
# Usual names of inputs and labels, also with train, val or test before or behind them.
NAMED = (
    ("x", "X", "images", "image_data", "data", "inputs", "features", "arr_0"),
    ("y", "Y", "labels", "label", "targets", "target", "arr_1"),
)


@dataclass(frozen=True)
class ArrayFormat(InputFormat):
    """Reads an array as a row of float32: integers are divided by `scale`, floats stay as they are.

    Attributes:
        size: the shape of a row; a picture [h, w] has one channel.
        last: the files have their channels last.
        scale: the largest value of integers.
    """

    kind = "array"
    dtype = np.float32

    size: tuple[int, ...]
    last: bool = False
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size

    def read(self, item: Any, *, name: str | None = None) -> Float32[np.ndarray, "*shape"]:
        """Reads one array: a .npy file's path or bytes, or an array.

        Raises:
            UpstairsError: a file that is no whole .npy file, another shape, or a value that is not finite.
        """
        name = name or (str(item) if isinstance(item, str | Path) else "the array")
        raw = _load(item, name)
        x = _arranged(raw, self.last)
        if x.shape != self.size or x.dtype.kind not in "fiub":
            raise UpstairsError(f"{name} has {raw.dtype} of shape {list(raw.shape)} and others have {list(self.size)}: "
                                "give arrays of numbers of one shape")  # fmt: skip
        x = x.astype(np.float32) if x.dtype.kind == "f" else (x / self.scale).astype(np.float32)
        if not np.isfinite(x).all():
            raise UpstairsError(f"{name} has values that are no finite numbers: replace or remove it")
        return x


def _load(item: Any, name: str) -> np.ndarray:
    if not isinstance(item, str | Path | bytes):
        refuse_masked(item, f"{name} has")
        return np.asarray(item)
    try:
        return np.load(io.BytesIO(item) if isinstance(item, bytes) else item, allow_pickle=False)
    except Exception as error:  # on a hostile header numpy may raise anything
        raise UpstairsError(
            f"{name} is no whole .npy file of numbers ({reason(error)}): replace or remove it"
        ) from error


def _arranged(x: np.ndarray, last: bool) -> np.ndarray:
    return x[None] if x.ndim == 2 else x.transpose(2, 0, 1) if last and x.ndim == 3 else x


def is_packed(data: str | Path) -> bool:
    """Returns whether this is a file of packed arrays, or a folder of such files."""
    return bool(_packs(Path(data)))


def _packs(path: Path) -> dict[str, Path]:
    """Returns the packed arrays of a file or a folder by their part of a split: '' for a file alone."""
    if path.is_file():
        return {"": path} if extension_of(path.name) in PACKS else {}
    files = [file for file in path.glob("*.*") if extension_of(file.name) in PACKS] if path.is_dir() else []
    parts = {part_of(file.stem)[0]: file for file in sorted(files)}
    return parts if "train" in parts and len(parts) > 1 and "" not in parts else {}


def array_splits(
    data: str | Path, *, split: str | None = None, seed: int = 0, ratio: tuple[float, float, float] | None = None,
    **options: Any,
) -> Splits:  # fmt: skip
    """Opens arrays and splits their classes; the arguments are those of `open_data`."""
    source, layout = read_arrays(data, **options)
    return split_layout(source, layout, split, ratio, seed=seed)


def read_arrays(
    data: str | Path, *, format: ArrayFormat | EncoderFormat | None = None, **options: Any
) -> tuple[Source, Layout]:
    """Returns a source of arrays, and its layout.

    Args:
        data: a folder or an archive of .npy files (see `find_layout`); a .npz or a .pkl with inputs and labels, as
            'x' and 'y' or under another usual name, or with 'image_data' and 'class_dict' (mini-ImageNet); or a folder
            of such files called after train, val and test.
        format: that of the files, or of an encoder, for arrays that are pictures.

    Raises:
        UpstairsError: arrays of several shapes, or a file without inputs and labels.
    """
    path = Path(data)
    if isinstance(format, EncoderFormat):
        progress = options.pop("progress", None)
        source, layout = read_arrays(data, **options)
        return encoded_source(source, format, progress), layout
    if packs := _packs(path):
        if given := next((name for name in ("columns", "pattern") if options.get(name)), None):
            raise UpstairsError(f"`{given}` is about files with labels and {path} holds the labels: leave it out")
        return _unpacked(path, packs)
    return read_files(path, ARRAYS, _suited, format=format, **options)


def _suited(tree: Tree, names: Sequence[str]) -> ArrayFormat:
    some = []
    for name in sampled(names):
        with suppress(UpstairsError):  # reading all will report the bad ones
            some.append(_load(tree.item(name), name))
    shape = Counter(x.shape for x in some).most_common(1)[0][0] if some else (1,)
    kinds = {x.dtype.kind == "f": str(x.dtype) for x in some if x.shape == shape}
    if len(kinds) > 1 or not shape:
        have = f"are {' and '.join(kinds.values())}" if shape else "hold one number each"
        raise UpstairsError(f"the arrays {have}: give either integers, which are scaled, or floats, with axes")
    last = len(shape) == 3 and shape[2] < min(shape[:2])
    largest = max((float(x.max()) for x in some if x.dtype.kind in "iu" and x.size), default=1.0)
    scale = 2.0 ** np.ceil(np.log2(max(largest, 1) + 1)) - 1
    return ArrayFormat(_arranged(np.empty(shape), last).shape, last, float(scale))


def _unpacked(path: Path, packs: dict[str, Path]) -> tuple[Source, Layout]:
    xs, labels, owners = [], [], []
    for part, file in packs.items():
        found = _content(file)
        if isinstance(classes := found.get("class_dict"), dict) and "image_data" in found:
            try:
                order = [(int(row), str(label)) for label, rows in classes.items() for row in rows]
                pairs = [(np.asarray(found["image_data"])[[row for row, _ in order]], [label for _, label in order])]
            except (ValueError, TypeError, IndexError) as error:
                raise UpstairsError(
                    f"{file} has a class_dict that does not fit its image_data ({reason(error)}): it needs "
                    "{label: [row, ...]}"
                ) from error
        else:
            forms = ("{}", "{}_train", "{}_val", "{}_test", "train_{}", "val_{}", "test_{}")
            named = [[next((form.format(n) for n in names if form.format(n) in found), "") for names in NAMED]
                     for form in forms]  # fmt: skip
            pairs = [(found[x], flat_labels(found[y], str(file)).tolist()) for x, y in named if x and y]
        if not pairs:
            raise UpstairsError(f"{file} holds {', '.join(map(str, found))}: save its inputs as x and its labels as y, "
                                "by numpy.savez(FILE, x=inputs, y=labels)")  # fmt: skip
        for x, y in pairs:
            xs.append(np.asarray(x))
            labels += [str(label.decode() if isinstance(label, bytes) else label) for label in y]
            owners += [(str(label), part) for label in labels[-len(y) :] if part]
    if len({x.shape[1:] for x in xs}) > 1 or any(x.dtype.kind not in "fiub" or x.ndim < 2 for x in xs):
        raise UpstairsError(
            f"{path} has inputs of {[f'{x.dtype} {list(x.shape)}' for x in xs]}: give numbers of one shape"
        )
    x = np.concatenate(xs)
    if x.ndim == 4 and x.shape[3] < min(x.shape[1:3]):
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    x = x[:, None] if x.ndim == 3 else x
    source = Source.from_arrays(x, labels, name=name_of(path))
    picture = x.dtype == np.uint8 and x.ndim == 4 and x.shape[2] == x.shape[3] and x.shape[1] in (1, 3)
    form = ImageFormat(x.shape[2], x.shape[1], False) if picture else ArrayFormat(x.shape[1:])
    parts, note = own_parts(owners)
    said = "; ".join(filter(None, (f"{len(x)} arrays of {len(source)} classes", note)))
    return replace(source, format=form, summary=said), Layout([], parts)


def _content(path: Path) -> dict[str, Any]:
    """Returns what a .npz or a pickle holds, by name; of pickled objects only numbers and plain containers."""
    try:
        if extension_of(path.name) != "npz":
            with path.open("rb") as stream:
                found = _Plain(stream, encoding="latin1").load()
            if not isinstance(found, dict):
                raise UpstairsError(f"{path} holds a {type(found).__name__}: it needs a dict of inputs and labels")
            return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in found.items()}
        made = {}
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as stream:
                    version = np.lib.format.read_magic(stream)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    if read(stream)[2].hasobject:
                        value = _Plain(stream, encoding="latin1").load()
                        made[name.removesuffix(".npy")] = value.item() if value.ndim == 0 else value
                        continue
                with archive.open(name) as stream:
                    made[name.removesuffix(".npy")] = np.lib.format.read_array(stream, allow_pickle=False)
        return made
    except UpstairsError:
        raise
    except Exception as error:  # on hostile bytes pickle and numpy may raise anything
        raise UpstairsError(
            f"{path} cannot be read ({reason(error)}): load it where you trust it, save it by numpy.savez(FILE, "
            "x=inputs, y=labels)"
        ) from error


class _Plain(pickle.Unpickler):
    """Reads pickles of numpy arrays, dicts, lists and texts, and calls nothing else that a pickle may name."""

    ALLOWED: ClassVar[dict[str, Any]] = {
        "_reconstruct": lambda *_: np.empty(0), "ndarray": np.ndarray.__name__, "dtype": np.dtype,
        "scalar": np.float64(0).__reduce__()[0], "OrderedDict": OrderedDict,
        "encode": lambda text, _: text.encode("latin1"),
        "_frombuffer": lambda data, dtype, shape, order: np.frombuffer(data, dtype).reshape(shape, order=order),
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] not in ("numpy", "collections", "_codecs") or name not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not read from a pickle")
        return self.ALLOWED[name]
