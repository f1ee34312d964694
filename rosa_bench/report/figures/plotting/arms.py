"""Shared by the figures of capacity experiments: panels, the look of an arm, whiskers, and logarithmic axes."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from rosa_bench.config.files.looks import look_of
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import (
    Estimate,
    arm_labels,
    arms_of,
    in_all_arms,
    in_order,
    is_resampled,
    one_run_each,
)
from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.figures.plotting.panels import Panel, sources

MOST = 4  # panels or rows of panels
MOST_TICKS = 7
DIGITS = (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9)  # of ticks where 1, 2 and 5 are too few
SHORT = (2.0**-5, 2.0**13)  # powers of two between these have at most five digits
GREY, PALE = "#777777", "#BBBBBB"
FILLED = "Filled markers: the subspace is drawn again during training. Open: it is not."
REDRAWN = "LoRA with a period is merged and drawn again, as in ReLoRA (arXiv 2307.05695)."


def panels_where(groups: Iterable[Group], keep: Callable[[RunRecord], object], most: int = MOST) -> list[Panel]:
    """Return one panel per setting and task with the cells whose runs ``keep`` accepts, those with most runs first."""
    panels = [
        Panel(group, task, cells) for group in groups for task in group.tasks if (cells := arms_of(group, task, keep))
    ]
    return sorted(panels, key=lambda panel: (-len(panel.runs), panel.title, panel.run.id))[:most]


def labels_of(panels: Iterable[Panel]) -> tuple[dict[Variant, str], dict[Variant, RunRecord]]:
    """Return the names of all arms of a figure, in order, and a run of each."""
    runs = in_order({variant: run for panel in panels for variant, run in one_run_each(panel.cells).items()})
    return arm_labels(runs), runs


def sources_of_arms(panels: Sequence[Panel]) -> list[str]:
    """Return the `sources` of panels, each with what the names of its arms leave out."""
    left_out = [in_all_arms(one_run_each(panel.cells)) for panel in panels]
    return [f"{said} {more}".strip() for said, more in zip(sources(panels), left_out, strict=True)]


def arm_look(variant: Variant, run: RunRecord, *, colour: Any = None, face: Any = None) -> dict[str, Any]:
    """Style an arm's marker like its method: open if it trains in a subspace that is never drawn again.

    ``colour`` replaces the method's colour, and ``face`` that of the inside alone.
    """
    colour = colour or look_of(variant.method).colour
    is_fixed = variant.rank is not None and not is_resampled(run)
    return {
        "color": colour,
        "linestyle": "none",
        "marker": look_of(variant.method).marker,
        "markersize": 4.5,
        "markerfacecolor": "white" if is_fixed else face or colour,
    }


def plot_whiskers(ax: Axes, place: float, found: Estimate, colour: Any, *, across: bool = False) -> None:
    """Draw an estimate's interval, if it has one: vertical at x = ``place``, or ``across``, at y = ``place``."""
    if found.low is not None and found.high is not None:
        ends, places = (found.low, found.high), (place, place)
        ax.plot(*((ends, places) if across else (places, ends)), color=colour, linewidth=0.8, label="_", zorder=1.5)


def set_log_axis(
    ax: Axes, values: Iterable[float], *, doubling: bool, form: Callable[[float], str], least: int = 0
) -> None:
    """Make the x axis logarithmic around positive ``values``, with plain labels: at ``least`` this many if possible."""
    known = list(values)
    low, high = min(known) / 1.6, max(known) * 1.6
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.xaxis.set_major_locator(FixedLocator(log_ticks(low, high, doubling=doubling, least=least)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: form(value)))


def log_ticks(low: float, high: float, *, doubling: bool, least: int = 0) -> list[float]:
    """Return at most `MOST_TICKS` round numbers from ``low`` to ``high``, at equal distances on a logarithmic axis.

    Powers of two if ``doubling`` and they are short, or 1, 2, 5, 10, ...; powers of ten if those are too many. If they
    are fewer than ``least``, ticks at other `DIGITS` too, whose distances differ.
    """
    tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    twos = range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)
    is_short = SHORT[0] <= low and high <= SHORT[1]
    halves, decimal = [2.0**power for power in twos], [digit * 10.0**power for power in tens for digit in (1, 2, 5)]
    fine = halves if doubling and is_short else decimal
    inside = [tick for tick in fine if low <= tick <= high]
    if len(inside) > MOST_TICKS:
        inside = [10.0**power for power in tens if low <= 10.0**power <= high]
    if fine is decimal and len(inside) < least:
        inside = [tick for power in tens for digit in DIGITS if low <= (tick := digit * 10.0**power) <= high]
    return inside[:: -(-len(inside) // MOST_TICKS) or 1]
