"""Load the rows that a task declares: from a local folder, the hub, or a generator in this package."""

import hashlib
import json
import logging
import reprlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import datasets
import huggingface_hub

from rosa_bench.data.generators import generate
from rosa_bench.data.readers import read_rows
from rosa_bench.data.source import find_file
from rosa_bench.data.spec import DataSpec, HubData
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
    """Unchecked rows, and their source for error messages."""

    rows: list[dict[str, Any]]
    where: str


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


def read_table(
    task: DataSpec, split: str, data_dir: Path | None, *, columns: Sequence[str], numbers: Collection[str] = ()
) -> Table:
    """Read the rows of a split from the task's source. Raises `UserError` if rows or columns are missing."""
    if task.embedded is not None:
        table = Table(generate(task.embedded, split), f"task={task.name}, split {split}")
    elif data_dir is not None:
        path = find_file(task, split, data_dir)
        table = Table(read_rows(path, numbers=numbers), str(path))
    else:
        table = Table(_from_hub(task, split), f"{task.hub.path if task.hub else task.name}, split {split}")
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


def _from_hub(task: DataSpec, split: str) -> list[dict[str, Any]]:
    hub = task.hub
    if hub is None:
        raise UserError(
            f"task={task.name} is not on the hub; set data_dir=FOLDER to a folder that contains {task.folder}/"
        )
    try:
        if hub.files is not None:
            return _from_files(hub, hub.files.format(split=split))
        found = datasets.load_dataset(hub.path, hub.name, split=split, revision=hub.revision)
        return found.to_list()  # pyright: ignore[reportAttributeAccessIssue]
    except OSError as error:  # no network, unknown data set, or no cached copy
        raise UserError(
            f"task={task.name} cannot be fetched from the hub ({hub.path}) and is not cached on this machine; "
            f"connect to the network, or set data_dir=FOLDER to a folder that contains {task.folder}/"
        ) from error


def _from_files(hub: HubData, files: str) -> list[dict[str, Any]]:
    """Read parquet files from the hub's cache, downloading them once. (`datasets` would contact the hub every time.)

    Raises `OSError` if they cannot be downloaded and are not cached.
    """
    folder = Path(
        huggingface_hub.snapshot_download(hub.path, repo_type="dataset", revision=hub.revision, allow_patterns=files)
    )
    paths = sorted(folder.glob(files))
    if not paths:  # offline, with only other files of this revision cached
        raise FileNotFoundError(f"no {files} in {folder}")
    return [row for path in paths for row in read_rows(path, numbers=())]


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
