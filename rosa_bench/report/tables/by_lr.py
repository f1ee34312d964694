"""Tables with a row for every variant and learning rate that was tried, also those that no table of scores shows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.header import heading
from rosa_bench.report.cells.select import Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.tables.table import Column, Entry, Line, Section, Table


@dataclass(frozen=True, kw_only=True)
class Told:
    """What runs of one variant, learning rate and task, one a seed, say: in the table, and in rows of the CSV file."""

    entry: Entry
    tidy: list[dict[str, str]]


# By variant and learning rate, in order, and task.
Cells = dict[tuple[Variant, float], dict[str, Told]]


def table_by_lr(
    groups: list[Group], tell: Callable[[list[RunRecord]], Told | None], *, name: str, title: str, intro: list[str]
) -> Table:
    """The table of what ``tell`` makes of each cell's runs; none where they do not tell."""
    told = [(group, cells) for group in groups if (cells := _cells(group, tell))]
    return Table(
        name=name,
        title=title,
        intro=intro,
        sections=[_section(group, cells) for group, cells in told],
        tidy=[row for number, (group, cells) in enumerate(told, 1) for row in _tidy(number, group, cells)],
    )


def _cells(group: Group, tell: Callable[[list[RunRecord]], Told | None]) -> Cells:
    found: Cells = {}
    for variant in group.variants:
        by_lr = {task: cell.by_lr for (one, task), cell in group.cells.items() if one == variant}
        for lr in sorted({lr for runs in by_lr.values() for lr in runs}):
            told = {task: told for task, runs in by_lr.items() if lr in runs and (told := tell(runs[lr]))}
            if told:
                found[variant, lr] = told
    return found


def _section(group: Group, cells: Cells) -> Section:
    tasks = {task for told in cells.values() for task in told}
    titles = {task: run.config["task"]["title"] for task, run in group.tasks.items() if task in tasks}
    return Section(
        heading=heading(group),
        facts={},
        columns=[Column(title=title) for title in titles.values()],
        lines=[
            Line(
                label=f"{variant.label}, lr {lr:g}",
                entries=[told[task].entry if task in told else Entry() for task in titles],
            )
            for (variant, lr), told in cells.items()
        ],
    )


def _tidy(number: int, group: Group, cells: Cells) -> Iterator[dict[str, str]]:
    for (variant, lr), told in cells.items():
        for task in group.tasks:
            for row in told[task].tidy if task in told else []:
                yield {
                    "setting": str(number),
                    "model": group.setting.model,
                    "protocol": group.setting.protocol,
                    "device": group.setting.device,
                    "task": task,
                    "variant": variant.label,
                    "lr": f"{lr:g}",
                    **row,
                }
