"""Rows on the Hugging Face hub: parquet files of a data set, at one commit."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from rosa_bench.data.source import without_source
from rosa_bench.data.spec import DataSpec, HubData
from rosa_bench.system.errors import UserError
from rosa_bench.system.hub.cache import Repository, Snapshot
from rosa_bench.system.hub.repository import fetch

# Where a task's rows are: the user's folder, files of the hub, or None: still on the hub, or generated.
Place = Path | Snapshot | None
PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(-[0-9a-f]+)?\.parquet")


def fetch_rows(task: DataSpec, place: Place, *, commit: str | None = None) -> Place:
    """Return the place of a task's rows with those on the hub fetched. Any other place is returned as it is.

    ``commit`` is the only one that will do; by default the newest of ``task.hub.revision``. Raises `UserError` if the
    files cannot be fetched and are not cached.
    """
    if task.embedded is not None or place is not None:
        return place
    hub = task.hub
    if hub is None:
        raise UserError(without_source(task))

    def choose(paths: Sequence[str]) -> list[str]:
        return [path for split in task.splits for path in files_of(hub, split, paths)]  # pyrefly: ignore[bad-argument-type]

    pinned = [] if commit is None else ["start again with resume=never"]
    return fetch(
        Repository(hub.path, "dataset", hub.revision or "main"),
        choose,
        what=f"task={task.name}",
        remedies=[
            "connect to the network",
            f"correct data={hub.path} if it is meant to be a file or folder here"
            if task.is_own
            else f"set data_dir=FOLDER to a folder that contains {task.in_data_dir}",
            *pinned,
        ],
        commit=commit,
    )


def split_files(hub: HubData, split: str, snapshot: Snapshot) -> list[Path]:
    """Return the files of a split in the order of their names."""
    return [snapshot.folder / path for path in files_of(hub, split, snapshot.files)]


def files_of(hub: HubData, split: str, paths: Sequence[str]) -> list[str]:
    """Return which of a repository's files hold a split. Raises `UserError` if there are none, or not all parts."""
    pattern = hub.pattern.replace("{split}", split)
    found = sorted(path for path in paths if PurePosixPath("/", path).match(f"/{pattern}"))
    if not found:
        raise UserError(
            f"{hub.path} has no files {pattern}; set task.hub.files to the pattern of its parquet files, with {{split}}"
        )
    parts = [match for path in found if (match := PART.fullmatch(path))]
    if parts and len(parts) != sum({int(match[3]) for match in parts}):
        raise UserError(f"{hub.path} has {len(parts)} of the {parts[0][3].lstrip('0')} files {pattern}")
    return found
