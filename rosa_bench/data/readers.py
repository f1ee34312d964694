"""Read a file of rows as they stand.

The readers of `datasets` and pandas guess types, so that the texts "NA", "12" and "2020-01-02" come back as something
else, and keep a cache by time of change, so that a file put in another's place may not be seen. A benchmark must do
neither.
"""

import csv
import gzip
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from rosa_bench.system.errors import UserError

Rows = list[dict[str, Any]]


def read_rows(path: Path, numbers: Collection[str]) -> Rows:
    """The rows of a file in their order. Where a format knows text alone, the columns ``numbers`` become numbers.

    Raises `UserError` naming the file, and the row if it is one, for what cannot be read.
    """
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path).to_pylist()
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                return _separated(csv.DictReader(file, strict=True), numbers)
            if path.suffix == ".tsv":  # as GLUE's own files: a quotation mark is a character like another
                return _separated(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True), numbers)
            return _json_lines(file)
    except (OSError, EOFError, ValueError, csv.Error, pyarrow.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def _json_lines(file: Iterable[str]) -> Rows:
    rows = []
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is not a JSON object")  # noqa: TRY004 - one kind of error for a bad file
        rows.append(row)
    return rows


def _separated(reader: csv.DictReader, numbers: Collection[str]) -> Rows:
    rows = []
    for number, row in enumerate(reader, start=1):
        if None in row or None in row.values():
            raise ValueError(f"row {number} has not as many columns as the first line")
        rows.append({name: _number(value) if name in numbers else value for name, value in row.items()})
    return rows


def _number(text: str) -> int | float | str:
    """The number that a text is; the text itself, to be told to the user later, if it is none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
