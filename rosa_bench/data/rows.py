"""From a task's declaration to checked rows: a local folder, the hub, or a generator in this package."""

import hashlib
import json
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

T = TypeVar("T")
SUBSET_SEED = 0  # of limit_train and limit_eval: the same rows for every run, whatever its seed


class Row(NamedTuple):
    """One example: its text or pair of texts, and its class number or value."""

    texts: tuple[str, ...]
    label: int | float


class Table(NamedTuple):
    """Rows as they stand, and where they are from, to name in an error."""

    rows: list[dict[str, Any]]
    where: str


@dataclass(frozen=True)
class DataInfo:
    """What a record says of the data of one run."""

    source: str
    synthetic: bool
    rows: dict[str, int]
    official_rows: dict[str, int]
    subset: bool
    fingerprint: str


def read_table(
    task: DataSpec, split: str, data_dir: Path | None, *, columns: Sequence[str], numbers: Collection[str] = ()
) -> Table:
    """The rows of a split as they stand, from wherever the task has them, with all ``columns`` there."""
    if task.embedded is not None:
        table = Table(generate(task.embedded, split), f"task={task.name}, split {split}")
    elif data_dir is not None:
        path = find_file(task, split, data_dir)
        table = Table(read_rows(path, numbers=numbers), str(path))
    else:
        table = Table(_from_hub(task, split), f"{task.hub.path if task.hub else task.name}, split {split}")
    if not table.rows:
        raise UserError(f"{table.where} has no rows")
    there = list(dict.fromkeys(column for row in table.rows for column in row))
    if missing := [column for column in columns if column not in there]:
        raise UserError(f"{table.where}: no column {', '.join(missing)}; the columns are {', '.join(there)}")
    return table


def held_out_size(count: int, fraction: float, most: int) -> int:
    """How many of ``count`` train rows are held out: ``fraction`` of them, at most ``most``, at least one unless 0."""
    return min(max(1, round(fraction * count)), most) if fraction else 0


def fingerprint(rows: Sequence[tuple]) -> str:
    """SHA-256 of the rows themselves, in order: equal for equal data, wherever it came from."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def _from_hub(task: DataSpec, split: str) -> list[dict[str, Any]]:
    hub = task.hub
    if hub is None:
        raise UserError(f"task={task.name} is not on the hub; name the folder that has it with data_dir=FOLDER")
    try:
        if hub.files is not None:
            return _from_files(hub, hub.files.format(split=split))
        found = datasets.load_dataset(hub.path, hub.name, split=split, revision=hub.revision)
        return found.to_list()  # pyright: ignore[reportAttributeAccessIssue]
    except OSError as error:  # no network, no such data set and no cached copy all end here
        raise UserError(
            f"task={task.name} cannot be fetched from the hub ({hub.path}) and is not cached on this machine; "
            f"connect, or name a folder that has {task.folder}/ with data_dir=FOLDER"
        ) from error


def _from_files(hub: HubData, files: str) -> list[dict[str, Any]]:
    """The rows of parquet files on the hub, which are fetched once: `datasets` would ask the hub for them each time.

    Raises `OSError` where they cannot be fetched and are not cached.
    """
    folder = Path(
        huggingface_hub.snapshot_download(hub.path, repo_type="dataset", revision=hub.revision, allow_patterns=files)
    )
    paths = sorted(folder.glob(files))
    if not paths:  # without a network: others of that revision may be cached
        raise FileNotFoundError(f"no {files} in {folder}")
    return [row for path in paths for row in read_rows(path, numbers=())]


def _shuffled(count: int, seed: int) -> list[int]:
    import torch

    return torch.randperm(count, generator=generator(seed, "rows")).tolist()


def _take(rows: list[T], indices: Sequence[int]) -> list[T]:
    return [rows[index] for index in indices]


def sample(rows: list[T], limit: int | None) -> list[T]:
    """``limit`` random rows in their own order; all of them where there is no limit, or it is larger."""
    if limit is None or limit >= len(rows):
        return rows
    return _take(rows, sorted(_shuffled(len(rows), SUBSET_SEED)[:limit]))
