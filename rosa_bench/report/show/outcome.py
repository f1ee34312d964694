"""What a sweep came to: the best learning rate of each method, with its score over seeds."""

from collections.abc import Sequence
from statistics import fmean

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.costs import own_peak_bytes
from rosa_bench.report.cells.selection.select import Cell, select
from rosa_bench.report.cells.words.facts import best_of_rank
from rosa_bench.report.cells.words.shown import ERRORS, metric, scale
from rosa_bench.report.show.lines import shared_lines, table_lines, without_shared
from rosa_bench.report.show.run_lines import duration, method_words
from rosa_bench.report.writers.text import MIB, UNDEFINED

SHARED = ("task", "model", "protocol", "lr", "seeds")
MOST = 40  # lines; a larger sweep has its tables


def outcome_lines(records: Sequence[RunRecord], width: int) -> list[str]:
    """Return the lines of a table with one line per task, setting and method; empty if no run is completed.

    Methods come in the order of the records, which is that of the sweep. The learning rate is the one that the tables
    choose (`rosa_bench.report.cells.selection.select.choose`). Brackets hold the 95 % interval over seeds, or over rows
    where there is one seed.
    """
    cells = _cells(records)
    if not cells:
        return []
    rows = [_row(cell) for cell in cells[:MOST]]
    shown = {title: [row.get(title, "") for row in rows] for title in dict.fromkeys(key for row in rows for key in row)}
    shared, columns = without_shared(shown, SHARED)
    lines = ["", *shared_lines(shared, width), *table_lines(columns, width)]
    if len(cells) > MOST:
        lines.append(f"... and {len(cells) - MOST} more lines; rosa-bench tables has all")
    if "best of rank" in shown:
        lines.append("best of rank: no single update of that rank, such as LoRA's, has a smaller error")
    if any(len(cell.by_lr) > 1 for cell in cells):
        lines.append("lr: the best of those tried, chosen as in the tables")
    if any("[" in text for row in rows for text in row.values()):
        lines.append("[95 % interval, over seeds or with one seed over rows]")
        if any(cell.interval != cell.shown_interval for cell in cells):
            lines.append("intervals end at the lowest and the highest possible score")
    return lines


def _cells(records: Sequence[RunRecord]) -> list[Cell]:
    """Return the cells by task, and inside a task by the place of their first record."""
    place = {record.id: number for number, record in enumerate(records)}
    cells = [(task, cell) for group in select(records) for (_, task), cell in group.cells.items()]
    cells.sort(key=lambda item: (item[0], min(place[run.id] for run in item[1].tried)))
    return [cell for _, cell in cells]


def _row(cell: Cell) -> dict[str, str]:
    run = cell.runs[0]
    bound = best_of_rank(cell.runs)
    alone = [one for one in cell.runs if not one.packed]  # not in one pass with others, so with costs of its own
    peaks = [peak for one in cell.runs if (peak := own_peak_bytes(one))]
    times = [time for one in alone if (time := one.time_s.total) is not None]
    return {
        "task": run.settings.task.name,
        "model": run.settings.model.name,
        "protocol": run.settings.protocol.name,
        "method": method_words(run),
        "lr": f"{cell.lr:g}",
        "seeds": str(len(cell.runs)),
        metric(run): _score(cell),
        **({} if bound is None else {"best of rank": ERRORS.text(bound)}),
        "time": duration(fmean(times) if times else None),
        **({"MiB": f"{fmean(peaks) / MIB:,.0f}"} if peaks else {}),
    }


def _score(cell: Cell) -> str:
    """Return the mean score with its interval, if that is known."""
    if not cell.is_defined:
        return UNDEFINED
    return scale(cell.runs[0]).text(cell.mean, cell.shown_interval)
