"""Table 3: methods and ranks on E2E, whose generated texts are compared with human references."""

import statistics
from collections.abc import Callable

from rosa_bench.report.cells.grid import Grid
from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.words.facts import scored_on_test
from rosa_bench.report.cells.words.shown import SCORES
from rosa_bench.report.published import load_published
from rosa_bench.report.tables.building.scores import of_tasks, score_table
from rosa_bench.report.tables.building.table import Entry, Table
from rosa_bench.report.writers.text import UNDEFINED

# Further metrics of the same outputs, with their headings. Fractions (shown times 100) come first.
FRACTIONS = {"bleu_cased": "BLEU, cased", "rouge_l": "ROUGE-L"}
OTHERS = {"nist": "NIST", "cider": "CIDEr", "perplexity": "perplexity"}
MORE = (
    f"{', '.join(OTHERS.values())}: not times 100. They score the same outputs, except perplexity, which scores the "
    "reference texts. The records name the program that computed each score."
)


def build(groups: list[Group]) -> Table:
    """Build the table: the paper's rows, then every other variant and generation task with runs."""
    writing = of_tasks(groups, scored_on_test)
    return score_table(
        "table3", writing, load_published("table3"), scored="test", more=[MORE], extra_columns=_extra_columns
    )


def _extra_columns(grid: Grid) -> list[tuple[str, Callable[[Variant], Entry]]]:
    """Return one column per further metric and task that the records have."""
    columns = []
    for task, run in grid.filled.items():
        title = f" ({grid.tasks[task]})" if len(grid.filled) > 1 else ""
        for metric, name in {**FRACTIONS, **OTHERS}.items():
            if metric in run.selected and metric != run.scores.reported:
                columns.append((f"{name}{title}", _entries(grid, task, metric)))
    return columns


def _entries(grid: Grid, task: str, metric: str) -> Callable[[Variant], Entry]:
    def entry(variant: Variant) -> Entry:
        cell = grid.cell(variant, task)
        if cell is None:
            return Entry()
        figures = [run.selected.get(metric) for run in cell.runs]
        known = [figure for figure in figures if figure is not None]
        if len(known) < len(figures):  # an older run may lack a metric
            return Entry(mean=UNDEFINED if any(metric in run.selected for run in cell.runs) else None)
        mean = statistics.fmean(known)
        return Entry(mean=SCORES.text(mean) if metric in FRACTIONS else f"{mean:.2f}")

    return entry
