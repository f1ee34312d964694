"""A list of runs in the terminal, one line each."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.settings import variant_of
from rosa_bench.report.cells.words.shown import metric, scale
from rosa_bench.report.show.lines import shared_lines, table_lines, without_shared
from rosa_bench.report.writers.text import MISSING

COMPLETED = "completed"  # said of a run only if it holds for all

COLUMNS: dict[str, Callable[[RunRecord], str]] = {
    "started": lambda run: run.started_at[5:16].replace("T", " "),
    "task": lambda run: run.settings.task.name,
    "model": lambda run: run.settings.model.name,
    "protocol": lambda run: run.settings.protocol.name,
    "method": lambda run: method_words(run),  # noqa: PLW0108 - it is defined below
    "lr": lambda run: f"{run.settings.lr:g}",
    "seed": lambda run: str(run.settings.seed),
    "score": lambda run: _score(run),  # noqa: PLW0108
    "time": lambda run: duration(run.time_s.total),
    "status": lambda run: run.status,
}
SHARED = ("task", "model", "protocol", "method", "lr", "seed", "status")  # said above if all runs are alike in it


def run_lines(runs: Sequence[RunRecord], ids: Iterable[str], width: int) -> list[str]:
    """Return the lines of a list of runs, in their order, with what they share above.

    ``ids`` are those of all runs in the folder, among which a short id must be unique.
    """
    short = short_ids(ids)
    texts = {title: [text(run) for run in runs] for title, text in COLUMNS.items()}
    shared, columns = without_shared({"run": [short[run.id] for run in runs], **texts}, SHARED)
    if "status" in columns:
        columns["status"] = ["" if text == COMPLETED else text for text in columns["status"]]
        if not any(columns["status"]):
            del columns["status"]
    names = {f"{metric(run)}{'' if run.scores.lower_is_better else ' x 100'}" for run in runs if run.scores.reported}
    above = shared_lines(shared, width, *(f"score: {name}" for name in names if len(names) == 1))
    return [*above, *table_lines(columns, width)]


def short_ids(ids: Iterable[str]) -> Mapping[str, str]:
    """Return each id's last part, or the whole id if another run has the same.

    >>> short_ids(["a-r2-1f", "b-r4-2e", "c-r8-2e"])
    {'a-r2-1f': '1f', 'b-r4-2e': 'b-r4-2e', 'c-r8-2e': 'c-r8-2e'}
    """
    ids = list(ids)
    counts = Counter(one.rpartition("-")[2] for one in ids)
    return {one: end if counts[end := one.rpartition("-")[2]] == 1 else one for one in ids}


def method_words(run: RunRecord) -> str:
    """Name a run's method with its rank and its changed settings, as they are typed: ``rosa r=4 resample_every=5``."""
    variant = variant_of(run)
    return " ".join([variant.method, *variant.marks])


def duration(time_s: float | None) -> str:
    """Format a time in its unit.

    >>> duration(None), duration(12.34), duration(200), duration(7260)
    ('–', '12.3 s', '3.3 min', '2.0 h')
    """
    if time_s is None:
        return MISSING
    for size, unit in ((3600, "h"), (60, "min")):
        if time_s >= size:
            return f"{time_s / size:.1f} {unit}"
    return f"{time_s:.1f} s"


def _score(run: RunRecord) -> str:
    found = run.selected.get(run.scores.reported)
    return MISSING if found is None else scale(run).text(found)
