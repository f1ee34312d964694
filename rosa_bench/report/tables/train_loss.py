"""Not in the paper: how well each method fits its training data, by learning rate. Scores do not show this."""

import statistics

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.select import Group
from rosa_bench.report.tables.by_lr import Summary, table_by_lr
from rosa_bench.report.tables.table import OWN_LEGEND, Entry, Table
from rosa_bench.report.writers.text import UNDEFINED

INTRO = [
    "Each cell: the training loss of the last epoch, averaged over its steps, with dropout: cross-entropy, or on STS-B "
    "the squared error. Mean over seeds ± the sample standard deviation (number of seeds). The CSV file has "
    "every run.",
    "Collapsed runs are left out, because their loss only reflects label frequencies; collapsed: all runs did.",
    "Compare within a column, at the same protocol and number of epochs. A lower loss is a better fit, not a better "
    "model.",
]


def build(groups: list[Group]) -> Table:
    """Build the table for every variant, learning rate and task whose runs recorded their epochs."""
    return table_by_lr(groups, _summary, name="train_loss", title="Training loss", intro=INTRO, legend=OWN_LEGEND)


def _summary(runs: list[RunRecord]) -> Summary | None:
    runs = [run for run in runs if run.scores.epochs]
    if not runs:
        return None
    return Summary(
        entry=_entry([_loss(run) for run in runs if not run.has_collapsed]), tidy=[_tidy(run) for run in runs]
    )


def _entry(losses: list[float | None]) -> Entry:
    fitted = [loss for loss in losses if loss is not None]
    if len(fitted) < len(losses):
        return Entry(mean=UNDEFINED)
    if not fitted:
        return Entry(mean="collapsed")
    spread = f"{statistics.stdev(fitted):.3f}" if len(fitted) > 1 else None
    return Entry(mean=f"{statistics.fmean(fitted):.3f}", spread=spread, count=len(fitted))


def _tidy(run: RunRecord) -> dict[str, str]:
    collapsed = run.has_collapsed
    return {
        "seed": str(run.settings.seed),
        "train_loss": "" if (loss := _loss(run)) is None else repr(loss),
        "collapsed": "" if collapsed is None else str(int(collapsed)),
    }


def _loss(run: RunRecord) -> float | None:
    return run.scores.epochs[-1].train_loss
