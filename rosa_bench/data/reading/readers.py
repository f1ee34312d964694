"""Read rows from a file without interpreting them.

The readers of `datasets` and pandas guess types, so the texts "NA", "12" and "2020-01-02" come back as something else.
`datasets` also caches by modification time and can miss a replaced file. A benchmark must do neither.
"""

import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow
import pyarrow.parquet

from rosa_bench.data.reading.lines import LONGEST, Lines, is_unicode
from rosa_bench.data.reading.values import to_number
from rosa_bench.system.errors import UserError, cannot_be_read
from rosa_bench.system.text.json_text import loads

TEXT = "text"  # the one column of a file without columns
ANEW = "copy or download it again"
OPEN_QUOTE = "a quotation mark opens a text that never ends; close it, or double a mark that belongs to a text"


def stream_rows(path: Path, numbers: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file in order. In text-only formats the columns ``numbers`` are converted to numbers.

    Raises `UserError` that names the file, and the row and its first line if known, if the file cannot be read. Rows
    are counted from 1, without a header and blank lines.
    """
    if path.suffix == ".parquet":
        yield from _stream_parquet(path)
        return
    count = 0
    lines = None
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            lines = Lines(cast("Any", file))
            for row in _parser(path.suffix, lines, numbers):
                yield row
                count += 1
                lines.start_row()
    except PermissionError as error:
        raise cannot_be_read(str(path), error) from error
    except (OSError, EOFError, zlib.error) as error:
        after = f" after row {count}" if count else ""
        raise UserError(f"{path} cannot be read{after}: {_first_line(error)}; {ANEW}") from error
    except (ValueError, csv.Error, RecursionError) as error:
        if lines is None:
            raise UserError(f"{path} cannot be read: {_first_line(error)}") from error
        place = "the header" if lines.in_header else f"row {count + 1} (line {lines.first})"
        raise UserError(f"{path}, {place}: {_first_line(error)}") from error


def _parser(ending: str, lines: Lines, numbers: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows. Errors need not say where: the row is the one after the last that was yielded."""
    if ending == ".csv":
        return _parse_separated(lines, csv.reader(lines, strict=True), numbers)
    if ending == ".tsv":  # like GLUE's own files: quotation marks have no special meaning
        return _parse_separated(lines, csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True), numbers)
    if ending == ".txt":
        return _parse_paragraphs(lines)
    return _parse_json_lines(lines)


def _parse_paragraphs(lines: Lines) -> Iterator[dict[str, Any]]:
    """Yield each paragraph of plain text, with lines joined by ``\\n``. Blank lines separate paragraphs."""
    paragraph: list[str] = []
    for line in lines:
        if not line.isspace():
            paragraph.append(line.rstrip("\r\n"))
        elif paragraph:
            yield {TEXT: "\n".join(paragraph)}
            paragraph = []
        else:
            lines.start_row()
    if paragraph:
        yield {TEXT: "\n".join(paragraph)}


def _parse_json_lines(lines: Lines) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.isspace():
            lines.start_row()
        else:
            yield _parse_object(line.rstrip("\r\n"))


def _parse_object(line: str) -> dict[str, Any]:
    try:
        row = loads(line, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} (character {error.pos + 1})") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object")  # noqa: TRY004 - one error type for a bad file
    # Only an escape can bring half of a surrogate pair into text that is UTF-8.
    if "\\u" in line and not is_unicode(json.dumps(row, ensure_ascii=False)):
        raise ValueError(r"contains half of a surrogate pair (\ud800 to \udfff), which is not a character")
    return row


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        _refuse_duplicates("key", [key for key, _ in pairs])
    return row


def _parse_separated(
    lines: Lines, reader: Iterator[list[str]], numbers: Collection[str]
) -> Iterator[dict[str, int | float | str]]:
    csv.field_size_limit(LONGEST)
    lines.in_header = True
    header = next(filter(None, _checked(reader)), [])
    _refuse_duplicates("column", header)
    lines.in_header = False
    lines.start_row()
    for values in _checked(reader):
        if not values:
            lines.start_row()
            continue
        if len(values) != len(header):
            raise ValueError(f"does not have as many columns as the first line: {len(values)}, not {len(header)}")
        yield {name: to_number(value) if name in numbers else value for name, value in zip(header, values, strict=True)}


def _checked(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """Explain the error of a quotation mark that is never closed."""
    try:
        yield from reader
    except csv.Error as error:
        raise ValueError(OPEN_QUOTE if "unexpected end" in str(error) else f"{error}; {OPEN_QUOTE}") from error


def _refuse_duplicates(kind: str, names: Iterable[str]) -> None:
    """Raise `ValueError` if a name occurs twice, because one value would hide the other."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{kind} {twice[0]!r:.80} occurs more than once; remove or rename one")


def _stream_parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        # Not `read_table`, which makes columns of folders that are named like `label=1`.
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            _check_columns(path, file.schema_arrow.names)
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except UserError:
        raise
    except PermissionError as error:
        raise cannot_be_read(str(path), error) from error
    # Damaged metadata may also ask for too much memory, or hold dates that Python cannot represent.
    except (OSError, ValueError, ArithmeticError, MemoryError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {_first_line(error)}; {ANEW}") from error


def _check_columns(path: Path, names: Sequence[str]) -> None:
    try:
        _refuse_duplicates("column", names)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
