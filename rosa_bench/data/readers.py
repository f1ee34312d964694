"""Read rows from a file without interpreting them.

The readers of `datasets` and pandas guess types, so the texts "NA", "12" and "2020-01-02" come back as something else.
`datasets` also caches by modification time and can miss a replaced file. A benchmark must do neither.
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
    """Read the rows of a file in order. In text-only formats the columns ``numbers`` are converted to numbers.

    Raises `UserError` that names the file, and the row if known, if the file cannot be read.
    """
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path).to_pylist()
        open_file = gzip.open if path.suffix == ".gz" else open
        with open_file(path, "rt", encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                return _parse_separated(csv.DictReader(file, strict=True), numbers)
            if path.suffix == ".tsv":  # like GLUE's own files: quotation marks have no special meaning
                return _parse_separated(
                    csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True), numbers
                )
            return _parse_json_lines(file)
    except (OSError, EOFError, ValueError, csv.Error, pyarrow.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def _parse_json_lines(file: Iterable[str]) -> Rows:
    rows = []
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is not a JSON object")  # noqa: TRY004 - one error type for a bad file
        rows.append(row)
    return rows


def _parse_separated(reader: csv.DictReader, numbers: Collection[str]) -> Rows:
    rows = []
    for number, row in enumerate(reader, start=1):
        if None in row or None in row.values():
            raise ValueError(f"row {number} does not have as many columns as the first line")
        rows.append({name: _to_number(value) if name in numbers else value for name, value in row.items()})
    return rows


def _to_number(text: str) -> int | float | str:
    """Convert a text to a number. Return other texts unchanged; they are reported when the row is checked."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
