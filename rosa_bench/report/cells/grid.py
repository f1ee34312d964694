"""Rows and columns of a table of scores, and which row leads a column."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.differences import Difference, holm, paired
from rosa_bench.report.cells.selection.select import Cell, Group, open_ended
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.statistics import satterthwaite, student_tail
from rosa_bench.report.published import PublishedTable

SIGNIFICANCE = 0.05
BASELINE = "lora"
# Settings that every adapter has. A variant and its baseline must agree on them.
SHARED = ("method.targets", "method.attention", "method.train_head", "method.train_biases")


@dataclass(frozen=True)
class Grid:
    """The rows and columns of one setting: variants, tasks, and the paper's figures for them.

    titles  the paper's own row names; every other row is named after its method, rank and changes
    """

    group: Group
    variants: list[Variant]
    tasks: dict[str, str]
    printed: dict[tuple[Variant, str], str]
    printed_trainable: dict[Variant, str]
    titles: dict[Variant, str]

    @property
    def filled(self) -> dict[str, RunRecord]:
        """The tasks with figures of ours, in column order. Each maps to one run, which represents all of its runs."""
        return {task: self.group.tasks[task] for task in self.tasks if task in self.group.tasks}

    def label(self, variant: Variant) -> str:
        """The name of a row."""
        return self.titles.get(variant, variant.label)

    def cell(self, variant: Variant, task: str) -> Cell | None:
        """Our figure for a row and column, or None."""
        return self.group.cells.get((variant, task))

    @cached_property
    def against_baseline(self) -> dict[tuple[Variant, str], Difference]:
        """Each figure minus LoRA's at the same rank, in row and column order, if both exist and share a seed."""
        found = {}
        for variant in self.variants:
            same = tuple(change for change in variant.changes if change.key in SHARED)
            lora = Variant(BASELINE, variant.rank, same, title="")
            for task in self.tasks:
                one, other = self.cell(variant, task), self.cell(lora, task)
                if one and other and variant != lora and (difference := paired(one.by_seed, other.by_seed)):
                    found[variant, task] = difference
        return found

    @cached_property
    def holm(self) -> dict[tuple[Variant, str], float | None]:
        """The p of each comparison with LoRA, corrected over all of them."""
        found = self.against_baseline
        return dict(zip(found, holm([difference.p for difference in found.values()]), strict=True))

    @cached_property
    def open_ended(self) -> set[tuple[Variant, str]]:
        """The cells whose learning rate lies at an end of those tried, so that a better one may lie beyond it."""
        return open_ended(self.group.cells)

    @cached_property
    def leaders(self) -> dict[str, Variant | None]:
        """The row to mark as best in each column, or None."""
        return {
            task: leader({variant: cell for variant in self.variants if (cell := self.cell(variant, task))})
            for task in self.tasks
        }


def grid_of(group: Group, published: PublishedTable) -> Grid:
    """Lay out the grid of one setting.

    The paper's rows and columns are kept even if empty, unless the setting has none of the paper's tasks or its runs
    are on custom rows.
    """
    beside_paper = not group.setting.has_custom_rows and any(task in published.columns for task in group.tasks)
    known = list(zip(published.variants(group), published.rows, strict=True))
    paper_rows = [variant for variant, _ in known if beside_paper or variant in group.variants]
    paper_columns = published.columns if beside_paper else {}
    others = {task: run.settings.task.title for task, run in group.tasks.items() if task not in paper_columns}
    printed = known if beside_paper else []
    return Grid(
        group=group,
        variants=[*paper_rows, *(variant for variant in group.variants if variant not in paper_rows)],
        tasks={**paper_columns, **others},
        printed={(variant, task): figure for variant, row in printed for task, figure in row.figures.items()},
        printed_trainable={
            variant: f"{row.trainable_millions} M" for variant, row in printed if row.trainable_millions
        },
        titles={variant: row.title for variant, row in known if row.settings},
    )


def leader(cells: dict[Variant, Cell]) -> Variant | None:
    """Return the variant that beats every other by more than chance, or None.

    The test is Welch's t-test over seeds, one-sided, at `SIGNIFICANCE`, against each other variant in turn. So a leader
    needs at least one other variant to beat, and at least two seeds on both sides. A comparison within noise has no
    winner.
    """
    if len(cells) < 2:
        return None
    if not all(cell.is_defined for cell in cells.values()):
        return None
    best = max(cells, key=lambda variant: cells[variant].mean)
    others = (cell for variant, cell in cells.items() if variant != best)
    return best if all(_leads(cells[best], other) for other in others) else None


def _leads(one: Cell, other: Cell) -> bool:
    if one.std is None or other.std is None:
        return False
    if one.std == other.std == 0:  # zero variance: the test would divide by zero
        return one.mean > other.mean
    counts = len(one.runs), len(other.runs)
    with np.errstate(over="ignore", invalid="ignore"):  # a record may hold scores whose fourth powers are too large
        terms = [np.float64(std) ** 2 / count for std, count in zip((one.std, other.std), counts, strict=True)]
        return student_tail((one.mean - other.mean) / np.sqrt(sum(terms)), satterthwaite(terms, counts)) < SIGNIFICANCE
