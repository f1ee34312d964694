"""Not in the paper: dev score against learning rate, with the chosen learning rate marked. Losses: `lr_losses`."""

from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.typing import ColorType

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import Cell, select
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.words.facts import scored_on_test
from rosa_bench.report.figures.drawing import Drawing, caption_text, drawn, letter, styled
from rosa_bench.report.figures.plotting.curves import in_two_columns, plot_range, set_legend
from rosa_bench.report.figures.plotting.panels import Cells, Panel, panels_of, run_ids, sources, unchanged, variants_of
from rosa_bench.report.figures.plotting.styles import styles_of

TITLE = "Sensitivity to the learning rate"
CHOSEN_SIZE = 8.5
MOST = 8  # panels: four tasks under two protocols


def draw(records: list[RunRecord]) -> Drawing | None:
    """Draw one panel per setting and task where a method has several learning rates; None if there are none."""
    panels = panels_of(select(records), lambda cell: cell.is_defined, is_varied, among=unchanged, most=MOST)
    if not panels:
        return None
    styles = styles_of(variants_of(panels))
    one_task = len({panel.task for panel in panels}) == 1
    with styled():
        figure, axes = in_two_columns(panels, height_in=2.7, sharey=one_task)
        for number, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
            for variant, cell in panel.cells.items():
                plot_sweep(ax, variant, cell, styles[variant])
            mark_half_decades(ax)
            if not one_task or number % 2 == 0:
                ax.set_ylabel(panel.reported)
        set_legend(figure, panels, [chosen_handle()])
    return Drawing("lr_sensitivity", figure, caption(TITLE, panels), run_ids(panels, tried=True))


def is_varied(cells: Cells) -> bool:
    """Whether any variant has several learning rates."""
    return any(len(cell.by_lr) > 1 for cell in cells.values())


def chosen_handle() -> Line2D:
    """Return the legend entry of the larger markers."""
    return Line2D([], [], marker="o", markersize=CHOSEN_SIZE, **_ring("none"), label="larger: chosen")


def mark_half_decades(ax: Axes) -> None:
    """Make the axis logarithmic, with ticks at 2 and 6 of each decade, which is the grid of learning rate sweeps."""
    ax.set_xscale("log")
    ax.set_xlabel("learning rate (logarithmic)")
    ax.xaxis.set_major_locator(LogLocator(subs=(2, 6), numticks=12))
    ax.xaxis.set_major_formatter(lambda lr, _place: f"{lr:.0e}".replace("e-0", "e-"))
    ax.xaxis.set_minor_locator(NullLocator())


def plot_sweep(ax: Axes, variant: Variant, chosen: Cell, style: dict[str, Any]) -> None:
    """Draw a variant's line, with open markers for fewer seeds and a larger one for the chosen learning rate."""
    scores = {lr: [100 * run.score for run in runs] for lr, runs in chosen.by_lr.items()}
    plot_range(ax, list(scores), list(scores.values()), label=drawn(variant.label), **style)
    left = [fmean(scores[lr]) for lr in chosen.lrs_left]
    points: dict[str, Any] = {**style, "linestyle": "none"}
    ax.plot(chosen.lrs_left, left, **points | {"markerfacecolor": "white"})
    ax.plot([chosen.lr], [100 * chosen.mean], **points | {"markersize": CHOSEN_SIZE} | _ring(style["color"]))


def _ring(colour: ColorType) -> dict[str, Any]:
    return {"color": colour, "markeredgecolor": "black", "markeredgewidth": 0.8}


def caption(title: str, panels: list[Panel], lines: str = "") -> str:
    """Write what the figure shows: ``lines`` says which lines are drawn, if that needs to be said."""
    text = (
        f"{lines}(not in the paper). Dev score of each run's selected epoch against "
        "the learning rate; all else is equal along a line. Lines: mean over seeds; shades: their range. Larger "
        "markers: the learning rate that the tables choose, in protocol fair by rows held out of train, which is why "
        "it need not be the highest."
    )
    if any(scored_on_test(panel.run) for panel in panels):
        text += " Where texts are written, the score is that on test, and perplexity on dev chooses."
    if any(cell.lrs_left for panel in panels for cell in panel.cells.values()):
        text += " Open markers: fewer seeds than others have, so not compared."
    at_ends = [
        f"{letter(number)} {', '.join(labels)}"
        for number, panel in enumerate(panels)
        if (labels := [variant.label for variant, cell in panel.cells.items() if cell.at_an_end])
    ]
    ends = f" At an end of the learning rates tried, so that another may be better still: {'; '.join(at_ends)}."
    return caption_text(title=title, text=f"{text}{ends if at_ends else ''}", sources=sources(panels))
