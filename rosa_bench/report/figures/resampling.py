"""Beyond the paper: what resampling does to the training loss, epoch by epoch, beside a ROSA that never resamples."""

import math
from collections.abc import Iterable

import matplotlib as mpl

from rosa_bench.report.cells.grid import BASELINE
from rosa_bench.report.cells.select import Cell, Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.figures.curves import (
    Cells,
    Panel,
    in_two_columns,
    letter,
    panels_of,
    plot_against_epochs,
    set_legend,
    sources,
    styles_of,
)
from rosa_bench.report.figures.drawing import STYLE, Drawing

PERIOD = "method.resample_every"
MOST = 6  # panels
# Of two runs, by their learning rate and seed: in each epoch a variant's train loss, and the never resampled one's.
Pairs = dict[tuple[float, int], list[tuple[float, float]]]


def draw(groups: list[Group]) -> Drawing | None:
    """The figure, a panel a setting and task that has pairs of runs to compare; none without any."""
    panels = panels_of(groups, bool, _pairs_by_variant, among=_comparable, most=MOST)
    if not panels:
        return None
    styles = styles_of(panels)
    with mpl.rc_context(STYLE):
        figure, axes = in_two_columns(panels, height_in=2.4)
        for ax, panel in zip(axes, panels, strict=True):
            for variant, pairs in _pairs_by_variant(panel.cells).items():
                changes = [[_percent_above(*pair) for pair in epoch] for epoch in zip(*pairs.values(), strict=True)]
                plot_against_epochs(ax, changes, label=variant.label, **styles[variant])
            for variant in filter(_is_never, panel.cells):
                ax.axhline(0, label=variant.label, color=styles[variant]["color"], linewidth=1)
            ax.set_ylabel("train loss, % above\nnever resampled")
        set_legend(figure, panels)
    return Drawing("resampling", figure, _caption(panels))


def _percent_above(ours: float, never: float) -> float:
    return 100 * (ours / never - 1) if never else math.nan


def _comparable(cells: Cells) -> Cells:
    """Variants that never resample, those that differ from one by the period alone, and LoRA's of their rank."""
    shown = {variant for variant in cells if _never(variant, cells) is not None}
    return {variant: cell for variant, cell in cells.items() if variant in shown}


def _is_never(variant: Variant) -> bool:
    return [(change.key, change.value) for change in variant.changes] == [(PERIOD, 0)]


def _never(variant: Variant, cells: Iterable[Variant]) -> Variant | None:
    """The one among ``cells`` that a variant is compared with, which may be itself."""
    changed = {change.key for change in variant.changes}
    for other in filter(_is_never, cells):
        same_but_for_period = variant.method == other.method and changed <= {PERIOD}
        if variant.rank == other.rank and (same_but_for_period or variant.method == BASELINE):
            return other
    return None


def _pairs_by_variant(cells: Cells) -> dict[Variant, Pairs]:
    """Of each variant but those that never resample; variants without a pair are left out."""
    others = ((variant, cell, _never(variant, cells)) for variant, cell in cells.items() if not _is_never(variant))
    found = {variant: _pairs(cell, cells[never]) for variant, cell, never in others if never is not None}
    return {variant: pairs for variant, pairs in found.items() if pairs}


def _pairs(cell: Cell, never: Cell) -> Pairs:
    """Runs that collapsed have no pair: their loss tells the labels' frequencies alone."""
    ours, theirs = _losses(cell), _losses(never)
    both = sorted(ours.keys() & theirs.keys())
    return {place: list(zip(ours[place], theirs[place], strict=True)) for place in both}


def _losses(cell: Cell) -> dict[tuple[float, int], list[float]]:
    """Train losses of the epochs, by learning rate and seed."""
    return {
        (run.settings.lr, run.settings.seed): [epoch.train_loss for epoch in run.scores.epochs]
        for run in cell.tried
        if run.scores.epochs and not run.has_collapsed
    }


def _caption(panels: list[Panel]) -> str:
    counted = "; ".join(f"{letter(number)} {_counts(panel.cells)}" for number, panel in enumerate(panels))
    return (
        "**Resampling and the fit** (not in the paper). The train loss of each epoch (mean over its steps, with "
        "dropout) less that of ROSA never resampled (resample_every=0) in the same epoch, in per cent of it: below 0 "
        "fits better. Runs are compared in pairs, with the same learning rate and seed; all learning rates that both "
        "were run with are in, runs that collapsed are not. Until its first resample ROSA is the same run as the one "
        "that never does. Lines: mean over pairs; shades: their range. Pairs, and the learning rates that they are of: "
        f"{counted}.\n\n{sources(panels)}"
    )


def _counts(cells: Cells) -> str:
    """``ROSA (r=8) 6 (0.0006, 0.002), ...``."""
    said = []
    for variant, pairs in _pairs_by_variant(cells).items():
        lrs = sorted({lr for lr, _seed in pairs})
        said.append(f"{variant.label} {len(pairs)} ({', '.join(f'{lr:g}' for lr in lrs)})")
    return ", ".join(said)
