"""Not in the paper: dev score against learning rate, with the chosen learning rate marked."""

from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.typing import ColorType

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.select import Cell, select, writes_texts
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.figures.curves import (
    Cells,
    Panel,
    in_two_columns,
    letter,
    panels_of,
    plot_range,
    run_ids,
    set_legend,
    sources,
    unchanged,
    variants_of,
)
from rosa_bench.report.figures.drawing import Caption, Drawing, drawn, styled
from rosa_bench.report.figures.styles import styles_of

CHOSEN_SIZE = 8.5
MOST = 8  # panels: four tasks under two protocols


def draw(records: list[RunRecord]) -> Drawing | None:
    """Draw one panel per setting and task where a method has several learning rates; None if there are none."""
    return _drawing("lr_sensitivity", "", panels_of(select(records), bool, _is_varied, among=unchanged, most=MOST))


def draw_changed(records: list[RunRecord]) -> Drawing | None:
    """Draw the same for changed variants next to the unchanged method; None if none has several learning rates."""
    panels = panels_of(select(records), bool, _is_varied, among=_changed, most=MOST)
    return _drawing("lr_sensitivity_changed", "of methods with a changed setting, beside the method without ", panels)


def _is_varied(cells: Cells) -> bool:
    return any(len(cell.by_lr) > 1 for cell in cells.values())


def _changed(cells: Cells) -> Cells:
    """Keep changed variants with several learning rates, and the plain variants that they are changed from."""
    varied = {variant for variant, cell in cells.items() if variant.changes and len(cell.by_lr) > 1}
    shown = varied | {variant.plain for variant in varied}
    return {variant: cell for variant, cell in cells.items() if variant in shown}


def _drawing(name: str, of: str, panels: list[Panel]) -> Drawing | None:
    if not panels:
        return None
    styles = styles_of(variants_of(panels))
    one_task = len({panel.task for panel in panels}) == 1
    with styled():
        figure, axes = in_two_columns(panels, height_in=2.7, sharey=one_task)
        for number, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
            for variant, cell in panel.cells.items():
                _plot(ax, variant, cell, styles[variant])
            _mark_half_decades(ax)
            if not one_task or number % 2 == 0:
                ax.set_ylabel(panel.reported)
        chosen = Line2D([], [], marker="o", markersize=CHOSEN_SIZE, **_ring("none"), label="larger: chosen")
        set_legend(figure, panels, [chosen])
    return Drawing(name, figure, _caption(of, panels), run_ids(panels, tried=True))


def _mark_half_decades(ax: Axes) -> None:
    """Make the axis logarithmic, with ticks at 2 and 6 of each decade, which is the grid of learning rate sweeps."""
    ax.set_xscale("log")
    ax.set_xlabel("learning rate (logarithmic)")
    ax.xaxis.set_major_locator(LogLocator(subs=(2, 6), numticks=12))
    ax.xaxis.set_major_formatter(lambda lr, _place: f"{lr:.0e}".replace("e-0", "e-"))
    ax.xaxis.set_minor_locator(NullLocator())


def _plot(ax: Axes, variant: Variant, chosen: Cell, style: dict[str, Any]) -> None:
    """Draw a variant's line, with open markers for fewer seeds and a larger one for the chosen learning rate."""
    scores = {lr: [100 * run.score for run in runs] for lr, runs in chosen.by_lr.items()}
    plot_range(ax, list(scores), list(scores.values()), label=drawn(variant.label), **style)
    left = [fmean(scores[lr]) for lr in chosen.lrs_left]
    points: dict[str, Any] = {**style, "linestyle": "none"}
    ax.plot(chosen.lrs_left, left, **{**points, "markerfacecolor": "white"})
    ax.plot([chosen.lr], [100 * chosen.mean], **{**points, "markersize": CHOSEN_SIZE, **_ring(style["color"])})


def _ring(colour: ColorType) -> dict[str, Any]:
    return {"color": colour, "markeredgecolor": "black", "markeredgewidth": 0.8}


def _caption(of: str, panels: list[Panel]) -> str:
    text = (
        f"{of}(not in the paper). Dev score of each run's selected epoch against "
        "the learning rate; all else is equal along a line. Lines: mean over seeds; shades: their range. Larger "
        "markers: the learning rate that the tables choose, in protocol fair by rows held out of train, which is why "
        "it need not be the highest."
    )
    if any(writes_texts(panel.run) for panel in panels):
        text += " Where texts are written, the score is that on test, and perplexity on dev chooses."
    if any(cell.lrs_left for panel in panels for cell in panel.cells.values()):
        text += " Open markers: fewer seeds than others have, so not compared."
    at_ends = [
        f"{letter(number)} {', '.join(labels)}"
        for number, panel in enumerate(panels)
        if (labels := [variant.label for variant, cell in panel.cells.items() if cell.at_an_end])
    ]
    ends = f" At an end of the learning rates tried, so that another may be better still: {'; '.join(at_ends)}."
    return Caption(
        title="Sensitivity to the learning rate", text=f"{text}{ends if at_ends else ''}", sources=sources(panels)
    ).markdown
