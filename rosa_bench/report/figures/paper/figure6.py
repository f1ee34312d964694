"""Figure 6: train loss and the selection score against epochs, at the chosen learning rate."""

from collections import Counter

from matplotlib.figure import Figure

from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.figures.drawing import WIDTH_IN, Drawing, caption_text, drawn, styled
from rosa_bench.report.figures.plotting.curves import TITLE, name_variants, plot_epochs, score_of, set_title
from rosa_bench.report.figures.plotting.panels import (
    Cells,
    Panel,
    has_epochs,
    panels_of,
    plain,
    run_ids,
    sources,
    variants_of,
)
from rosa_bench.report.figures.plotting.styles import styles_of


def draw(groups: list[Group]) -> Drawing | None:
    """Draw one row per setting and task: train loss left, selection score right; None if no run has epochs."""
    panels = panels_of(groups, has_epochs, among=_of_one_rank)
    if not panels:
        return None
    styles = styles_of(variants_of(panels))
    with styled():
        figure = Figure(figsize=(WIDTH_IN, 0.7 + 2.3 * len(panels)), layout="constrained")
        for number, (panel, (left, right)) in enumerate(
            zip(panels, figure.subplots(len(panels), 2, squeeze=False), strict=True)
        ):
            for variant, cell in panel.cells.items():
                plot_epochs(left, cell, lambda epoch: epoch.train_loss, label=drawn(variant.label), **styles[variant])
                plot_epochs(right, cell, score_of(panel.run), label=drawn(variant.label), **styles[variant])
            set_title(left, number, panel, width=TITLE)
            left.set_ylabel("train loss")
            right.set_ylabel(panel.each_epoch)
        name_variants(figure, panels)
    return Drawing("figure6", figure, _caption(panels), run_ids(panels))


def _of_one_rank(cells: Cells) -> Cells:
    """Keep the variants of the rank with the most runs, of ties the higher, and those without a rank."""
    shown = plain(cells)
    counts = Counter(variant.rank for variant, cell in shown.items() if variant.rank is not None for _ in cell.runs)
    rank = max(counts, key=lambda one: (counts[one], one), default=None)
    return {variant: cell for variant, cell in shown.items() if variant.rank in (None, rank)}


def _caption(panels: list[Panel]) -> str:
    text = (
        "Train loss (left; mean over the epoch's steps) and what selects the epoch (right; a score, or "
        "the perplexity where texts are written) against epochs, after Figure 6 of arXiv 2407.07802, each method at "
        "its chosen learning rate and at the rank with the most runs; Figure 4 has other ranks. Lines: mean over "
        "seeds; shades: their range. Each epoch is scored on the rows that the epoch is selected by, which the axis "
        "names."
    )
    return caption_text(title="Figure 6.", text=text, sources=sources(panels))
