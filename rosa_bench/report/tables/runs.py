"""``runs.csv``: one tidy row per run, for spreadsheets and data frames."""

import json
from collections.abc import Iterable

from msgspec import UNSET

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.words.changes import changes_of
from rosa_bench.report.tables.paper.table1 import resamples

LIBRARIES = ("torch", "transformers")


def run_rows(records: Iterable[RunRecord]) -> list[dict[str, str]]:
    """Return one row per run, of any status and task. Scores are fractions, not times 100; a missing value is empty.

    Time and peak memory of a ``packed`` run are those of so many runs in one pass.
    """
    return [{key: _text(value) for key, value in _values(record).items()} for record in records]


def _values(run: RunRecord) -> dict[str, object]:
    settings, scores = run.settings, run.scores
    metric = scores.reported
    return {
        "id": run.id,
        "status": run.status,
        "task": settings.task.name,
        "model": settings.model.name,
        "protocol": settings.protocol.name,
        "method": settings.method.name,
        "rank": settings.method.rank,
        "lr": settings.lr,
        "seed": settings.seed,
        "epochs": settings.epochs,
        "metric": metric,
        "selected_score": run.selected.get(metric),
        "selected_epoch": run.selected.epoch,
        "last_score": run.last.get(metric),
        "selection_metric": scores.selected_by.name,
        "selected_on": scores.selected_on,
        "selection_score": None if scores.selection_score is UNSET else scores.selection_score,
        "last_train_loss": scores.epochs[-1].train_loss if scores.epochs else None,
        "collapsed": run.has_collapsed,
        "stopped_after": run.stopped.epoch if run.stopped else None,
        "trainable_parameters": run.parameters.trainable,
        "time_s": run.time_s.total,
        "peak_memory_bytes": max(run.memory_bytes.values(), default=None),
        "resamples": resamples(run) if run.status == "completed" else run.resamples,
        "device": run.device.name,
        "precision": run.device.precision,
        **({"shared_by": run.device.shared_by} if run.device.shared_by else {}),
        **({"packed": run.packed} if run.packed else {}),
        "subset": run.data.subset,
        "synthetic": run.data.synthetic,
        "deviations": json.dumps({key: value for key, (value, _) in changes_of(run).items()}),
        **{library: run.versions.get(library) for library in LIBRARIES},
        "commit": run.git.commit,
        "dirty": run.git.dirty,
        "started_at": run.started_at,
        "error": run.error,
    }


def _text(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
