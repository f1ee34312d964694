"""Tables with one row for every variant and learning rate tried, including those that no table of scores shows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.words.header import heading, modified_notes
from rosa_bench.report.tables.building.table import Column, Entry, Line, Section, Table


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Summary of the runs of one variant, learning rate and task, one per seed: a table entry and rows for the CSV."""

    entry: Entry
    tidy: list[dict[str, str]]


# (variant, learning rate) in row order -> task -> summary.
Cells = dict[tuple[Variant, float], dict[str, Summary]]
Summarise = Callable[[list[RunRecord]], Summary | None]


def table_by_lr(
    groups: list[Group],
    summarising: Callable[[list[list[RunRecord]]], Summarise],
    *,
    name: str,
    title: str,
    intro: list[str],
    legend: str,
) -> Table:
    """Build a table from summaries of the runs of each cell. Where there is none, the cell is empty.

    ``summarising`` returns the function that summarises the cells of a column, from all of their runs.
    """
    summaries = [(group, cells) for group in groups if (cells := _cells(group, summarising))]
    return Table(
        name=name,
        title=title,
        intro=intro,
        legend=legend,
        sections=[_section(group, cells) for group, cells in summaries],
        tidy=[row for number, (group, cells) in enumerate(summaries, 1) for row in _tidy(number, group, cells)],
    )


def _cells(group: Group, summarising: Callable[[list[list[RunRecord]]], Summarise]) -> Cells:
    of_task = {
        task: summarising([runs for cell in group.of_task(task).values() for runs in cell.by_lr.values()])
        for task in group.tasks
    }
    found: Cells = {}
    for variant in group.variants:
        by_lr = {task: cell.by_lr for (one, task), cell in group.cells.items() if one == variant}
        for lr in sorted({lr for runs in by_lr.values() for lr in runs}):
            summaries = {
                task: summary for task, runs in by_lr.items() if lr in runs and (summary := of_task[task](runs[lr]))
            }
            if summaries:
                found[variant, lr] = summaries
    return found


def _section(group: Group, cells: Cells) -> Section:
    tasks = {task for summaries in cells.values() for task in summaries}
    titles = {task: run.settings.task.title for task, run in group.tasks.items() if task in tasks}
    return Section(
        heading=heading(group),
        header={},
        columns=[Column(title=title) for title in titles.values()],
        lines=[
            Line(
                label=f"{variant.label}, lr {lr:g}",
                entries=[summaries[task].entry if task in summaries else Entry() for task in titles],
            )
            for (variant, lr), summaries in cells.items()
        ],
        notes=modified_notes([run for cell in group.cells.values() for run in cell.tried]),
    )


def _tidy(number: int, group: Group, cells: Cells) -> Iterator[dict[str, str]]:
    for (variant, lr), summaries in cells.items():
        for task in group.tasks:
            for row in summaries[task].tidy if task in summaries else []:
                yield {
                    **first_columns(number, group, task, variant),
                    "lr": f"{lr:g}",
                    **row,
                }


def first_columns(number: int, group: Group, task: str, variant: Variant) -> dict[str, str]:
    """Return the first columns of a tidy row: which cell of which section it is about."""
    return {
        "setting": str(number),
        "model": group.setting.model,
        "protocol": group.setting.protocol,
        "device": group.setting.device,
        "task": task,
        "variant": variant.label,
    }
