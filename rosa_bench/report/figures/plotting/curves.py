"""Shared by the figures of scores: lines with their range over seeds, titles and legends."""

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rosa_bench.records.parts.measured import EpochScores
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import Cell
from rosa_bench.report.cells.words.shown import selection_scale
from rosa_bench.report.figures.drawing import WIDTH_IN, drawn, letter
from rosa_bench.report.figures.plotting.line_names import legend_columns, name_lines
from rosa_bench.report.figures.plotting.panels import Panel, sort_key

LEGEND_WIDTH, LEGEND_LINE = 110, 8  # in characters: the page's width, and the space of a line before its label
TITLE = 100  # characters of a title from the left end of the first axes to the page's edge
NO_BREAK = "\N{NO-BREAK SPACE}"


def plot_range(ax: Axes, x: Sequence[float], values: Iterable[Sequence[float | None]], **looks: Any) -> None:
    """Draw the mean of the values at each x, and shade their range."""
    groups = [np.asarray(some, dtype=float) for some in values]  # None becomes NaN, which leaves a gap
    [line] = ax.plot(x, [some.mean() for some in groups], **looks)
    low, high = [some.min() for some in groups], [some.max() for some in groups]
    ax.fill_between(x, low, high, alpha=0.13, linewidth=0, color=line.get_color())


def plot_epochs(ax: Axes, cell: Cell, value: Callable[[EpochScores], float | None], **looks: Any) -> None:
    """Draw ``value`` of each epoch of a cell's runs, against epochs; undefined ones leave a gap.

    So do epochs that a stopped run did not make.
    """
    plot_against_epochs(ax, list(zip_longest(*(map(value, run.scores.epochs) for run in cell.runs))), **looks)


def plot_against_epochs(ax: Axes, values: Sequence[Sequence[float | None]], **looks: Any) -> None:
    """Draw the mean and the range of each epoch's values; ``values`` has one sequence per epoch."""
    plot_range(ax, range(1, len(values) + 1), values, **looks)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def score_of(run: RunRecord) -> Callable[[EpochScores], float | None]:
    """Return a function from an epoch to its selection score: scores times 100, errors unchanged, None if undefined."""
    name, measure = run.scores.selected_by.name, selection_scale(run)
    return lambda epoch: measure.scaled(epoch.scores[name])


def in_two_columns(panels: Sequence[Panel], *, height_in: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Make a figure with titled axes of about this height for each panel, in two columns if there are several."""
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(WIDTH_IN, 0.9 + height_in * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=sharey).ravel().tolist()
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for number, (ax, panel) in enumerate(zip(axes, panels, strict=False)):
        set_title(ax, number, panel, width=92 // columns)
    return figure, axes[: len(panels)]


def set_title(ax: Axes, number: int, panel: Panel, *, width: int) -> None:
    """Write a panel's task and setting above its first axes."""
    ax.set_title(titled(number, panel.title, width=width), loc="left")


def titled(number: int, title: str, *, width: int) -> str:
    """Return a panel's letter and title, in lines of at most ``width`` characters, broken after commas."""
    unbroken = ", ".join(part.replace(" ", NO_BREAK) for part in f"{letter(number)} {drawn(title)}".split(", "))
    return "\n".join(wrap(unbroken, width, break_on_hyphens=False)).replace(NO_BREAK, " ")


def name_variants(figure: Figure, panels: Iterable[Panel]) -> None:
    """Write the variants' names at the ends of their lines if they are few, or else in a legend."""
    if not name_lines(figure.axes):
        set_legend(figure, panels)


def set_legend(figure: Figure, panels: Iterable[Panel], extra: Iterable[Line2D] = ()) -> None:
    """Add one legend below all panels, with each variant once, in order."""
    handles: dict[object, Any] = {
        label: line for ax in figure.axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    variants = sorted({variant for panel in panels for variant in panel.cells}, key=sort_key)
    lines = [handles[label] for variant in variants if (label := drawn(variant.label)) in handles]
    lines += extra
    columns = legend_columns([str(line.get_label()) for line in lines], width=LEGEND_WIDTH, line=LEGEND_LINE)
    figure.legend(handles=lines, loc="outside lower center", ncols=columns)
