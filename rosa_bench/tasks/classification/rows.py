"""Load, check and split the rows of a classification or regression task."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeGuard

from rosa_bench.data.class_labels import check_order
from rosa_bench.data.hub import Place, fetch_rows
from rosa_bench.data.official import describe_rows
from rosa_bench.data.reading.once import once
from rosa_bench.data.reading.values import brief
from rosa_bench.data.rows import (
    SUBSET_SEED,
    DataInfo,
    Row,
    held_out_size,
    hold_out,
    random_order,
    read_table,
    sample,
    take,
)
from rosa_bench.data.source import files_of_split
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.classification.notes import describe_own
from rosa_bench.tasks.classification.task import TextTask

log = logging.getLogger(__name__)

MOST_ROWS = 1_000_000  # of a file of the user's own, unless limit_train or limit_eval asks for more


class Splits(NamedTuple):
    """The rows of one run. ``held_out`` is taken from train for selection; empty if the protocol selects on dev.

    facts  further facts for the record's description of the data
    """

    train: list[Row]
    held_out: list[Row]
    validation: list[Row]
    info: DataInfo
    facts: dict[str, str]


def load_splits(
    task: TextTask,
    place: Place,
    *,
    limit_train: int | None = None,
    limit_eval: int | None = None,
    held_out_rows: float = 0.0,
    held_out_max: int = 0,
    seed: int = 0,
) -> Splits:
    """Load, check, limit and split a task's rows.

    ``limit_train`` and ``limit_eval`` select random rows, the same for all seeds. ``held_out_rows`` is the fraction of
    the remaining train rows to hold out, at most ``held_out_max`` rows, drawn with ``seed``.

    Raises `UserError` if data are missing or differ from the task's declaration.
    """
    place = fetch_rows(task, place)  # once for both splits
    limits = {task.train: limit_train, task.validation: limit_eval}
    most = {split: max(limit or 0, MOST_ROWS) for split, limit in limits.items()}
    everything, facts = once(repr((task, place, most)), lambda: read_everything(task, place, most=most))
    train = sample(everything[task.train], limit_train, key="limit_train", what="train rows")
    validation = sample(everything[task.validation], limit_eval, key="limit_eval", what="validation rows")
    held_out: list[Row] = []
    if held_out_rows:
        size = held_out_size(len(train), held_out_rows, held_out_max)
        train, held_out = hold_out(train, size, seed=seed)
    if not train:
        raise UserError(
            f"task={task.name} has no train rows left after limit_train and the held-out rows; use a larger limit_train"
        )
    info = describe_rows(
        task,
        place,
        everything,
        kept={task.train: len(train) + len(held_out), task.validation: len(validation)},
        rows={"train": len(train), "held_out": len(held_out), "validation": len(validation)},
        used=[*train, *held_out, *validation],
    )
    return Splits(train, held_out, validation, info, facts)


def read_everything(
    task: TextTask, place: Place, *, most: Mapping[str, int]
) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """Return all rows by split, and a note about the user's own rows for the record, or no note.

    Of a larger file of the user's own, ``most`` random rows are read. If there is no file of validation rows, some
    train rows take their place. Both are the same in every run, whatever its seed.
    """
    if not task.is_own:
        return {split: load_rows(task, split, place) for split in (task.train, task.validation)}, {}
    train, count = load_some_rows(task, task.train, place, most=most[task.train])
    if not isinstance(place, Path) or files_of_split(task, task.validation, place):
        validation, _ = load_some_rows(task, task.validation, place, most=most[task.validation])
        drawn = None
    else:
        order, drawn = random_order(len(train), SUBSET_SEED), len(train)
        size = held_out_size(drawn, task.validation_fraction, drawn - 1)
        train, validation = take(train, sorted(order[size:])), take(train, sorted(order[:size]))
    facts = describe_own(task, train, validation, count=count, drawn_from=drawn)
    log.info("%s: %s", task.title, facts["note"])
    return {task.train: train, task.validation: validation}, facts


def load_rows(task: TextTask, split: str, place: Place) -> list[Row]:
    """Load all rows of a split and check each against the task's declaration."""
    return load_some_rows(task, split, place)[0]


def load_some_rows(task: TextTask, split: str, place: Place, *, most: int | None = None) -> tuple[list[Row], int]:
    """Load the rows of a split, or ``most`` random ones of them, check each, and count all that there are."""
    table = read_table(task, split, place, columns=task.columns, numbers=task.numbers, most=most)
    check_order(table.classes.get(task.label), task.labels, task.hub.labels if task.hub else None, where=table.where)
    rows = []
    for number, values in enumerate(table.rows, start=1):
        try:
            texts = tuple(_text(task, values, column) for column in task.text)
            rows.append(Row(texts, task.label_of(values.get(task.label))))
        except ValueError as error:
            raise UserError(f"{table.where}, row {number}: {error}") from None
    return rows, table.total


def _text(task: TextTask, values: dict, column: str) -> str:
    text = values.get(column)
    if not isinstance(text, str):
        raise ValueError(f"column {column} contains {brief(text)}, not a text")  # noqa: TRY004 - one error type for a bad row
    if column not in task.marks:
        return text
    mark = task.marks[column]
    start, end = values.get(mark.start), values.get(mark.end)
    if not (_is_index(start) and _is_index(end) and 0 <= start < end <= len(text)):
        raise ValueError(
            f"{mark.start}={brief(start)}, {mark.end}={brief(end)} is not a span of {column}, "
            f"which has {len(text)} characters"
        )
    # Spaces around the markers leave the word's own tokens unchanged.
    return f"{text[:start]}{task.marker} {text[start:end]} {task.marker}{text[end:]}"


def _is_index(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
