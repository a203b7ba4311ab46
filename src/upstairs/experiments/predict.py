"""Adaptation of a run to new classes, and prediction of inputs from files."""

import csv
import glob
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from upstairs.console import one_line, tell_user
from upstairs.data.files import ARRAYS, NOTES, PICTURES, SOUNDS, TARS, ignored, natural, open_tree
from upstairs.data.open import open_splits
from upstairs.data.regression.rows import read_points
from upstairs.data.text.hashed import as_text
from upstairs.data.text.tables import texts_of
from upstairs.errors import UpstairsError
from upstairs.experiments.evaluate import UNHEARD
from upstairs.learners import ENOUGH
from upstairs.storage import kind_of, write_atomically
from upstairs.training.adapt import AUTO, adapt
from upstairs.training.inputs import Inputs, Support, read_support
from upstairs.training.model import Model, load_adapted
from upstairs.training.run import load

ANSWERS = (".csv", ".tsv", ".json")  # files of predictions
Named = tuple[str, Any]  # an input's name, and the input
Row = dict[str, Any]


def adapt_files(
    start: Path | None, support: Path, *, encoder: str | None, head: str, unknown: float | None, columns: str | None,
    pattern: str | None, quiet: bool = False,
) -> Model:  # fmt: skip
    """Returns a model of the support set: a run adapted to it, a model that learned it too, or a head on an encoder.

    Raises:
        UpstairsError: neither a run or model nor an encoder, or both.
    """
    if start is None:
        if encoder is None:
            raise UpstairsError(
                "there is nothing to start from: name a run or a model, or an `encoder` such as mobilenet_v2"
            )
        return adapt(
            support, encoder=encoder, head=head, unknown=unknown, columns=columns, pattern=pattern, quiet=quiet
        )
    if encoder is not None or head != AUTO:
        raise UpstairsError(f"`encoder` and `head` make a model without a run, and {start} was given: leave one out")
    if not (start.is_file() and kind_of(start) == "adapted"):
        return adapt_run(start, support, unknown=unknown, columns=columns, pattern=pattern, quiet=quiet)
    if unknown is not None:
        raise UpstairsError(f"`unknown` is set when a model is made, and {start} is one: leave it out")
    model = load_adapted(start)
    labels, items, y = read_support(support, model.inputs, least=1, columns=columns, pattern=pattern)
    for k, label in enumerate(labels):
        model.add([item for item, own in zip(items, y, strict=True) if own == k], label)
    return model


def expected(model: Model, *, chosen: bool) -> str:
    """Returns a line about a head: which, and the accuracy to expect."""
    how = f"head: {model.head}" + (", chosen by leaving examples out" if chosen else "")
    try:
        found = model.check()
    except UpstairsError:
        return f"head: {model.head}; its accuracy cannot be told from one example of each class"
    low, high = found["interval"]
    return f"{how}; accuracy to expect: {found['accuracy']:.1%} (95% interval {low:.1%} to {high:.1%})"


def adapt_run(
    path: Path, support: Support, *, unknown: float | None = None, columns: str | None = None,
    pattern: str | None = None, quiet: bool = False,
) -> Model:  # fmt: skip
    """Adapts a run as `Run.adapt` does; where a class has few examples, validation classes calibrate `unknown`."""
    run, others = load(path), None
    if run.settings.task_kind == "classification":
        labels, items, y = read_support(support, run.inputs, columns=columns, pattern=pattern)
        support, columns, pattern = (items, [labels[k] for k in y]), None, None
        if unknown is not None and min(Counter(y).values()) < ENOUGH:
            try:
                others = open_splits(replace(run.settings, **UNHEARD), quiet=quiet, format=run.inputs.format).val
            except UpstairsError as error:
                tell_user(
                    f"`unknown` is rough, from so few examples alone: the run's own data cannot be read ({error})"
                )
    return run.adapt(support, unknown=unknown, others=others, columns=columns, pattern=pattern)


def inputs_in(given: Sequence[str], inputs: Inputs, columns: str | None = None) -> list[Named]:
    """Returns the inputs that files, folders, zips, patterns (such as *.png) and `-` (standard input) name, in order.

    A folder stands for all files of the model's kind below it, in natural order. For a model of texts a file stands for
    its lines or the rows of a table, and a .txt file in a folder for one text; for one of arrays, a .npy file.

    Raises:
        UpstairsError: nothing was given, a pattern or a folder without files, or a table that cannot be read.
    """
    found: list[Named] = []
    for word in given:
        paths = [word]
        if glob.has_magic(word) and not Path(word).exists():
            paths = sorted(glob.glob(word, recursive=True), key=natural)  # noqa: PTH207 (of any root)
            if not paths:
                raise UpstairsError(f"no file is named like {word}: check the pattern")
        for path in paths:
            found += _inputs_at(path, inputs, columns)
    return found


def _inputs_at(path: str, inputs: Inputs, columns: str | None) -> list[Named]:
    if path == "-":
        if inputs.rows:
            raise UpstairsError("`-` reads texts and paths, and the model reads the rows of a table: give its file")
        own = sys.stdin  # read as bytes where possible: in some locales Python accepts text that is not UTF-8
        read = own.buffer.read() if isinstance(own, io.TextIOWrapper) else own.read()
        if not read.strip():
            raise UpstairsError("standard input is empty: give one input a line, or leave - out")
        return [(line, line) for line in as_text(read, "standard input").splitlines() if line.strip()]
    if Path(path).is_dir() or (path.lower().endswith((".zip", *TARS)) and Path(path).is_file()):
        files = NOTES if inputs.are_texts else {"audio": SOUNDS, "array": ARRAYS}.get(inputs.kind, PICTURES)
        with open_tree(path, files) as tree:
            if not tree.stamps:
                raise UpstairsError(f"{path} holds no {files}: give files that the model reads")
            if left_out := ignored(tree):
                tell_user(f"{path}: {left_out}")
            return [(f"{path}/{name}", tree.item(name)) for name in sorted(tree.stamps, key=natural)]
    if inputs.are_texts:
        return [(text, text) for text in texts_of(Path(path), columns)]
    if form := inputs.rows:
        asked = {"task": form.task, "inputs": form.inputs, "one": True, "judged": False}
        points = read_points(Path(path), **asked, encoding="", skip_bad=None)
        return [(f"{path}: row {i}", row) for i, row in enumerate(points.x, 1)]
    if inputs.kind == "array":
        rows = [*inputs.each(path)]
        return [(path if len(rows) == 1 else f"{path}[{i}]", row) for i, row in enumerate(rows)]
    return [(path, path)]


def predictions(
    model: Model, named: Sequence[Named], bad: dict[int, UpstairsError], coverage: float | None = None
) -> Iterator[Row]:
    """Yields the label and probabilities of each input, or its targets; `bad` receives errors by places of inputs.

    With `coverage`, the row has all labels that may be right, in `set` (see `Model.predict_set`).
    """
    for places, rows in model.inputs.batches((item for _, item in named), bad):
        logits = model.logits_of(rows)
        if model.settings.way is None:
            for place, own in zip(places, model.values_of(logits).tolist(), strict=True):
                yield {"input": named[place][0], **dict(zip(model.labels, own, strict=True))}
            continue
        sets = [{}] * len(places) if coverage is None else [{"set": s} for s in model.sets_of(logits, coverage)]
        answers = zip(places, model.name(logits), model.probabilities_of(logits).tolist(), sets, strict=True)
        for place, label, p, own in answers:
            yield {
                "input": named[place][0],
                "label": label,
                "probability": max(p),
                **own,
                "probabilities": dict(zip(model.labels, p, strict=True)),
            }


def window_rows(
    model: Model, named: Sequence[Named], bad: dict[int, UpstairsError], seconds: float | None, hop: float | None
) -> Iterator[Row]:
    """Yields the windows of each recording, as `predictions`."""
    if model.inputs.kind != "audio":
        what = f"windows are parts of recordings and this model reads inputs of kind {model.inputs.kind}"
        raise UpstairsError(f"{what}: leave `windows` out")
    for place, (name, item) in enumerate(named):
        try:
            for window in model.predict_windows(item, seconds=seconds, hop=hop):
                yield {"input": name, **window._asdict()}
        except UpstairsError as error:
            bad[place] = error


def row_text(row: Row) -> str:
    """Returns a prediction as one line: fields with a tab between them, control characters escaped."""
    if "label" not in row:
        return "\t".join(one_line(f"{name} {v:.6g}" if name != "input" else v) for name, v in row.items())
    times = [f"{row[name]:.2f}" for name in ("start", "end") if name in row]
    sets = [" | ".join(map(one_line, row["set"]))] if "set" in row else []
    return "\t".join([one_line(row["input"]), *times, one_line(row["label"]), f"{row['probability']:.1%}", *sets])


def write_predictions(rows: Sequence[Row], path: Path, *, all: bool = False) -> None:
    """Writes predictions as one of `ANSWERS`; `all`: a table has all classes' probabilities."""
    kind = path.suffix.lower()
    if kind == ".json":
        write_atomically(path, json.dumps(rows, indent=1, ensure_ascii=False).encode("utf-8", "surrogateescape"))
        return
    text, names = io.StringIO(), [name for name in (rows[0] if rows else {}) if name != "probabilities"]
    classes = list(rows[0].get("probabilities", ())) if rows and all else []
    table = csv.writer(text, delimiter="\t" if kind == ".tsv" else ",")
    table.writerow([*names, *(f"probability of {label}" for label in classes)])
    rows = [row | {"set": " | ".join(row["set"])} if "set" in row else row for row in rows]
    table.writerows([*(row[name] for name in names), *(row["probabilities"][c] for c in classes)] for row in rows)
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))
