"""The status of a run, from its record and checkpoints."""

from typing import NamedTuple

from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_record
from rosa_bench.runs.resolve import ResolvedRun
from rosa_bench.system import processes
from rosa_bench.system.errors import UserError


class RunStatus(NamedTuple):
    """``new``, ``unfinished``, ``failed`` or ``completed``, and the record if there is one."""

    kind: str
    record: RunRecord | None


def status_of(resolved: ResolvedRun) -> RunStatus:
    """Return the status of a run. A completed run is ``new`` if it lacks something that is requested."""
    path = resolved.record_path
    record = load_record(path) if path.is_file() else None
    if record is not None and record.status == "completed":
        return RunStatus("new" if lacks(resolved, record) else "completed", record)
    if record is not None and record.status == "failed":
        return RunStatus("failed", record)
    return RunStatus("unfinished" if any(resolved.checkpoints.glob("step-*")) else "new", record)


def agreed_status(resolved: ResolvedRun) -> RunStatus:
    """Return the status of a run that several processes may share. Raises `UserError` unless they see the same one."""
    found = status_of(resolved)
    if len(kinds := set(processes.gathered(found.kind))) > 1:
        raise UserError(
            f"the processes of this run see different files ({', '.join(sorted(kinds))}); put results_dir and "
            "output_dir on a disk that all of them share"
        )
    return found


def lacks(resolved: ResolvedRun, record: RunRecord) -> bool:
    """Return whether a completed run lacks its model, adapter, spectrum or forgetting, if that is requested now."""
    config = resolved.config
    measured_on = record.forgetting.task if record.forgetting else None
    return (
        (config.save_model and not resolved.saved_model.is_dir())
        or (config.save_adapter and not resolved.saved_adapter.is_dir())
        or (config.record_spectrum and not record.spectrum)
        or config.forgetting_on not in (None, measured_on)
    )
