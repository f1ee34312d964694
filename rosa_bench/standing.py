"""What has become of a run so far, as its record and its checkpoints tell."""

from typing import NamedTuple

from rosa_bench.record import RunRecord, load_record, runs_folder
from rosa_bench.setup import Setup


class Standing(NamedTuple):
    """``new``, ``unfinished``, ``failed`` or ``completed``, and the record where there is one."""

    kind: str
    record: RunRecord | None


def standing(setup: Setup) -> Standing:
    """How a run stands. A completed one whose model or spectrum is wanted and not there is ``new`` again."""
    path = runs_folder(setup.results_dir) / f"{setup.id}.json"
    record = load_record(path) if path.is_file() else None
    if record is not None and record.status == "completed":
        model_wanted = setup.config.save_model and not setup.saved_model.is_dir()
        spectrum_wanted = setup.config.record_spectrum and not record.spectrum
        return Standing("new" if model_wanted or spectrum_wanted else "completed", record)
    if record is not None and record.status == "failed":
        return Standing("failed", record)
    return Standing("unfinished" if any(setup.checkpoints.glob("step-*")) else "new", record)
