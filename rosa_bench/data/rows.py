"""Load the rows that a task declares: from a local folder, the hub, or a generator in this package."""

import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rosa_bench.data.class_labels import declared_classes
from rosa_bench.data.generators import generate
from rosa_bench.data.hub import Place, fetch_rows, split_files
from rosa_bench.data.reading.readers import stream_rows
from rosa_bench.data.source import find_file
from rosa_bench.data.spec import DataSpec
from rosa_bench.system.errors import UserError
from rosa_bench.system.seeds import generator

log = logging.getLogger(__name__)

T = TypeVar("T")
SUBSET_SEED = 0  # for limit_train and limit_eval: every run gets the same rows, whatever its seed


class Row(NamedTuple):
    """One example: a text or pair of texts, and its class index or value."""

    texts: tuple[str, ...]
    label: int | float


class Table(NamedTuple):
    """Unchecked rows, their source for error messages, and the class names that it declares, by column.

    total  number of rows in the source, which is larger than that of ``rows`` if only some were kept
    """

    rows: list[dict[str, Any]]
    where: str
    classes: Mapping[str, Sequence[str]]
    total: int


@dataclass(frozen=True)
class DataInfo:
    """Description of a run's data, as stored in its record; its fields are those of `records.conditions.Data`.

    available  number of rows in each split before any limit, where they were counted; not in records
    """

    source: str
    synthetic: bool
    rows: dict[str, int]
    official_rows: dict[str, int]
    subset: bool
    fingerprint: str
    official: bool | None
    commit: str | None = None
    available: dict[str, int] = field(default_factory=dict)


def read_table(
    task: DataSpec,
    split: str,
    place: Place,
    *,
    columns: Sequence[str],
    numbers: Collection[str] = (),
    most: int | None = None,
) -> Table:
    """Read the rows of a split from the task's source, or ``most`` random ones of them.

    Raises `UserError` if rows or columns are missing.
    """
    place = fetch_rows(task, place)
    if task.embedded is not None:
        rows = generate(task.embedded, split, **task.generated_with)
        table = Table(rows, f"task={task.name}, split {split}", {}, len(rows))
    else:
        paths, where = files_of_rows(task, split, place)
        rows, count = _some_rows(paths, numbers, most)
        table = Table(rows, where, declared_classes(paths), count)
    if not table.rows:
        raise UserError(f"{table.where} has no rows")
    check_columns(columns_of(table.rows), columns, where=table.where)
    return table


def files_of_rows(task: DataSpec, split: str, place: Place) -> tuple[list[Path], str]:
    """Return the files of a split that are on this machine, and their name for messages."""
    if isinstance(place, Path):
        path = find_file(task, split, place)
        return [path], str(path)
    assert task.hub is not None
    assert place is not None
    return split_files(task.hub, split, place), f"{task.hub.path}, split {split}"


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns of any of the rows, in order."""
    return list(dict.fromkeys(column for row in rows for column in row))


def check_columns(present: Sequence[str], wanted: Sequence[str], *, where: str) -> None:
    """Raise `UserError`, which lists the columns ``present``, if one of the ``wanted`` is missing."""
    if missing := [column for column in wanted if column not in present]:
        raise UserError(f"{where}: no column {', '.join(missing)}; the columns are {listed(present)}")


def _some_rows(paths: Sequence[Path], numbers: Collection[str], most: int | None) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of files in order, at most ``most`` random ones, and how many there are.

    The same rows are kept in every run. Files with more rows are read twice, so that their rows need not fit into
    memory.
    """
    rows: list[dict[str, Any]] = []
    count = 0
    for count, row in enumerate(_stream(paths, numbers), start=1):
        if most is None or count <= most:
            rows.append(row)
    if most is None or count <= most:
        return rows, count
    rows.clear()
    kept = set(random_order(count, SUBSET_SEED)[:most])
    return [row for number, row in enumerate(_stream(paths, numbers)) if number in kept], count


def _stream(paths: Sequence[Path], numbers: Collection[str]) -> Iterator[dict[str, Any]]:
    for path in paths:
        yield from stream_rows(path, numbers)


def listed(names: Sequence[str], most: int = 20) -> str:
    """List names of columns, each on one line however odd it is."""
    shown = [name if name.isprintable() else ascii(name) for name in names[:most]]
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join(f"{name:.80}" for name in [*shown, *more])


def held_out_size(count: int, fraction: float, maximum: int) -> int:
    """Return how many of ``count`` train rows to hold out: ``fraction`` of them, from 1 to ``maximum``; 0 for 0.0."""
    return min(max(1, round(fraction * count)), maximum) if fraction else 0


def fingerprint(rows: Sequence[tuple]) -> str:
    """Return the SHA-256 of the rows in order. Equal data have equal fingerprints, whatever their source."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def random_order(count: int, seed: int) -> list[int]:
    """Return a random permutation of ``range(count)``."""
    import torch

    return torch.randperm(count, generator=generator(seed, "rows")).tolist()


def take(rows: list[T], indices: Sequence[int]) -> list[T]:
    """Return the rows at ``indices``, in that order."""
    return [rows[index] for index in indices]


def hold_out(rows: list[T], size: int, *, seed: int) -> tuple[list[T], list[T]]:
    """Return rows without ``size`` random ones, in their order, and those that are held out, in a random order."""
    order = random_order(len(rows), seed)
    return take(rows, sorted(order[size:])), take(rows, order[:size])


def limited(limit: int | None, count: int, *, key: str, what: str) -> int:
    """Return how many of ``count`` rows a limit leaves. Logs a warning if there are fewer rows than the limit.

    ``key`` is the name of the setting, ``what`` that of the rows.
    """
    if limit is not None and limit > count:
        log.warning("%s=%d is more than the %d %s, so all of them are used", key, limit, count, what)
    return count if limit is None else min(limit, count)


def sample(rows: list[T], limit: int | None, *, key: str, what: str) -> list[T]:
    """Return random rows, as many as `limited` says, in their original order."""
    count = limited(limit, len(rows), key=key, what=what)
    return rows if count == len(rows) else take(rows, sorted(random_order(len(rows), SUBSET_SEED)[:count]))
