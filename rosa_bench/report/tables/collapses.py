"""Not in the paper: how many runs ended with the same prediction for all rows, by method and learning rate."""

from rosa_bench.records.parts.mappings import LEAST_SPREAD
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.tables.building.by_lr import Summary, table_by_lr
from rosa_bench.report.tables.building.table import Entry, Table

LEGEND = "collapsed runs of all, one per seed"
INTRO = [
    "Each cell: how many runs collapsed, of how many, one per seed. A run has collapsed if the model of its last epoch "
    "predicts the same for all reported rows: the predictions' standard deviation is below "
    f"{LEAST_SPREAD:g} of the labels'.",
    "All learning rates that were tried are shown, including those that no other table shows. –: not run. Runs older "
    "than the recorded spread of predictions are left out.",
]


def build(groups: list[Group]) -> Table:
    """Build the table for every variant, learning rate and task whose runs recorded the spread of their predictions.

    Runs that report a loss or an error have none: a text, or a vector, is no answer that all rows could share.
    """
    return table_by_lr(
        groups, lambda _column: _summary, name="collapses", title="Collapsed runs", intro=INTRO, legend=LEGEND
    )


def _summary(runs: list[RunRecord]) -> Summary | None:
    known = [collapsed for run in runs if (collapsed := run.has_collapsed) is not None]
    if not known:
        return None
    stopped = sum(bool(run.stopped) for run in runs)
    said = f", {stopped} stopped" if stopped else ""
    return Summary(
        entry=Entry(mean=f"{sum(known)} of {len(known)}{said}"),
        tidy=[{"runs": str(len(known)), "collapsed": str(sum(known)), "stopped": str(stopped)}],
    )
