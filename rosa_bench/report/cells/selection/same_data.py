"""Which runs of one task have the same data, so that their scores may be compared."""

from collections.abc import Hashable, Iterable

from rosa_bench.config.identity.run_id import is_identity
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.kept import kept
from rosa_bench.report.cells.settings import frozen


def split_by_data(runs: Iterable[RunRecord]) -> list[list[RunRecord]]:
    """Split the runs of one task by data. Runs share data if their source or their fingerprint is the same.

    The largest data comes first; ties go to the data with the most runs. The fingerprint alone is not enough, because
    it covers the held-out split, which depends on the seed.
    """
    parts: list[tuple[set[Hashable], list[RunRecord]]] = []
    for run in runs:
        marks = _known_by(run)
        alike = [part for part in parts if not marks.isdisjoint(part[0])]
        parts = [part for part in parts if marks.isdisjoint(part[0])]
        merged = alike[0] if alike else (set(), [])  # grows in place: a copy per run would take quadratic time
        for known, some in alike[1:]:
            merged[0].update(known)
            merged[1].extend(some)
        merged[0].update(marks)
        merged[1].append(run)
        parts.append(merged)
    return sorted((part[1] for part in parts), key=lambda part: (-part[0].data.rows.total, -len(part)))


@kept
def _known_by(run: RunRecord) -> frozenset[Hashable]:
    """Return what a run's data is known by: the task with the source, and with the fingerprint."""
    task = frozen({key: value for key, value in run.setting("task").items() if is_identity(f"task.{key}")})
    return frozenset({(task, run.data.source), (task, run.data.fingerprint)})
