"""Figure 5: the rank of each method's weight updates."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import inf
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import Cell, select
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.figures.drawing import WIDTH_IN, Drawing, caption_text, drawn, letter, styled
from rosa_bench.report.figures.plotting.curves import plot_range, set_legend, titled
from rosa_bench.report.figures.plotting.panels import Panel, panels_of, run_ids, sources, variants_of
from rosa_bench.report.figures.plotting.styles import Styles, styles_of
from rosa_bench.report.writers.text import MISSING, span

COLUMNS = 4  # a layer has four attention weights


@dataclass(frozen=True)
class Update:
    """The update W_T - W_0 of one weight in one run.

    kind      the layer's name without its number
    rank      numerical rank
    relative  Frobenius norm of the update divided by that of the weight before training
    shares    share of the sum of singular values that the largest ``ranks[i]`` of them have
    """

    kind: str
    rank: int
    relative: float
    ranks: tuple[int, ...]
    shares: tuple[float, ...]


def draw(records: Sequence[RunRecord]) -> Drawing | None:
    """Draw one row per setting and task, one column per kind of layer; None if no run has recorded its spectrum."""
    panels = panels_of(select(record for record in records if record.spectrum), lambda cell: any(updates(cell)))
    if not panels:
        return None
    styles = styles_of(variants_of(panels))
    found = [{variant: list(updates(cell)) for variant, cell in panel.cells.items()} for panel in panels]
    heights = [0.5 + 1.7 * -(-len(kinds(of_panel)) // COLUMNS) for of_panel in found]
    with styled():
        figure = Figure(figsize=(WIDTH_IN, 0.4 + sum(heights)), layout="constrained")
        # Each panel has its own title, which is wider than an axes.
        parts = figure.subfigures(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for number, (panel, of_panel, part) in enumerate(zip(panels, found, parts, strict=True)):
            part.suptitle(titled(number, panel.title, width=110), x=0.01, ha="left", fontsize="medium")
            _plot_kinds(part, of_panel, styles)
        set_legend(figure, panels)
    return Drawing("figure5", figure, _caption(panels, found), run_ids(panels))


def updates(cell: Cell) -> Iterator[Update]:
    """Yield the updates of every run and weight of a cell. Updates that are zero or undefined have no curve."""
    for run in cell.runs:
        for name, weight in run.spectrum.weights.items():
            sums = [value for value in weight.sums if value is not None]
            if weight.sum and weight.norm is not None and sums and len(sums) == len(weight.sums):
                yield Update(
                    kind=re.sub(r"^.*\.\d+\.", "", name),
                    rank=weight.rank,
                    relative=weight.norm / weight.norm_before if weight.norm_before else inf,
                    ranks=tuple(run.spectrum.ranks[: len(sums)]),
                    shares=tuple(value / weight.sum for value in sums),
                )


def kinds(found: dict[Variant, list[Update]]) -> list[str]:
    """List the kinds of layers that were adapted, in the model's order."""
    return list(dict.fromkeys(one.kind for some in found.values() for one in some))


def _plot_kinds(part: SubFigure, found: dict[Variant, list[Update]], styles: Styles) -> None:
    """Draw one plot per kind of layer, in rows of at most `COLUMNS`."""
    own = kinds(found)
    columns = min(COLUMNS, len(own))
    axes = part.subplots(-(-len(own) // columns), columns, squeeze=False, sharey=True)
    for ax, kind in zip_longest(axes.flat, own):
        if kind is None:
            ax.set_visible(False)
            continue
        _plot(ax, {variant: [one for one in some if one.kind == kind] for variant, some in found.items()}, styles)
        ax.set_title(drawn(kind), fontsize="medium")
        ax.set_xlabel("singular values")
    for ax in axes[:, 0]:
        ax.set_ylabel("share of their sum")


def _plot(ax: Axes, found: dict[Variant, list[Update]], styles: Styles) -> None:
    """Draw the mean over layers and seeds, their range, and a marker at the median numerical rank."""
    for variant, some in found.items():
        if not some:
            continue
        style = styles[variant]
        shown = min((one.ranks for one in some), key=len)  # weights differ in size: stop where the shortest ends
        plot_range(ax, shown, list(zip(*(one.shares for one in some), strict=False)), **style | {"marker": ""})
        points: dict[str, Any] = style | {"linestyle": "none", "markersize": 5, "clip_on": False}
        if (rank := median(one.rank for one in some)) >= 1:  # 0 would be infinitely far to the left
            ax.plot([rank], [1], **points)
        ax.plot([], [], label=drawn(variant.label), **style)  # for the legend: the line and its marker
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.set_xlim(left=1)
    ax.set_ylim(0, 1.02)


def _caption(panels: list[Panel], found: list[dict[Variant, list[Update]]]) -> str:
    text = (
        "In how many directions training moved each adapted weight, after Figure 5 of arXiv 2407.07802: "
        "the greatest singular values of W_T - W_0, summed, as a share of the sum of all, against how many they are "
        "(logarithmic). W_0 is the weight before training, W_T after the last epoch, with adapters merged. Lines: mean "
        "over layers and seeds; shades: their range. Markers: the median numeric rank, which counts the singular "
        "values above the rounding of the weight itself (float32 epsilon times its Frobenius norm); none below 1. "
        "LoRA's is at most r; ROSA's, after k resamples, at most 2 r (k + 1), for each subspace is taken out and "
        "another product put in. Relative norm: the Frobenius norm of W_T - W_0 divided by that of W_0, the mean over "
        "layers and seeds."
    )
    tables = [_table(number, *both) for number, both in enumerate(zip(panels, found, strict=True))]
    return caption_text(title="Figure 5.", text=text, sources=sources(panels), tables=tables)


def _table(number: int, panel: Panel, found: dict[Variant, list[Update]]) -> list[list[str]]:
    """Tabulate numerical rank and relative norm: one row per variant, one column per kind of layer."""
    head = [f"{letter(number)} rank; relative norm", "lr", *kinds(found)]
    rows = [head]
    for variant, some in found.items():
        rows.append([variant.label, f"{panel.cells[variant].lr:g}", *(_cell(some, kind) for kind in kinds(found))])
    return rows


def _cell(found: list[Update], kind: str) -> str:
    some = [one for one in found if one.kind == kind]
    if not some:
        return MISSING
    return f"{span({one.rank for one in some})}; {sum(one.relative for one in some) / len(some):.2g}"
