"""Not in the paper: how well each method fits its training data, by learning rate. Scores do not show this."""

import statistics
from functools import partial

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.cells.words.shown import Scale
from rosa_bench.report.tables.building.by_lr import Summarise, Summary, table_by_lr
from rosa_bench.report.tables.building.table import OWN_LEGEND, Entry, Table
from rosa_bench.report.writers.text import UNDEFINED
from rosa_bench.report.writers.tidy_csv import csv_text

INTRO = [
    "Each cell: the training loss of the last epoch, averaged over its steps, with dropout: cross-entropy, or on STS-B "
    "the squared error. Mean over seeds ± the sample standard deviation (number of seeds). The CSV file has "
    "every run.",
    "Collapsed runs are left out, because their loss only reflects label frequencies; collapsed: all runs did.",
    "Compare within a column, at the same protocol and number of epochs. A lower loss is a better fit, not a better "
    "model.",
]
OF_LOSSES = (
    "Of tasks that report a loss or an error: cross-entropy in nats per token of a text, and of a regression the "
    "squared error, summed over its replicates. The smallest such loss of a column has four digits."
)
LOSS = Scale(lower_is_better=True, decimals=3)


def build(groups: list[Group]) -> Table:
    """Build the table for every variant, learning rate and task whose runs recorded their epochs.

    Memorised rows have a table of their own: what they report is how well they fit their training data.
    """
    has_losses = any(run.scores.lower_is_better for group in groups for run in group.runs)
    intro = [*INTRO, OF_LOSSES] if has_losses else INTRO
    return table_by_lr(groups, _summarising, name="train_loss", title="Training loss", intro=intro, legend=OWN_LEGEND)


def _summarising(column: list[list[RunRecord]]) -> Summarise:
    """Return the function that summarises the cells of a column, with as many decimals as it needs.

    Scores times 100 have one decimal, and the losses of their runs have three.
    """
    if not column[0][0].scores.lower_is_better:
        return partial(_summary, shown=LOSS)
    fitted = [[loss for loss in _losses(runs) if loss is not None] for runs in column]
    return partial(_summary, shown=LOSS.fitted(statistics.fmean(losses) for losses in fitted if losses))


def _summary(runs: list[RunRecord], *, shown: Scale) -> Summary | None:
    runs = [run for run in runs if run.scores.epochs]
    return Summary(entry=_entry(_losses(runs), shown), tidy=[_tidy(run) for run in runs]) if runs else None


def _losses(runs: list[RunRecord]) -> list[float | None]:
    """Return the losses of the runs that have epochs and did not collapse."""
    return [_loss(run) for run in runs if run.scores.epochs and not run.has_collapsed]


def _entry(losses: list[float | None], shown: Scale) -> Entry:
    fitted = [loss for loss in losses if loss is not None]
    if len(fitted) < len(losses):
        return Entry(mean=UNDEFINED)
    if not fitted:
        return Entry(mean="collapsed")
    spread = shown.text(statistics.stdev(fitted)) if len(fitted) > 1 else None
    return Entry(mean=shown.text(statistics.fmean(fitted)), spread=spread, count=len(fitted))


def _tidy(run: RunRecord) -> dict[str, str]:
    return {
        "seed": str(run.settings.seed),
        "train_loss": csv_text(_loss(run), "{!r}"),
        "collapsed": csv_text(run.has_collapsed, "{:d}"),
    }


def _loss(run: RunRecord) -> float | None:
    return run.scores.epochs[-1].train_loss
