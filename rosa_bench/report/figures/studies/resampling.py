"""Not in the paper: the training loss of each epoch, compared with a ROSA that never resamples."""

import math
from itertools import zip_longest

from rosa_bench.report.cells.arms import is_resampled
from rosa_bench.report.cells.grid import BASELINE
from rosa_bench.report.cells.selection.select import Cell, Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.figures.drawing import Drawing, caption_text, drawn, letter, styled
from rosa_bench.report.figures.plotting.curves import in_two_columns, name_variants, plot_against_epochs
from rosa_bench.report.figures.plotting.panels import Cells, Panel, panels_of, run_ids, sources, variants_of
from rosa_bench.report.figures.plotting.styles import styles_of

PERIOD = "method.resample_every"
MOST = 6  # panels
# (lr, seed) -> for each epoch, the train losses of the variant and of the run that never resamples.
Pairs = dict[tuple[float, int], list[tuple[float | None, float | None]]]


def draw(groups: list[Group]) -> Drawing | None:
    """Draw one panel per setting and task with pairs of runs to compare; None if there are none."""
    panels = panels_of(groups, bool, _pairs_by_variant, among=_comparable, most=MOST)
    if not panels:
        return None
    styles = styles_of(variants_of(panels))
    with styled():
        figure, axes = in_two_columns(panels, height_in=2.4)
        for ax, panel in zip(axes, panels, strict=True):
            for variant, pairs in _pairs_by_variant(panel.cells).items():
                changes = [
                    [_percent_above(*pair) for pair in epoch]
                    for epoch in zip_longest(*pairs.values(), fillvalue=(None, None))
                ]
                plot_against_epochs(ax, changes, label=drawn(variant.label), **styles[variant])
            for variant in _nevers(panel.cells):
                ax.axhline(0, label=drawn(variant.label), color=styles[variant]["color"], linewidth=1)
            ax.set_ylabel("train loss, % above\nnever resampled")
        name_variants(figure, panels)
    return Drawing("resampling", figure, _caption(panels), run_ids(panels, tried=True))


def _percent_above(ours: float | None, never: float | None) -> float:
    return 100 * (ours / never - 1) if never and ours is not None else math.nan


def _comparable(cells: Cells) -> Cells:
    """Keep variants that never resample, those that differ from them only in the period, and LoRA at their rank."""
    shown = {variant for variant in cells if _never(variant, cells) is not None}
    return {variant: cell for variant, cell in cells.items() if variant in shown}


def _nevers(cells: Cells) -> list[Variant]:
    """Return the variants that never resample: by a changed period, or by default where a sibling does."""
    plain = {variant for variant in cells if variant.method != BASELINE and _only_period(variant)}
    changed = {variant for variant in plain if [change.value for change in variant.changes] == [0]}
    default = {variant for variant in plain if not variant.changes and not is_resampled(cells[variant].runs[0])}
    siblings = {(variant.method, variant.rank) for variant in plain - changed - default}
    return [
        variant
        for variant in cells
        if variant in changed or (variant in default and (variant.method, variant.rank) in siblings)
    ]


def _only_period(variant: Variant) -> bool:
    return all(change.key == PERIOD for change in variant.changes)


def _never(variant: Variant, cells: Cells) -> Variant | None:
    """Return the variant in ``cells`` that this one is compared with, possibly itself, or None."""
    for other in _nevers(cells):
        same_but_for_period = variant.method == other.method and _only_period(variant)
        if variant.rank == other.rank and (same_but_for_period or variant.method == BASELINE):
            return other
    return None


def _pairs_by_variant(cells: Cells) -> dict[Variant, Pairs]:
    """Pair the runs of each variant that resamples, or of LoRA; variants without a pair are left out."""
    nevers = _nevers(cells)
    others = ((variant, cell, _never(variant, cells)) for variant, cell in cells.items() if variant not in nevers)
    found = {variant: _pairs(cell, cells[never]) for variant, cell, never in others if never is not None}
    return {variant: pairs for variant, pairs in found.items() if pairs}


def _pairs(cell: Cell, never: Cell) -> Pairs:
    """Pair runs by learning rate and seed. Collapsed runs are left out: their loss only shows label frequencies."""
    ours, theirs = _losses(cell), _losses(never)
    both = sorted(ours.keys() & theirs.keys())
    return {place: list(zip_longest(ours[place], theirs[place])) for place in both}


def _losses(cell: Cell) -> dict[tuple[float, int], list[float | None]]:
    """Return the train loss of each epoch, keyed by learning rate and seed."""
    return {
        (run.settings.lr, run.settings.seed): [epoch.train_loss for epoch in run.scores.epochs]
        for run in cell.tried
        if run.scores.epochs and not run.has_collapsed
    }


def _caption(panels: list[Panel]) -> str:
    counted = "; ".join(f"{letter(number)} {_counts(panel.cells)}" for number, panel in enumerate(panels))
    text = (
        "(not in the paper). The train loss of each epoch (mean over its steps, with "
        "dropout) less that of ROSA never resampled (resample_every=0) in the same epoch, in per cent of it: below 0 "
        "fits better. Runs are compared in pairs, with the same learning rate and seed; all learning rates that both "
        "were run with are in, runs that collapsed are not. Until its first resample ROSA is the same run as the one "
        "that never does. Lines: mean over pairs; shades: their range. Pairs, and the learning rates that they are of: "
        f"{counted}."
    )
    return caption_text(title="Resampling and the fit", text=text, sources=sources(panels))


def _counts(cells: Cells) -> str:
    """Count the pairs and list their learning rates: ``ROSA (r=8) 6 (0.0006, 0.002), ...``."""
    counts = []
    for variant, pairs in _pairs_by_variant(cells).items():
        lrs = sorted({lr for lr, _seed in pairs})
        counts.append(f"{variant.label} {len(pairs)} ({', '.join(f'{lr:g}' for lr in lrs)})")
    return ", ".join(counts)
