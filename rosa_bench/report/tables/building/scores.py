"""Tables of scores: one row per variant, one column per task, ours beside the paper's. Used for Tables 2 to 5."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.grid import Grid, grid_of
from rosa_bench.report.cells.selection.select import Cell, Group
from rosa_bench.report.cells.settings import Variant, words
from rosa_bench.report.cells.words.header import AT_AN_END, header, heading, lr_marks, modified_notes, numbered_notes
from rosa_bench.report.cells.words.shown import SCORES
from rosa_bench.report.published import PublishedRow, PublishedTable
from rosa_bench.report.tables.building.cell_notes import FAILED, cell_notes
from rosa_bench.report.tables.building.contrasts import COMPARED, contrasts
from rosa_bench.report.tables.building.table import OWN_LEGEND, Column, Entry, Line, Section, Table
from rosa_bench.report.tables.building.tidy import tidy_rows
from rosa_bench.report.writers.text import UNDEFINED, parameters

TIMED = "Not shown: runs with pad_to_max=true, made for the times in Table 1. Padding changes no score."
OWN_TITLE = "Scores by method and task"  # of runs that have no counterpart in the paper
LEGEND = "ours / the paper's, if it has one"
INTRO = [
    "Each cell: {shown} the mean over seeds ± the sample "
    "standard deviation (number of seeds, and how many of them collapsed). In a collapsed run, the model of the last "
    "epoch predicts the same for every row. –: no score.",
    "Learning rates: the one with the best median over seeds, so that one collapsed seed decides nothing. Rates with "
    "fewer seeds than others are not compared.",
    "Bold: better than every other row of ours by more than chance (Welch's t-test over seeds, one-sided, p < 0.05 "
    "against each). Without bold, no row is shown to be best.",
    "The CSV file has more: Student's 95 % interval over seeds, or an interval over dev rows for one seed; the mean if "
    "each seed chooses its own learning rate (per_seed_mean_x100); the learning rates not compared (lrs_left_out).",
    "Trainable: number of parameters that train, including the task's head if it trains.",
]

# From a grid to further columns, each a heading and a function from a row to its entry.
ExtraColumns = Callable[[Grid], list[tuple[str, Callable[[Variant], Entry]]]]


def score_table(
    name: str,
    groups: Iterable[Group],
    published: PublishedTable,
    *,
    scored: str = "dev",
    more: Sequence[str] = (),
    extra_columns: ExtraColumns = lambda _grid: [],
) -> Table:
    """Build table ``name``: the paper's rows and columns first, then every other variant and task of ``groups``.

    ``scored`` is the split that is scored; ``more`` is added to the introduction; ``extra_columns`` adds columns. Runs
    made for Table 1's times are left out with a note, because they would repeat the same runs with other padding.
    """
    groups = list(groups)
    untimed = [group for group in groups if not group.setting.is_timed]
    runs = Counter(group.setting.distance for group in untimed for _ in group.runs)
    ordered = sorted(untimed, key=lambda group: _order(group, published, runs))
    grids = [grid_of(group, published) for group in ordered]
    beside_paper = any(grid.printed for grid in grids)
    sections = [_section(grid, published, extra_columns(grid)) for grid in grids]
    notes = [
        *more,
        *([COMPARED] if any(section.contrasts for section in sections) else []),
        *([TIMED] if len(untimed) < len(groups) else []),
        *(_named(published) if beside_paper or any(grid.titles for grid in grids) else []),
        *([f"The paper's table: {'; '.join(published.notes)}."] if beside_paper else []),
    ]
    shown = f"{LEGEND}, {scored} scores times 100. Ours is" if beside_paper else f"{scored} scores times 100,"
    return Table(
        name=name,
        title=f"{published.source.rpartition(', ')[2]}: {published.title}" if beside_paper else OWN_TITLE,
        intro=[INTRO[0].format(shown=shown), *INTRO[1:], *notes],
        sections=sections,
        tidy=[row for number, grid in enumerate(grids, start=1) for row in tidy_rows(number, grid)],
        legend=f"{LEGEND}; {OWN_LEGEND}" if beside_paper else OWN_LEGEND,
    )


def _named(published: PublishedTable) -> list[str]:
    """Explain the paper's row names in terms of our settings."""
    names = [
        " ".join([f"{row.title} is", f"method={row.method}", *([f"rank={row.rank}"] if row.rank else []), *_typed(row)])
        for row in published.rows
        if row.settings
    ]
    usual = dict.fromkeys(
        f"the paper's {row.title} has {key}={words(value)}, and its row says so where that is not the default"
        for row in published.rows
        for key, value in row.implied.items()
    )
    return [f"Names: {'; '.join([*names, *usual])}."] if names or usual else []


def _typed(row: PublishedRow) -> list[str]:
    return [f"{key}={words(value)}" for key, value in row.settings.items()]


def of_tasks(groups: Iterable[Group], keep: Callable[[RunRecord], bool]) -> list[Group]:
    """Keep the cells of tasks for which ``keep`` is true, and drop settings without any."""
    found = []
    for group in groups:
        cells = {place: cell for place, cell in group.cells.items() if keep(cell.runs[0])}
        if cells:
            found.append(Group(setting=group.setting, cells=cells))
    return found


def belonging(groups: Iterable[Group], published: PublishedTable) -> list[Group]:
    """Keep the cells that the paper's table has, in settings with at least one of the table's own rows.

    The table's own rows are those with ``settings``. The others (FT, LoRA) are also in Table 2, and serve as baselines.
    """
    found = []
    for group in groups:
        rows = {
            variant: bool(row.settings) for variant, row in zip(published.variants(group), published.rows, strict=True)
        }
        cells = {
            (variant, task): cell
            for (variant, task), cell in group.cells.items()
            if variant in rows and task in published.columns
        }
        if any(rows[variant] for variant, _ in cells):
            found.append(Group(setting=group.setting, cells=cells))
    return found


def _order(group: Group, published: PublishedTable, runs: Mapping[tuple[int, str], int]) -> tuple:
    """Sort key: the paper's tasks and rows first, then the nearest to the protocol, then the model with most runs."""
    setting = group.setting
    return (
        setting.has_custom_rows or not set(group.tasks) & set(published.columns),
        len(setting.deviations),
        -runs[setting.distance],
        setting.model,
        setting.protocol,
        setting.device,
        setting.precision,
        heading(group),
    )


def _section(
    grid: Grid, published: PublishedTable, extra_columns: Iterable[tuple[str, Callable[[Variant], Entry]]]
) -> Section:
    numbers, notes = numbered_notes(grid.filled, grid.tasks)
    in_paper = {task for _, task in grid.printed}
    columns = [Column(title="Trainable", paper=bool(grid.printed_trainable))]
    columns += [
        Column(title=title, note=numbers.get(task), paper=task in in_paper) for task, title in grid.tasks.items()
    ]
    columns += [Column(title=title) for title, _ in extra_columns]
    lines = [_line(grid, variant, [entry(variant) for _, entry in extra_columns]) for variant in grid.variants]
    return Section(
        heading=heading(grid.group),
        header=header(grid, published),
        columns=columns,
        lines=lines,
        notes=[
            *notes,
            *cell_notes(grid, rows_marked=any(line.mark for line in lines)),
            *modified_notes(grid.group.runs),
        ],
        contrasts=contrasts(grid),
    )


def _line(grid: Grid, variant: Variant, extra: list[Entry]) -> Line:
    cells = {task: grid.cell(variant, task) for task in grid.tasks}
    counts = sorted({cell.trainable for cell in cells.values() if cell})
    texts = list(dict.fromkeys(parameters(count) for count in (*counts[:1], *counts[-1:])))
    trainable = Entry(mean="–".join(texts) or None, paper=grid.printed_trainable.get(variant))
    ends = {task: (variant, task) in grid.open_ended for task, cell in cells.items() if cell}
    whole = len(ends) > 1 and all(ends.values())  # then the row's name carries the mark
    entries = [
        _entry(
            cell,
            paper=grid.printed.get((variant, task)),
            best=grid.leaders[task] == variant,
            open_ended=ends.get(task, False) and not whole,
        )
        for task, cell in cells.items()
    ]
    return Line(label=grid.label(variant), entries=[trainable, *entries, *extra], mark=AT_AN_END if whole else "")


def _entry(cell: Cell | None, *, paper: str | None, best: bool, open_ended: bool) -> Entry:
    if cell is None:
        return Entry(paper=paper)
    if not cell.is_defined:
        return Entry(mean=UNDEFINED, paper=paper)
    mark = lr_marks(at_an_end=open_ended, unsettled=cell.runner_up is not None)
    return Entry(
        mean=SCORES.text(cell.mean),
        spread=None if cell.std is None else SCORES.text(cell.std),
        count=len(cell.runs),
        collapsed=cell.collapsed or 0,
        mark=f"{mark}{FAILED if cell.lrs_failed else ''}",
        paper=paper,
        best=best,
    )
