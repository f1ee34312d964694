"""Load the rows that a task declares: from a local folder, the hub, or a generator in this package."""

import hashlib
import json
import logging
import reprlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rosa_bench.data.class_labels import declared_classes
from rosa_bench.data.generators import generate
from rosa_bench.data.hub import Place, fetch_rows, split_files
from rosa_bench.data.readers import read_rows
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
    """Unchecked rows, their source for error messages, and the class names that it declares, by column."""

    rows: list[dict[str, Any]]
    where: str
    classes: Mapping[str, Sequence[str]] = {}


@dataclass(frozen=True)
class DataInfo:
    """Description of a run's data, as stored in its record; its fields are those of `records.record.Data`."""

    source: str
    synthetic: bool
    rows: dict[str, int]
    official_rows: dict[str, int]
    subset: bool
    fingerprint: str
    official: bool | None
    commit: str | None = None


def read_table(
    task: DataSpec, split: str, place: Place, *, columns: Sequence[str], numbers: Collection[str] = ()
) -> Table:
    """Read the rows of a split from the task's source. Raises `UserError` if rows or columns are missing."""
    place = fetch_rows(task, place)
    if task.embedded is not None:
        table = Table(generate(task.embedded, split), f"task={task.name}, split {split}")
    elif isinstance(place, Path):
        path = find_file(task, split, place)
        table = Table(read_rows(path, numbers=numbers), str(path), declared_classes([path]))
    else:
        assert task.hub is not None
        assert place is not None
        paths = split_files(task.hub, split, place)
        rows = [row for path in paths for row in read_rows(path, numbers=numbers)]
        table = Table(rows, f"{task.hub.path}, split {split}", declared_classes(paths))
    if not table.rows:
        raise UserError(f"{table.where} has no rows")
    present = list(dict.fromkeys(column for row in table.rows for column in row))
    if missing := [column for column in columns if column not in present]:
        raise UserError(f"{table.where}: no column {', '.join(missing)}; the columns are {_listed(present)}")
    return table


def _listed(names: Sequence[str], most: int = 20) -> str:
    """List names of columns, each on one line however odd it is."""
    shown = [name if name.isprintable() else ascii(name) for name in names[:most]]
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join(f"{name:.80}" for name in [*shown, *more])


def brief(value: object) -> str:
    """Write a value from a row for an error message: on one line, and not much longer than that line."""
    return reprlib.repr(value)


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
