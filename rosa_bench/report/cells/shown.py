"""How one run's metric and rows are shown: names, and numbers times 100 or as they are."""

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.select import writes_texts

SELECTED_ON = {"held_out": "rows held out of train", "validation": "dev", "train": "train rows"}


def scale(run: RunRecord) -> int:
    """Return the factor by which a run's reported metric is shown: 100 for a score, 1 for an error."""
    return 1 if run.scores.lower_is_better else 100


def score_text(run: RunRecord, score: float) -> str:
    """Format a reported metric after scaling: a score as in the tables, an error with four digits."""
    return f"{score:.4g}" if run.scores.lower_is_better else f"{score:z.1f}"


def metric(run: RunRecord) -> str:
    """Return the name of the reported metric."""
    return (run.scores.reported or run.settings.task.score).replace("_", " ")


def selection_rows(run: RunRecord) -> str:
    """Name the rows that select the epoch."""
    usual = "held_out" if run.data.rows.held_out else "validation"
    return SELECTED_ON.get(run.scores.selected_on) or SELECTED_ON[usual]


def reported_rows(run: RunRecord) -> str:
    """Name the rows whose scores are reported."""
    return "train" if run.scores.selected_on == "train" else "test" if writes_texts(run) else "dev"
