"""Records on disk: one JSON file per run, in ``runs/<task>/<model>/`` of a results folder.

Older versions kept all records in ``runs/`` itself. Such a record stays there, and later records of the same run
replace it in the same place.
"""

import errno
import itertools
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from rosa_bench.records import strict_json
from rosa_bench.records.mistake import mistake_in, mistake_in_values
from rosa_bench.records.record import SCHEMA, RunRecord, from_values, to_values
from rosa_bench.system.errors import UserError, cannot_be_read
from rosa_bench.system.files.atomic import write_atomic
from rosa_bench.system.resources.collector import collector_paused
from rosa_bench.system.text.printable import printable

log = logging.getLogger(__name__)


def runs_folder(results_dir: Path) -> Path:
    """Return the folder that contains the records of a results folder."""
    return results_dir / "runs"


def superseded_folder(results_dir: Path) -> Path:
    """Return the folder for replaced records and generations."""
    return runs_folder(results_dir) / "superseded"


def record_path(results_dir: Path, run_id: str, *, task: str, model: str) -> Path:
    """Return the path of a run's record, whether or not it exists. ``task`` and ``model`` are names."""
    flat = runs_folder(results_dir) / f"{run_id}.json"
    nested = runs_folder(results_dir) / task / model / flat.name
    return flat if flat.is_file() and not nested.is_file() else nested


def path_of(record: RunRecord, results_dir: Path) -> Path:
    """Return the path of a record, whether or not it exists."""
    settings = record.settings
    return record_path(results_dir, record.id, task=settings.task.name, model=settings.model.name)


def save_record(record: RunRecord, results_dir: Path) -> Path:
    """Write a record and return its path. An earlier record of the run, or a damaged file, is kept as superseded.

    An incomplete run does not replace a completed one: its own record goes to the superseded folder.
    """
    path = path_of(record, results_dir)
    text = json.dumps(to_values(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if path.exists():
        aside = free_name(superseded_folder(results_dir), record.id)
        if record.status != "completed" and _is_completed(path):
            path = aside
        else:
            write_atomic(aside, path.read_bytes())  # a copy: the old record stays until the new one is written
    write_atomic(path, text)
    return path


def save_beside(text: str, record: Path, results_dir: Path, *, ending: str) -> Path:
    """Write a text next to a ``record`` and return its path, ``<record><ending>``. Another one there is superseded."""
    path = record.with_name(f"{record.stem}{ending}")
    if path.exists() and (before := path.read_bytes()) != text.encode():
        write_atomic(free_name(superseded_folder(results_dir), record.stem, ending), before)
    write_atomic(path, text)
    return path


def free_name(folder: Path, stem: str, ending: str = ".json") -> Path:
    """Return the first of ``<stem>-1<ending>``, ``<stem>-2<ending>``, ... that does not exist."""
    return next(path for number in itertools.count(1) if not (path := folder / f"{stem}-{number}{ending}").exists())


def record_paths(results_dir: Path, only: Iterable[tuple[str, str]] | None = None) -> list[Path]:
    """Return the paths of all records in a results folder, sorted by file name.

    With ``only``, names of tasks and models, nested records of other pairs are left out. Raises `UserError` for a
    folder that cannot be read, because `Path.glob` would find nothing in it.
    """
    top = runs_folder(results_dir)
    if only is None:
        nested = [model for task in _inside(top) if task != superseded_folder(results_dir) for model in _inside(task)]
    else:
        nested = [top / task / model for task, model in only]
    found = (path for folder in (top, *nested) for path in _inside(folder, "*.json"))
    return sorted(found, key=lambda path: (path.name, path))


def _inside(folder: Path, pattern: str = "[!.]*") -> Iterable[Path]:
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        raise cannot_be_read(str(folder), PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return folder.glob(pattern)


def load_record(path: Path) -> RunRecord:
    """Read a record. Raises `UserError` if the file is not one, or if a later version wrote it."""
    try:
        values = strict_json.loads(strict_json.read_bytes(path))
    except OSError as error:
        raise cannot_be_read(_shown(path), error) from error
    except ValueError as error:
        raise _not_a_record(path, error) from error
    if isinstance(values, dict):
        _check_schema(values.get("schema", SCHEMA), path)
    try:
        record = from_values(values)
    except msgspec.ValidationError as error:
        raise _not_a_record(path, mistake_in_values(values)) from error
    if reason := mistake_in(record):
        raise _not_a_record(path, reason)
    return record


def _check_schema(schema: object, path: Path) -> None:
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(
            f"{_shown(path)} has schema {schema}, and this version reads {SCHEMA}; update rosa-bench to read it"
        )


def _not_a_record(path: Path, reason: object) -> UserError:
    return UserError(f"{_shown(path)} is not a run's record: {printable(str(reason))}; fix it or move it away")


def _shown(path: Path) -> str:
    return printable(str(path))


class Records(list[RunRecord]):
    """The records of a folder, sorted by file name.

    unread  ``2 of 139 files in results/runs could not be read; see above``; empty if all could. If only some tasks and
            models were asked for, it says so
    """

    unread: str = ""

    def remind(self) -> None:
        """Repeat, at the end of a command, how many files could not be read."""
        if self.unread:
            log.warning("%s", self.unread)


def load_records(results_dir: Path, only: Iterable[tuple[str, str]] | None = None) -> Records:
    """Return all records in a results folder. Files that are not records are skipped, named and counted.

    ``only`` is that of `record_paths`. If a run has both a flat and a nested record, the completed one counts, or the
    later one if both are completed.
    """
    found, counted = Records(), dict[str, RunRecord]()
    paths = record_paths(results_dir, only)
    unread = 0
    with collector_paused():
        for path in paths:
            try:
                record = load_record(path)
            except UserError as error:
                log.warning("%s", error)
                unread += 1
                continue
            if record.id in counted:
                log.warning("%s is a second record of its run; only one of the two counts", _shown(path))
                record = max(counted[record.id], record, key=precedence)
            counted[record.id] = record
    found.extend(counted.values())
    if unread:
        which = "" if only is None else " of these tasks and models"
        found.unread = (
            f"{unread} of {len(paths)} files{which} in {runs_folder(results_dir)} could not be read; see above"
        )
    return found


def precedence(record: RunRecord) -> tuple:
    """Sort key: of two records of a run, the greater counts."""
    return record.status == "completed", record.started


def _is_completed(path: Path) -> bool:
    """Return whether a file is the record of a completed run; False for a damaged file."""
    try:
        return load_record(path).status == "completed"
    except UserError:
        return False
