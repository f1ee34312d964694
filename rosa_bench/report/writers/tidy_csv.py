"""Write rows of text as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence


def tidy_csv(rows: Sequence[Mapping[str, str]]) -> str:
    """Return CSV text of the rows, under a header with the keys of the first row."""
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
