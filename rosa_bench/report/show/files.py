"""Where a run's files lie."""

from collections.abc import Iterator
from pathlib import Path

from rosa_bench.records.record import RunRecord

CHECKPOINTS, ADAPTER = "checkpoints", "adapter"
FOLDERS = {CHECKPOINTS: "step-*", "model": "*", ADAPTER: "*"}  # of a run's outputs, with what each has inside


def files(run: RunRecord, path: Path, output_dir: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name and the place of everything that is left of a run: its record, rows beside it, and its outputs.

    The record and its rows are named inside their folder, which comes first.
    """
    yield "folder", path.parent
    yield "record", Path(path.name)
    for kind, name in (("predictions", run.scores.predictions), ("generations", run.scores.generations)):
        if name and path.with_name(name).is_file():
            yield kind, Path(name)
    for name in FOLDERS:
        if (folder := kept_outputs(run, name, output_dir)) is not None:
            yield name, folder


def kept_outputs(run: RunRecord, name: str, output_dir: Path) -> Path | None:
    """Return a folder of a run's outputs if anything is inside."""
    folder = output_dir / run.id / name
    return folder if next(folder.glob(FOLDERS[name]), None) is not None else None
