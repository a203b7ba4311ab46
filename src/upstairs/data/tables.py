"""Reads tables: CSV, TSV, JSON lines or Parquet."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from upstairs.data.text.hashed import as_text
from upstairs.errors import UpstairsError


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a table as dicts by column."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise UpstairsError(f"{path} needs pyarrow: pip install 'upstairs[hub]', or save it as .csv") from error
        try:
            return parquet.read_table(path).to_pylist()
        except Exception as error:
            raise UpstairsError(f"{path} is no whole Parquet file ({error}): replace it") from error
    content = as_text(path)
    if kind == ".jsonl":
        rows = []
        for number, line in enumerate(content.splitlines(), 1):
            if line.strip():
                try:
                    rows.append(dict(json.loads(line)))
                except (ValueError, TypeError) as error:
                    raise UpstairsError(f"{path}: line {number} is no JSON object ({error}): fix it") from error
        return rows
    try:
        return list(csv.DictReader(io.StringIO(content), delimiter="\t" if kind == ".tsv" else ","))
    except csv.Error as error:
        raise UpstairsError(f"{path} is no table that can be read ({error}): save it as CSV in UTF-8") from error
