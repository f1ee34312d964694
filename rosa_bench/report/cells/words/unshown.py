"""Count the runs that a command does not show, and say why, so that nothing is left out silently."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable

from rosa_bench.records.record import RunRecord

REPEATED = "repeated later with the same seed and learning rate"


def unshown(records: Iterable[RunRecord], shown: Collection[str], reason: Callable[[RunRecord], str]) -> Counter[str]:
    """Count the records whose ids are not in ``shown``, by status, or if completed by their ``reason``."""
    return Counter(
        reason(record) if record.status == "completed" else record.status
        for record in records
        if record.status != "completed" or record.id not in shown
    )


def listed(counts: Counter[str]) -> str:
    """Format counts in a fixed order: ``2 failed, 1 interrupted``."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def not_shown(counts: Counter[str], total: int) -> str:
    """Return one line, or an empty string if all are shown: ``not shown: 3 of 40 runs: 2 failed, 1 interrupted``."""
    return f"not shown: {counts.total()} of {total} runs: {listed(counts)}" if counts else ""
