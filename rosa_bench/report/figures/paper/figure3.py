"""Figure 3: peak memory and number of trainable parameters of each method."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.figures.drawing import WIDTH_IN, Drawing, caption_text, drawn, styled
from rosa_bench.report.figures.plotting.curves import TITLE, set_title
from rosa_bench.report.figures.plotting.memory import measured_words, on_one_device
from rosa_bench.report.figures.plotting.panels import Panel, panels_of, run_ids, sources, variants_of
from rosa_bench.report.figures.plotting.styles import Styles, styles_of
from rosa_bench.report.writers.text import MIB, parameters

LONGEST_NAME = 50  # characters of a row's name; longer ones would leave no room for the axes
LEAST = 75  # characters of a line of a title, so that it leaves room for the axes


def draw(groups: list[Group]) -> Drawing | None:
    """Draw one row per setting, task and device; None if no run has its memory measured."""
    panels = [
        on_one_device(panel)
        for panel in panels_of(groups, lambda cell: any(run.memory_bytes.training for run in cell.runs))
    ]
    if not panels:
        return None
    styles, counts = styles_of(variants_of(panels)), [len(panel.cells) for panel in panels]
    longest = min(LONGEST_NAME, max(len(variant.label) for variant in variants_of(panels)))
    with styled():
        figure = Figure(figsize=(WIDTH_IN, sum(1 + 0.2 * count for count in counts)), layout="constrained")
        heights = [2 + count for count in counts]
        shape: dict[str, Any] = {"squeeze": False, "sharey": "row", "width_ratios": [1.6, 1], "height_ratios": heights}
        for number, (panel, (left, right)) in enumerate(
            zip(panels, figure.subplots(len(panels), 2, **shape), strict=True)
        ):
            _plot_memory(left, panel, styles)
            _plot_parameters(right, panel, styles)
            left.set_yticks(
                range(len(panel.cells)), [drawn(variant.label, longest=LONGEST_NAME) for variant in panel.cells]
            )
            left.set_ylim(len(panel.cells) - 0.4, -0.6)
            set_title(left, number, panel, width=max(TITLE - longest, LEAST))
    return Drawing("figure3", figure, _caption(panels), run_ids(panels))


def _plot_memory(ax: Axes, panel: Panel, styles: Styles) -> None:
    """Draw bars of the mean over seeds with their range, each labelled with its mean."""
    greatest = max(run.memory_bytes.training or 0 for run in panel.runs) / MIB
    for place, (variant, cell) in enumerate(panel.cells.items()):
        peaks = np.array([(run.memory_bytes.training or 0) / MIB for run in cell.runs])
        ends = [[peaks.mean() - peaks.min()], [peaks.max() - peaks.mean()]]
        style = {"elinewidth": 0.8, "capsize": 2, "ecolor": "#555555"}
        ax.barh(place, peaks.mean(), 0.7, color=styles[variant]["color"], xerr=ends, error_kw=style)
        ax.text(peaks.max() + 0.02 * greatest, place, f"{peaks.mean():,.0f}", va="center")
    ax.set_xlim(0, 1.15 * greatest)
    ax.set_xlabel("peak memory (MiB)")
    ax.xaxis.set_major_formatter("{x:,.0f}")


def _plot_parameters(ax: Axes, panel: Panel, styles: Styles) -> None:
    """Draw one labelled point per variant. There are no bars, because a logarithmic axis has no zero.

    A method that trains nothing has its label alone, at the left.
    """
    counts = [cell.trainable for cell in panel.cells.values()]
    least = min(filter(None, counts), default=1)
    for place, (variant, count) in enumerate(zip(panel.cells, counts, strict=True)):
        ax.plot(count or least, place, **styles[variant] | {"markersize": 5 if count else 0, "linestyle": "none"})
        ax.annotate(parameters(count), (count or least, place), xytext=(6, 0), textcoords="offset points", va="center")
    ax.set_xscale("log")
    ax.set_xlim(least / 3, max(1, *counts) * 12)
    ax.xaxis.set_minor_formatter(NullFormatter())  # labels between the decades would overlap
    ax.set_xlabel("trainable parameters (logarithmic)")
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", linewidth=0.4, alpha=0.5)


def _caption(panels: list[Panel]) -> str:
    settings = panels[0].run.settings
    text = (
        "Peak memory while training, after Figure 3 of arXiv 2407.07802, and parameters that train. The "
        "greatest over steps and, for ROSA, resamples; scoring is not counted. Bars: mean over seeds; whiskers: their "
        f"range. Batches of {settings.batch_size}, at most {settings.max_length} tokens a row. "
        f"{measured_words(panel.group for panel in panels)}"
    )
    return caption_text(title="Figure 3.", text=text, sources=sources(panels))
