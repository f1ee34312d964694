"""Not in the paper: dev score against learning rate of methods with changed settings, one column per kind of change."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import PERIOD
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.cells.settings import METHOD, Variant
from rosa_bench.report.figures.drawing import SMALL, WIDTH_IN, Drawing, drawn, styled
from rosa_bench.report.figures.plotting.curves import titled
from rosa_bench.report.figures.plotting.panels import Cells, Panel, panels_of, run_ids, sort_key, variants_of
from rosa_bench.report.figures.plotting.styles import Styles, styles_of
from rosa_bench.report.figures.studies.lr_sensitivity import (
    TITLE,
    caption,
    chosen_handle,
    is_varied,
    mark_half_decades,
    plot_sweep,
)

MOST, MOST_COLUMNS = 4, 3
ROW_IN, LINE_IN, LEGEND_IN = 2.1, 0.145, 0.35


@dataclass(frozen=True)
class Column:
    """One kind of change: the name of the setting, and the variants of each panel, with those they are changed from."""

    key: str
    panels: tuple[Panel, ...]

    @property
    def variants(self) -> list[Variant]:
        """All variants, in the order of legends."""
        return sorted(variants_of(self.panels), key=sort_key)


def draw(records: list[RunRecord]) -> Drawing | None:
    """Draw one row per setting and task, one column per kind of change; None without changes at several rates."""
    panels = panels_of(select(records), lambda cell: cell.is_defined, is_varied, among=_changed, most=MOST)
    if not panels:
        return None
    columns = columns_of(panels)
    shown = [panel for column in columns for panel in column.panels]
    legend_in = LEGEND_IN + LINE_IN * (1 + max(len(column.variants) for column in columns))
    heights = [*(ROW_IN for _ in panels), legend_in]
    with styled():
        figure = Figure(figsize=(WIDTH_IN, sum(heights)), layout="constrained")
        *parts, below = figure.subfigures(len(panels) + 1, 1, squeeze=False, height_ratios=heights)[:, 0]
        styles = [styles_of(column.variants) for column in columns]
        for number, (part, panel) in enumerate(zip(parts, panels, strict=True)):
            part.suptitle(titled(number, panel.title, width=110), x=0.01, ha="left", fontsize=9)
            axes = part.subplots(1, len(columns), squeeze=False, sharey=True)[0]
            axes[0].set_ylabel(panel.reported.replace(" × 100", "\n× 100"))
            for ax, column, looks in zip(axes, columns, styles, strict=True):
                _plot(ax, column.panels[number], column.key, looks)
        for ax, column, looks in zip(below.subplots(1, len(columns), squeeze=False)[0], columns, styles, strict=True):
            _set_legend(ax, column, looks)
    lines = "Methods with a changed setting beside the method without, one column per setting "
    text = caption(f"{TITLE} of changed settings.", panels, lines)
    return Drawing("lr_sensitivity_changed", figure, text, run_ids(shown, tried=True))


def columns_of(panels: Iterable[Panel]) -> list[Column]:
    """Divide the variants of all panels by what is changed, the kinds with most variants first, at most three."""
    known = list(panels)
    counts = Counter(_kind(variant) for panel in known for variant in panel.cells if variant.changes)
    kinds = sorted(counts, key=lambda kind: (-counts[kind], kind))[:MOST_COLUMNS]
    return [Column(kind.removeprefix(METHOD), tuple(_of_kind(panel, kind) for panel in known)) for kind in kinds]


def _kind(variant: Variant) -> str:
    """Return the setting that a variant is shown under: any but its period, if it has another."""
    keys = [change.key for change in variant.changes]
    return next((key for key in keys if key not in PERIOD), keys[0])


def _of_kind(panel: Panel, kind: str) -> Panel:
    ours = {variant for variant in panel.cells if variant.changes and _kind(variant) == kind}
    shown = ours | {variant.plain for variant in ours}
    return replace(panel, cells={variant: cell for variant, cell in panel.cells.items() if variant in shown})


def _changed(cells: Cells) -> Cells:
    """Keep changed variants with several learning rates, and the plain variants that they are changed from."""
    varied = {variant for variant, cell in cells.items() if variant.changes and len(cell.by_lr) > 1}
    shown = varied | {variant.plain for variant in varied}
    return {variant: cell for variant, cell in cells.items() if variant in shown}


def _plot(ax: Axes, panel: Panel, key: str, styles: Styles) -> None:
    ax.set_title(drawn(key), fontsize=8)
    for variant, cell in panel.cells.items():
        plot_sweep(ax, variant, cell, styles[variant])
    if panel.cells:
        mark_half_decades(ax)
    else:
        ax.set_visible(False)


def _set_legend(ax: Axes, column: Column, styles: Styles) -> None:
    """Write the names of a column's lines into axes of their own."""
    handles = [Line2D([], [], label=drawn(variant.label), **styles[variant]) for variant in column.variants]
    ax.axis("off")
    ax.legend(handles=[*handles, chosen_handle()], loc="upper left", fontsize=SMALL, borderaxespad=0)
