"""The comparisons below a table of scores: each row minus LoRA at the same rank, task by task."""

from rosa_bench.report.cells.differences import Difference, survives
from rosa_bench.report.cells.grid import Grid
from rosa_bench.report.cells.words.shown import SCORES
from rosa_bench.report.tables.building.table import Contrast
from rosa_bench.report.writers.text import probability, span

COMPARED = (
    "Compared with LoRA: the mean difference paired over seeds, with its 95 % interval by Student's t. The p-values "
    "have Holm's correction over all comparisons of the section. Above or below LoRA: significant at 5 % after it. "
    "Uncorrected: the interval excludes 0, but the corrected p is above 5 %. Within noise: the interval contains 0. "
    "Not known: a single seed, or no spread over seeds."
)


def contrasts(grid: Grid) -> list[Contrast]:
    """Compare every row of a section with LoRA, if they share a seed."""
    return [
        _contrast(grid.label(variant), grid.tasks[task], difference, grid.holm[variant, task])
        for (variant, task), difference in grid.against_baseline.items()
    ]


def _contrast(label: str, column: str, difference: Difference, holm: float | None) -> Contrast:
    return Contrast(
        label=label,
        column=column,
        difference=SCORES.signed(difference.mean, difference),
        p=None if holm is None else probability(holm),
        count=span(difference.seeds),
        verdict=_verdict(difference, holm),
    )


def _verdict(difference: Difference, holm: float | None) -> str:
    if difference.low is None or (difference.p is None and difference.mean):
        return "not known"
    if survives(holm):
        return "above LoRA" if difference.mean > 0 else "below LoRA"
    return "within noise" if difference.within_noise else "uncorrected"
