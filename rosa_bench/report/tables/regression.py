"""Runs that report an error instead of a score, such as the synthetic regressions of Figure 2."""

from collections.abc import Iterator

from rosa_bench.report.cells.selection.select import Cell, Group, open_ended
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.words.facts import best_of_rank
from rosa_bench.report.cells.words.header import (
    AT_AN_END,
    END_NOTE,
    heading,
    modified_notes,
    numbered_notes,
    seeds_words,
    selection_words,
    setting_words,
)
from rosa_bench.report.cells.words.shown import ERRORS
from rosa_bench.report.tables.building.by_lr import first_columns
from rosa_bench.report.tables.building.table import Column, Entry, Line, Section, Table
from rosa_bench.report.writers.text import UNDEFINED, parameters
from rosa_bench.report.writers.tidy_csv import csv_text

INTRO = [
    "Each cell: the dev error of the selected epoch, mean over seeds ± sample standard deviation (number of seeds). "
    "Lower is better. The learning rate is the one with the best median over seeds. –: not run.",
    "Best of rank: the dev error of the best update of the row's rank in closed form (Theorem 2), for a linear map "
    "whose record has it. It bounds LoRA: no single update of that rank fits the training rows better. Rows without a "
    "rank may reach the best update of any rank.",
]


def build(groups: list[Group]) -> Table:
    """Build the table: one section per setting, with all variants and every task of ``groups``."""
    return Table(
        name="regression",
        title="Figure 2: errors of the regressions",
        intro=INTRO,
        sections=[_section(group) for group in groups],
        tidy=[row for number, group in enumerate(groups, start=1) for row in _tidy(number, group)],
    )


def _section(group: Group) -> Section:
    tasks = group.tasks
    titles = {task: run.settings.task.title for task, run in tasks.items()}
    numbers, notes = numbered_notes(tasks, titles)
    ends = open_ended(group.cells)
    columns = [Column(title="Trainable")]
    for task, run in tasks.items():
        columns += [
            Column(title=f"{titles[task]}, {run.scores.reported}", note=numbers.get(task)),
            Column(title="best of rank"),
            Column(title="lr"),
        ]
    return Section(
        heading=heading(group),
        header={
            **setting_words(group, group.runs),
            "Selection": selection_words(list(group.cells.values())),
            "Seeds": seeds_words(list(group.cells.values())),
        },
        columns=columns,
        lines=[_line(group, variant, ends) for variant in group.variants],
        notes=[*notes, *([END_NOTE] if ends else []), *_undefined(group), *modified_notes(group.runs)],
    )


def _line(group: Group, variant: Variant, ends: set[tuple[Variant, str]]) -> Line:
    cells = {task: group.cells.get((variant, task)) for task in group.tasks}
    trainable = sorted({cell.trainable for cell in cells.values() if cell})
    entries = [Entry(mean="–".join(dict.fromkeys(map(parameters, trainable))))]
    for task, cell in cells.items():
        entries += _entries(cell, AT_AN_END if (variant, task) in ends else "") if cell else [Entry()] * 3
    return Line(label=variant.label, entries=entries)


def _entries(cell: Cell, mark: str) -> list[Entry]:
    """Return the error, the bound and the learning rate."""
    spread = None if cell.std is None else ERRORS.text(cell.std)
    error = Entry(mean=ERRORS.text(cell.mean), spread=spread, count=len(cell.runs), mark=mark)
    bound = best_of_rank(cell.runs)
    return [
        error if cell.is_defined else Entry(mean=UNDEFINED),
        Entry(mean=None if bound is None else ERRORS.text(bound)),
        Entry(mean=f"{cell.lr:g}"),
    ]


def _undefined(group: Group) -> list[str]:
    labels = dict.fromkeys(variant.label for (variant, _), cell in group.cells.items() if not cell.is_defined)
    return [f"{UNDEFINED}: a run's error is not a number, so there is no mean: {', '.join(labels)}"] if labels else []


def _tidy(number: int, group: Group) -> Iterator[dict[str, str]]:
    for variant in group.variants:
        for task in group.tasks:
            if cell := group.cells.get((variant, task)):
                yield {
                    **first_columns(number, group, task, variant),
                    "metric": cell.runs[0].scores.reported,
                    "trainable_parameters": str(cell.trainable),
                    "lr": f"{cell.lr:g}",
                    "lrs_tried": str(len(cell.lrs)),
                    "seeds": str(len(cell.runs)),
                    "mean": csv_text(cell.mean, "{:.6g}"),
                    "std": csv_text(cell.std, "{:.6g}"),
                    "last_epoch_mean": csv_text(cell.last_mean, "{:.6g}"),
                    "best_of_rank": csv_text(best_of_rank(cell.runs), "{:.6g}"),
                    "runs": " ".join(run.id for run in cell.runs),
                }
