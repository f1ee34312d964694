"""The record of one run: everything a reader needs to believe a figure, as one JSON file."""

import itertools
import json
import logging
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rosa_bench.records.record import SCHEMA, SHAPE, RunRecord, completed_shape
from rosa_bench.records.shape import misfit
from rosa_bench.system.errors import UserError
from rosa_bench.system.files import write_atomic

log = logging.getLogger(__name__)


def runs_folder(results_dir: Path) -> Path:
    """Where records are kept under a results folder."""
    return results_dir / "runs"


def save_record(record: RunRecord, results_dir: Path) -> Path:
    """Write a record; an earlier one of the same run, or a damaged file in its place, is put aside, never lost.

    What is not completed does not take the place of what is: it is then itself put aside.
    """
    folder = runs_folder(results_dir)
    path = folder / record.path_name
    text = json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n"
    if path.exists():
        aside = free_name(folder / "superseded", record.id)
        if record.status != "completed" and _is_completed(path):
            path = aside
        else:
            write_atomic(aside, path.read_bytes())  # a copy: until the new one is written, the old one stays
    write_atomic(path, text)
    return path


def free_name(folder: Path, stem: str, ending: str = ".json") -> Path:
    """The first of ``<stem>-1<ending>``, ``<stem>-2<ending>``, ... that is not taken."""
    return next(path for number in itertools.count(1) if not (path := folder / f"{stem}-{number}{ending}").exists())


def load_record(path: Path) -> RunRecord:
    """Read a record. Raises `UserError` for a file that is none, or that a later version wrote."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; move it away") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a run's record: {error}; mend it or move it away") from error
    schema = values.get("schema", SCHEMA) if isinstance(values, dict) else SCHEMA
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(f"{path} has schema {schema}, and this version reads {SCHEMA}; update rosa-bench to read it")
    if reason := _misfit(values):
        raise UserError(f"{path} is not a run's record: {reason}; mend it or move it away")
    return RunRecord(**{field.name: values[field.name] for field in fields(RunRecord) if field.name in values})


def _misfit(values: Any) -> str | None:
    """Where these values out of JSON are no record, in words; none where they are one."""
    found = misfit(values, SHAPE)
    if found or values["status"] != "completed":
        return found
    scores = values.get("scores", {})
    reported, selected_by = str(scores.get("reported")), scores.get("selected_by")
    selects = selected_by.get("name") if isinstance(selected_by, dict) else reported
    return misfit(values, completed_shape(reported, str(selects)))


class Records(list[RunRecord]):
    """The records of a folder in the order of their files' names.

    unread  ``2 of 139 files in results/runs could not be read; see above``; empty where all could
    """

    unread: str = ""

    def remind(self) -> None:
        """Say again, at a command's end, how many files could not be read."""
        if self.unread:
            log.warning("%s", self.unread)


def load_records(results_dir: Path) -> Records:
    """All records under a results folder. A file that is none is named in the log, with the reason, and passed over."""
    folder, records = runs_folder(results_dir), Records()
    paths = sorted(folder.glob("*.json"))
    for path in paths:
        try:
            records.append(load_record(path))
        except UserError as error:
            log.warning("%s", error)
    if missing := len(paths) - len(records):
        records.unread = f"{missing} of {len(paths)} files in {folder} could not be read; see above"
    return records


def _is_completed(path: Path) -> bool:
    """Whether a file is the record of a completed run; a damaged one is not."""
    try:
        return load_record(path).status == "completed"
    except UserError:
        return False
