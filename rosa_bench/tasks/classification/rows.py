"""From a task's declaration to checked rows: a local folder, the hub, or a generator in this package."""

from pathlib import Path
from typing import NamedTuple

from rosa_bench.data.rows import DataInfo, Row, _shuffled, _take, fingerprint, held_out_size, read_table, sample
from rosa_bench.data.source import describe_source
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.classification.task import TextTask


class Splits(NamedTuple):
    """The rows of one run. ``held_out`` comes out of train, to select on; empty where a protocol selects on dev."""

    train: list[Row]
    held_out: list[Row]
    validation: list[Row]
    info: DataInfo


def load_splits(
    task: TextTask,
    data_dir: Path | None,
    *,
    limit_train: int | None = None,
    limit_eval: int | None = None,
    held_out_rows: float = 0.0,
    held_out_max: int = 0,
    seed: int = 0,
) -> Splits:
    """Load, check, limit and split a task's rows.

    ``limit_train`` and ``limit_eval`` draw random rows once for all seeds. ``held_out_rows`` is the fraction of the
    remaining train rows to set apart, at most ``held_out_max``, drawn by ``seed``.

    Raises `UserError` for data that is not there or not as the task declares it.
    """
    everything = {split: load_rows(task, split, data_dir) for split in (task.train, task.validation)}
    train = sample(everything[task.train], limit_train)
    validation = sample(everything[task.validation], limit_eval)
    held_out: list[Row] = []
    if held_out_rows:
        shuffled = _shuffled(len(train), seed)
        size = held_out_size(len(train), held_out_rows, held_out_max)
        held_out, train = _take(train, shuffled[:size]), _take(train, sorted(shuffled[size:]))
    if not train:
        raise UserError(f"task={task.name} has no train rows left after limit_train and the held-out slice")
    info = DataInfo(
        source=describe_source(task, data_dir),
        synthetic=task.synthetic,
        rows={"train": len(train), "held_out": len(held_out), "validation": len(validation)},
        official_rows=dict(task.rows),
        subset=any(
            task.rows.get(split, len(rows)) > len(kept)
            for split, rows, kept in (
                (task.train, everything[task.train], [*train, *held_out]),
                (task.validation, everything[task.validation], validation),
            )
        ),
        fingerprint=fingerprint([*train, *held_out, *validation]),
    )
    return Splits(train, held_out, validation, info)


def load_rows(task: TextTask, split: str, data_dir: Path | None) -> list[Row]:
    """All rows of a split, each checked against the task's declaration."""
    table = read_table(task, split, data_dir, columns=task.columns, numbers=task.numbers)
    rows = []
    for number, values in enumerate(table.rows, start=1):
        try:
            texts = tuple(_text(task, values, column) for column in task.text)
            rows.append(Row(texts, _label(task, values.get(task.label))))
        except ValueError as error:
            raise UserError(f"{table.where}, row {number}: {error}") from None
    return rows


def _text(task: TextTask, values: dict, column: str) -> str:
    text = values.get(column)
    if not isinstance(text, str):
        raise ValueError(f"column {column} holds {text!r}, not a text")  # noqa: TRY004 - one kind of error for a bad row
    if column not in task.marks:
        return text
    mark = task.marks[column]
    start, end = values.get(mark.start), values.get(mark.end)
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= len(text)):
        raise ValueError(f"{mark.start}={start}, {mark.end}={end} is no span of {column}, of {len(text)} characters")
    # Spaces around the signs keep the word's own tokens what they were.
    return f"{text[:start]}{task.marker} {text[start:end]} {task.marker}{text[end:]}"


def _label(task: TextTask, value: object) -> int | float:
    if task.labels:
        if isinstance(value, (int, float)) and value in range(len(task.labels)):
            return int(value)
        raise ValueError(f"label {value!r} is not one of 0..{len(task.labels) - 1}")
    least, greatest = task.interval
    if isinstance(value, (int, float)) and least <= value <= greatest:
        return float(value)
    raise ValueError(f"label {value!r} is not between {least:g} and {greatest:g}")
