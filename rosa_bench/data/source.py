"""Where a task's rows are, found before anything heavy is imported."""

import hashlib
from pathlib import Path

from rosa_bench.data.spec import DataSpec
from rosa_bench.system.errors import UserError
from rosa_bench.system.files import sha256

ENDINGS = (".jsonl.gz", ".jsonl", ".parquet", ".tsv", ".csv")


def find_file(task: DataSpec, split: str, data_dir: Path) -> Path:
    """The file of a split under ``data_dir``. Raises `UserError` that lists what was looked for."""
    if not data_dir.is_dir():
        raise UserError(f"data_dir={data_dir} is not a folder")
    wanted = [data_dir / (task.folder or task.name) / f"{split}{ending}" for ending in ENDINGS]
    for path in wanted:
        if path.is_file():
            return path
    names = ", ".join(path.name for path in wanted)
    raise UserError(
        f"data_dir={data_dir} has no {split} rows for task={task.name}; looked in {wanted[0].parent} for {names}"
    )


def describe_source(task: DataSpec, data_dir: Path | None) -> str:
    """Where the rows come from, in words that hold on any machine: for files, by their bytes and not their path."""
    if task.embedded is not None:
        return f"embedded {task.embedded}"
    if data_dir is not None:
        hashes = [sha256(find_file(task, split, data_dir)) for split in task.splits]
        return f"files sha256:{hashlib.sha256(' '.join(hashes).encode()).hexdigest()}"
    if task.hub is None:
        raise UserError(f"task={task.name} is not on the hub; name the folder that has it with data_dir=FOLDER")
    return f"hub {'/'.join(filter(None, (task.hub.path, task.hub.name)))}@{task.hub.revision or 'main'}"
