"""Write rows of text as CSV that is also safe to open in a spreadsheet program.

Such programs compute a cell that begins with ``=``, ``+``, ``-`` or ``@``, which may fetch an address or run a command.
A text that begins so, and is not a number, gets an apostrophe in front, which they take for the mark of a text.
"""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache

from rosa_bench.system.text.printable import printable

FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")  # also in full width
NUMBER = re.compile(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", re.ASCII | re.IGNORECASE)


def tidy_csv(rows: Sequence[Mapping[str, str]]) -> str:
    """Return CSV text of the rows, one line per row, under a header with all keys; a missing value is empty."""
    file = io.StringIO()
    keys = dict.fromkeys(key for row in rows for key in row)  # tasks without a test split have no test_rows
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(keys)
    writer.writerows([escape(row.get(key, "")) for key in keys] for row in rows)
    return file.getvalue()


def csv_text(value: float | None, form: str = "{}") -> str:
    """Format a number for a CSV file; empty if it is unknown or not finite."""
    return "" if value is None or not math.isfinite(value) else form.format(value)


@cache  # most texts are in many rows
def escape(text: str) -> str:
    """Mark a text that a spreadsheet program would compute, and show its line breaks as escapes."""
    mark = "'" if FORMULA.match(text) and not NUMBER.fullmatch(text) else ""
    return mark + printable(text)
