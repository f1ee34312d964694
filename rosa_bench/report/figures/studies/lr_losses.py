"""Not in the paper: the loss at every learning rate that was tried, one line per arm, the best first.

Arms scored by a loss are often many, in one setting: lines against the rate would hide each other.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rosa_bench.config.files.looks import look_of
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import arm_labels, one_run_each
from rosa_bench.report.cells.selection.select import Cell, select
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.words.facts import scored_on_test
from rosa_bench.report.cells.words.shown import scale
from rosa_bench.report.figures.drawing import SMALL, WIDTH_IN, Drawing, caption_text, drawn, styled
from rosa_bench.report.figures.plotting.arms import sources_of_arms
from rosa_bench.report.figures.plotting.curves import TITLE, titled
from rosa_bench.report.figures.plotting.dots import set_lines
from rosa_bench.report.figures.plotting.panels import Panel, panels_of, run_ids
from rosa_bench.report.figures.studies.methods_list import fence_of

LINE_IN, EDGES_IN, LEGEND_IN = 0.145, 0.85, 0.3
LONGEST, LEAST = 60, 40  # characters of an arm's name at most, and of a line of a title at least
CHOSEN, LOWER, HIGHER = "o", "<", ">"  # markers of the chosen learning rate, and of those below and above it
SIZE, CHOSEN_SIZE = 3.5, 5.5
GREY = "#555555"


def draw(records: list[RunRecord]) -> Drawing | None:
    """Draw one panel per setting and task that reports a loss or an error; None without several learning rates."""
    panels = panels_of(select(records), _is_swept, among=dict, lower_is_better=True)
    if not panels:
        return None
    heights = [EDGES_IN + LINE_IN * len(panel.cells) for panel in panels]
    with styled():
        figure = Figure(figsize=(WIDTH_IN, LEGEND_IN + sum(heights)), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for number, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
            longest = _plot(ax, panel)
            ax.set_title(titled(number, panel.title, width=max(TITLE - longest, LEAST)), loc="left")
        figure.legend(handles=_handles(), loc="outside lower center", ncols=4, fontsize=7)
    return Drawing("lr_sensitivity_losses", figure, _caption(panels), run_ids(panels, tried=True))


def _is_swept(cell: Cell) -> bool:
    return cell.is_defined and len(cell.by_lr) > 1


def means_of(cell: Cell) -> dict[float, float]:
    """Return the mean loss of every learning rate; rates at which one is undefined are left out."""
    means = {lr: fmean(run.score for run in runs) for lr, runs in cell.by_lr.items()}
    return {lr: mean for lr, mean in means.items() if math.isfinite(mean)}


def _plot(ax: Axes, panel: Panel) -> int:
    """Draw a panel, and return the length of its longest name in characters."""
    measure = scale(panel.run)
    ordered = sorted(panel.cells, key=lambda variant: measure.merit(panel.cells[variant].mean), reverse=True)
    means = {variant: means_of(panel.cells[variant]) for variant in ordered}
    every = [mean for some in means.values() for mean in some.values()]
    fence = fence_of([measure.merit(mean) for mean in every])
    shown = {mean for mean in every if measure.merit(mean) >= fence}
    margin = 0.03 * (max(shown) - min(shown)) or 1.0
    ax.set_xlim(min(shown) - margin, max(shown) + margin)
    for line, variant in enumerate(ordered):
        colour, some = look_of(variant.method).colour, means[variant]
        ax.plot(list(some.values()), [line] * len(some), color=colour, linewidth=0.8, alpha=0.6, label="_", zorder=1)
        _mark_rates(ax, line, panel.cells[variant], {lr: mean for lr, mean in some.items() if mean in shown}, colour)
        beyond = [measure.fitted(every).text(mean) for mean in some.values() if mean not in shown]
        _write_beyond(ax, line, beyond, colour)
    names = _names(panel, ordered)
    set_lines(ax, names)
    ax.set_xlabel(panel.reported)
    return max(map(len, names))


def _names(panel: Panel, ordered: Sequence[Variant]) -> list[str]:
    """Name each arm with its chosen learning rate."""
    names = arm_labels(one_run_each(panel.cells))
    return [f"{drawn(names[variant], longest=LONGEST)}   {panel.cells[variant].lr:g}" for variant in ordered]


def _mark_rates(ax: Axes, line: int, cell: Cell, means: Mapping[float, float], colour: str) -> None:
    """Draw the means of an arm's learning rates, with open markers for rates that have fewer seeds."""
    for lr, mean in means.items():
        look: dict[str, Any] = {"color": colour, "linestyle": "none", "label": "_", "zorder": 2}
        if lr == cell.lr:
            look |= {"marker": CHOSEN, "markersize": CHOSEN_SIZE, "zorder": 3}
        else:
            look |= {"marker": LOWER if lr < cell.lr else HIGHER, "markersize": SIZE}
        ax.plot([mean], [line], markerfacecolor="white" if lr in cell.lrs_left else colour, **look)


def _write_beyond(ax: Axes, line: int, texts: Sequence[str], colour: str) -> None:
    if texts:
        ax.annotate(
            f"→ {', '.join(texts)}", (1, line), xycoords=("axes fraction", "data"), xytext=(3, 0),
            textcoords="offset points", va="center", fontsize=SMALL, color=colour,
        )  # fmt: skip


def _handles() -> list[Line2D]:
    looks: dict[str, Any] = {"color": GREY, "linestyle": "none"}
    return [
        Line2D([], [], marker=CHOSEN, markersize=CHOSEN_SIZE, label="chosen learning rate", **looks),
        Line2D([], [], marker=LOWER, markersize=SIZE, label="lower", **looks),
        Line2D([], [], marker=HIGHER, markersize=SIZE, label="higher", **looks),
        Line2D([], [], marker=HIGHER, markersize=SIZE, markerfacecolor="white", label="fewer seeds", **looks),
    ]


def _caption(panels: Sequence[Panel]) -> str:
    text = (
        "(not in the paper). The loss of each run's selected epoch at every learning rate that was tried: means over "
        "seeds, one line per arm, the lowest first. The longer a line, the more depends on the rate. Beside its name: "
        "the learning rate that the tables choose, by the rows that select, which is why it need not be the lowest. "
        "Numbers with an arrow: losses beyond the axis, from the lowest rate to the highest. Open markers: fewer seeds "
        "than others have, so not compared. Arms with one learning rate are left out."
    )
    if any(scored_on_test(panel.run) for panel in panels):
        text += " Where texts answer prompts, the loss is that of the test references, and perplexity on dev chooses."
    return caption_text(title="Sensitivity of losses to the learning rate", text=text, sources=sources_of_arms(panels))
