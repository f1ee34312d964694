"""From a task's declaration to checked rows: a local folder, the hub, or a generator in this package."""

import hashlib
import importlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import datasets
import huggingface_hub

from rosa_bench.data.read import read_rows
from rosa_bench.data.source import describe_source, find_file
from rosa_bench.data.task import HubData, Task, TextTask
from rosa_bench.errors import UserError

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


def read_table(
    task: Task, split: str, data_dir: Path | None, *, columns: Sequence[str], numbers: Collection[str] = ()
) -> Table:
    """The rows of a split as they stand, from wherever the task has them, with all ``columns`` there."""
    if task.embedded is not None:
        module, _, function = task.embedded.partition(":")
        table = Table(getattr(importlib.import_module(module), function)(split), f"task={task.name}, split {split}")
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


def _from_hub(task: Task, split: str) -> list[dict[str, Any]]:
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


def _shuffled(count: int, seed: int) -> list[int]:
    import torch

    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def _take(rows: list[T], indices: Sequence[int]) -> list[T]:
    return [rows[index] for index in indices]


def sample(rows: list[T], limit: int | None) -> list[T]:
    """``limit`` random rows in their own order; all of them where there is no limit, or it is larger."""
    if limit is None or limit >= len(rows):
        return rows
    return _take(rows, sorted(_shuffled(len(rows), SUBSET_SEED)[:limit]))
