"""Figure 4: convergence of ROSA by rank, next to LoRA."""

from collections.abc import Iterable

from matplotlib.figure import Figure

from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.figures.drawing import WIDTH_IN, Drawing, caption_text, drawn, styled
from rosa_bench.report.figures.plotting.curves import TITLE, name_variants, plot_epochs, score_of, set_title
from rosa_bench.report.figures.plotting.panels import Panel, has_epochs, panels_of, run_ids, sources, variants_of
from rosa_bench.report.figures.plotting.styles import styles_of

METHOD, BESIDE, IN_BOTH = "rosa", "lora", "ft"
NAME_ROOM = 0.1  # below all lines, for the method's name, as a share of their height


def draw(groups: list[Group]) -> Drawing | None:
    """Draw one row per setting and task: ROSA left, LoRA right, FT in both. None unless ROSA has two ranks."""
    panels = panels_of(groups, has_epochs, _has_ranks)
    if not panels:
        return None
    methods = [name for name in (METHOD, BESIDE) if any(one.method == name for panel in panels for one in panel.cells)]
    styles = styles_of(variants_of(panels))
    with styled():
        figure = Figure(figsize=(WIDTH_IN, 0.8 + 2.4 * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), len(methods), squeeze=False, sharey="row")
        for number, (panel, row) in enumerate(zip(panels, axes, strict=True)):
            for method, ax in zip(methods, row, strict=True):
                for variant, cell in panel.cells.items():
                    if variant.method in (method, IN_BOTH):
                        plot_epochs(ax, cell, score_of(panel.run), label=drawn(variant.label), **styles[variant])
                titles = [variant.title for variant in panel.cells if variant.method == method]
                ax.text(0.98, 0.03, drawn("".join(titles[:1])), transform=ax.transAxes, ha="right", weight="bold")
            low, high = row[0].get_ylim()
            row[0].set_ylim(low - NAME_ROOM * (high - low), high)
            set_title(row[0], number, panel, width=TITLE)
            row[0].set_ylabel(panel.each_epoch)
        name_variants(figure, panels)
    return Drawing("figure4", figure, _caption(panels), run_ids(panels))


def _has_ranks(variants: Iterable[Variant]) -> bool:
    return len({variant.rank for variant in variants if variant.method == METHOD}) >= 2


def _caption(panels: list[Panel]) -> str:
    text = (
        "What selects the epoch (a score, or the perplexity where texts are written) against epochs at "
        "several ranks, after Figure 4 of arXiv 2407.07802: ROSA on the left, LoRA, where it was run, on the right, "
        "full fine-tuning in both; each at its chosen learning rate. Darker: a higher rank. Lines: mean over seeds; "
        "shades: their range. Each epoch is scored on the rows that the epoch is selected by, which the axis names."
    )
    return caption_text(title="Figure 4.", text=text, sources=sources(panels))
