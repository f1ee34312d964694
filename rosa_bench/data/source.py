"""Locate a task's rows without importing anything heavy."""

import hashlib
from pathlib import Path

from rosa_bench.data.spec import DataSpec, HubData
from rosa_bench.system.errors import UserError
from rosa_bench.system.files.digest import sha256

ENDINGS = DataSpec.endings


def find_file(task: DataSpec, split: str, data_dir: Path) -> Path:
    """Return the file of a split under ``data_dir``.

    Raises `UserError` that lists the file names tried, or the files if there are several.
    """
    found = files_of_split(task, split, data_dir)
    if found:
        return found[0]
    if task.is_own and data_dir.is_file():
        raise UserError(f"data={data_dir} is not a kind of file that is read; the kinds are {', '.join(task.endings)}")
    names = ", ".join(f"{split}{ending}" for ending in task.endings)
    if task.is_own:  # data= or data_dir=
        raise UserError(
            f"the folder {data_dir} has no file of {split} rows ({names}); name one in it: data=FOLDER/FILE"
        )
    raise UserError(
        f"data_dir={data_dir} has no {split} rows for task={task.name}; looked in {_folder(task, data_dir)} for {names}"
    )


def files_of_split(task: DataSpec, split: str, data_dir: Path) -> list[Path]:
    """Return the file of a split under ``data_dir`` as a list, which is empty if there is none.

    ``data_dir`` may itself be the file of the train rows, for a task on the user's own data. Raises `UserError` if
    there are several, or if ``data_dir`` is neither.
    """
    if task.is_own and data_dir.is_file():
        return [data_dir] if split == task.train and data_dir.name.endswith(task.endings) else []
    if task.is_own and not data_dir.is_dir():
        raise UserError(f"data={data_dir} does not exist; give a file or a folder with train and validation files")
    if not data_dir.is_dir():
        raise UserError(f"data_dir={data_dir} is not a folder")
    candidates = [_folder(task, data_dir) / f"{split}{ending}" for ending in task.endings]
    try:
        found = [path for path in candidates if path.is_file()]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error
    if len(found) > 1:
        both = " and ".join(path.name for path in found)
        raise UserError(f"{found[0].parent} has several files of the {split} rows, {both}; keep one")
    return found


def describe_source(task: DataSpec, data_dir: Path | None) -> str:
    """Describe the source of the rows in the same words on every machine: files by their hash, not their path."""
    if task.embedded is not None:
        return f"embedded {task.embedded}"
    if data_dir is not None:
        paths = [
            find_file(task, split, data_dir)
            for split in task.splits
            if split not in task.optional_splits or files_of_split(task, split, data_dir)
        ]
        hashes = [_hash(path) for path in paths]
        return f"files sha256:{hashlib.sha256(' '.join(hashes).encode()).hexdigest()}"
    if task.hub is None:
        raise UserError(without_source(task))
    return f"hub {hub_name(task.hub)}@{task.hub.revision or 'main'}"


def without_source(task: DataSpec) -> str:
    """Say what to do about a task whose rows are nowhere."""
    if task.is_own:
        return (
            f"task={task.name} needs your data: data=FILE ({', '.join(task.endings)}), or set data_dir=FOLDER to a "
            f"folder that contains {task.in_data_dir}"
        )
    return f"task={task.name} is not on the hub; set data_dir=FOLDER to a folder that contains {task.in_data_dir}"


def hub_name(hub: HubData) -> str:
    """Return the hub id of a data set, and its configuration if it has several: ``nyu-mll/glue/cola``."""
    return "/".join(filter(None, (hub.path, hub.name)))


def _folder(task: DataSpec, data_dir: Path) -> Path:
    return data_dir / (task.folder or task.name)


def _hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
