"""The status of a run, from its record and checkpoints."""

from typing import NamedTuple

from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_record
from rosa_bench.runs.resolve import ResolvedRun


class RunStatus(NamedTuple):
    """``new``, ``unfinished``, ``failed`` or ``completed``, and the record if there is one."""

    kind: str
    record: RunRecord | None


def status_of(resolved: ResolvedRun) -> RunStatus:
    """Return the status of a run. A completed run is ``new`` if its requested model or spectrum is missing."""
    path = resolved.record_path
    record = load_record(path) if path.is_file() else None
    if record is not None and record.status == "completed":
        model_wanted = resolved.config.save_model and not resolved.saved_model.is_dir()
        spectrum_wanted = resolved.config.record_spectrum and not record.spectrum
        return RunStatus("new" if model_wanted or spectrum_wanted else "completed", record)
    if record is not None and record.status == "failed":
        return RunStatus("failed", record)
    return RunStatus("unfinished" if any(resolved.checkpoints.glob("step-*")) else "new", record)
