"""The notes below a table of scores that explain the marks on its cells, and name the cells that have them."""

from collections import defaultdict
from collections.abc import Callable

from rosa_bench.report.cells.grid import Grid
from rosa_bench.report.cells.selection.select import Cell
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.words.header import END_NOTE, UNSETTLED_NOTE
from rosa_bench.report.cells.words.shown import SCORES
from rosa_bench.report.writers.text import UNDEFINED

FAILED = "¶"


def cell_notes(grid: Grid, *, rows_marked: bool) -> list[str]:
    """Return the notes of a section. ``rows_marked`` says whether any mark stands after the name of a row."""
    return [
        *_at_an_end(grid, rows_marked=rows_marked),
        *_unsettled(grid),
        *_per_seed(grid),
        *_undefined(grid),
        *_failed(grid),
    ]


def _at_an_end(grid: Grid, *, rows_marked: bool) -> list[str]:
    """Write the note on learning rates at an end of those tried."""
    whole = "; after the name of a row: in all its cells" if rows_marked else ""
    return [f"{END_NOTE}{whole}"] if grid.open_ended else []


def _unsettled(grid: Grid) -> list[str]:
    """Write the note on runner-up learning rates."""
    which = _lrs(grid, lambda cell: () if cell.runner_up is None else (cell.runner_up,))
    return [f"{UNSETTLED_NOTE}{which}"] if which else []


def _per_seed(grid: Grid) -> list[str]:
    """Write the note on cells with collapsed runs: their means if each seed had chosen its own learning rate."""
    found: dict[Variant, list[str]] = defaultdict(list)
    for variant in grid.variants:
        for task, title in grid.tasks.items():
            cell = grid.cell(variant, task)
            if cell and cell.collapsed and (own := cell.per_seed).is_defined and own.by_seed != cell.by_seed:
                found[variant].append(f"{SCORES.text(own.mean)} ({len(own.runs)}) on {title}")
    which = "; ".join(f"{grid.label(variant)} {', '.join(means)}" for variant, means in found.items())
    return [f"collapsed: if each seed chose its own learning rate, these means would be {which}"] if which else []


def _undefined(grid: Grid) -> list[str]:
    """Write the note on means that do not exist because a run's score is not a number."""
    which = _lrs(grid, lambda cell: () if cell.is_defined else (cell.lr,))
    return [f"{UNDEFINED}: a run's score is not a number, so there is no mean: {which}"] if which else []


def _failed(grid: Grid) -> list[str]:
    """Write the note on learning rates at which a run failed."""
    which = _lrs(grid, lambda cell: cell.lrs_failed)
    return [f"{FAILED} learning rates at which a run failed and has no score: {which}"] if which else []


def _lrs(grid: Grid, lrs_of: Callable[[Cell], tuple[float, ...]]) -> str:
    """List learning rates by variant and task: ``FT 2e-05, 6e-05 on CoLA, MRPC; LoRA (r=8) 0.006 on CoLA``."""
    titles: dict[tuple[Variant, tuple[float, ...]], list[str]] = defaultdict(list)
    for variant in grid.variants:
        for task, title in grid.tasks.items():
            if (cell := grid.cell(variant, task)) and (lrs := lrs_of(cell)):
                titles[variant, lrs].append(title)
    return "; ".join(
        f"{grid.label(variant)} {', '.join(f'{lr:g}' for lr in lrs)} on {', '.join(tasks)}"
        for (variant, lrs), tasks in titles.items()
    )
