"""What a reader must know about the user's own rows: columns, classes, held-out rows, and duplicates."""

from collections import Counter
from collections.abc import Sequence

from rosa_bench.data.rows import Row
from rosa_bench.system.text.printable import cut
from rosa_bench.tasks.classification.task import TextTask

MOST_SHOWN = 6  # classes
LONGEST = 40  # characters of a class's name
LARGE = 100  # a number that a model with weights near 0 learns slowly


def describe_own(
    task: TextTask, train: Sequence[Row], validation: Sequence[Row], *, count: int, drawn_from: int | None
) -> dict[str, str]:
    """Return a note for the record and the tables.

    ``count`` is the number of rows in the train file, and ``drawn_from`` that of the rows from which validation rows
    were drawn; None if they have a file of their own.
    """
    have = len(train) + (len(validation) if drawn_from else 0)
    parts = [
        f"text from {' and '.join(task.text)}; {_labels(task, [*train, *validation])}",
        f"{have:,} random rows of {count:,}, the same in every run" if count > have else "",
        f"dev: {len(validation):,} of the {drawn_from:,} rows, drawn at random, the same for every seed"
        if drawn_from
        else f"dev: the rows of {task.validation}",
        _shared(train, validation),
        _blank([*train, *validation]),
    ]
    return {"note": "; ".join(part for part in parts if part)}


def _labels(task: TextTask, rows: Sequence[Row]) -> str:
    if not task.labels:
        least, greatest = task.interval
        far = max(abs(least), abs(greatest)) > LARGE
        scale = f"; such large numbers are learned slowly: divide them to about {LARGE / 10:g} or less" if far else ""
        return f"regression on the numbers in {task.label}, from {least:g} to {greatest:g}{scale}"
    counts = Counter(row.label for row in rows)
    named = [f"{cut(name, LONGEST)} {counts[number]:,}" for number, name in enumerate(task.labels)]
    more = f" and {len(named) - MOST_SHOWN} more" if len(named) > MOST_SHOWN else ""
    return f"{len(named)} classes from {task.label} ({', '.join(named[:MOST_SHOWN])}{more})"


def _shared(train: Sequence[Row], validation: Sequence[Row]) -> str:
    known = {row.texts for row in train}
    count = sum(row.texts in known for row in validation)
    return (
        f"{count:,} of the {len(validation):,} dev rows have the text of a train row, so scores are too high"
        if count
        else ""
    )


def _blank(rows: Sequence[Row]) -> str:
    count = sum(not all(text.strip() for text in row.texts) for row in rows)
    return f"{count:,} rows with an empty text" if count else ""
