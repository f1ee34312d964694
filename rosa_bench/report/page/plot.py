"""Lay out a small plot of one curve, as numbers that a template draws. Thousands of runs have three plots each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from matplotlib.ticker import LogLocator, MaxNLocator

WIDTH, HEIGHT = 320, 140  # size of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 52, 310, 8, 116  # edges of the axes inside the drawing
POINTS = 150  # the most points drawn per curve
MARKED = 30  # curves with at most this many points have a mark at each
LOG_FROM = 100  # a positive curve that spans more than this factor gets a logarithmic axis
DEPTH = 1e-30  # a logarithmic axis ends at this fraction of the maximum; smaller values lie on its edge

LEVEL = 1e-3  # a curve whose range is below this fraction of its height is drawn level, as its ticks would look equal


@dataclass(frozen=True)
class Plot:
    """The layout of a curve against epochs: positions of its points, and ticks with their labels.

    lines  the curve in pieces, broken where a value is not finite
    marks  points shown as dots, each with a description
    """

    title: str
    lines: list[list[tuple[float, float]]]
    marks: list[tuple[float, float, str]]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def plot(title: str, values: Sequence[float | None], *, selected: int | None) -> Plot | None:
    """Lay out the values of epochs 1, 2, ..., and thin a long curve. Returns None if no value is finite.

    The epoch ``selected`` always has a mark.
    """
    curve = {epoch: value for epoch, value in enumerate(values, start=1) if value is not None and math.isfinite(value)}
    if not curve:
        return None
    count = len(values)
    is_log, ticks = _axis(min(curve.values()), max(curve.values()))
    thinned = sorted({*range(1, count, math.ceil(count / POINTS)), count, *(it for it in curve if it == selected)})
    marked = [epoch for epoch in thinned if epoch in curve and (count <= MARKED or epoch == selected)]

    def x(epoch: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (epoch - 1) / max(1, count - 1), 1)

    def y(value: float) -> float:
        drawn = max(value, ticks[0]) if is_log else value
        place, first, last = (math.log(it) if is_log else it for it in (drawn, ticks[0], ticks[-1]))
        return round(BOTTOM - (BOTTOM - TOP) * (place - first) / (last - first), 1)

    pieces = [list(piece) for is_finite, piece in groupby(thinned, lambda epoch: epoch in curve) if is_finite]
    epochs = MaxNLocator(5, integer=True, min_n_ticks=1).tick_values(1, max(2, count))
    return Plot(
        title=title,
        lines=[[(x(epoch), y(curve[epoch])) for epoch in piece] for piece in pieces],
        marks=[(x(epoch), y(curve[epoch]), f"epoch {epoch}: {curve[epoch]:.5g}") for epoch in marked],
        x_ticks=[(x(epoch), str(epoch)) for epoch in map(int, epochs) if 1 <= epoch <= count],
        y_ticks=[(y(tick), f"{tick:.5g}") for tick in ticks],
    )


def _axis(low: float, high: float) -> tuple[bool, list[float]]:
    """Return whether an axis is logarithmic, and its ticks, which enclose ``low`` and ``high``.

    A logarithmic axis is cut off at `DEPTH`.
    """
    if low > 0 and high / low > LOG_FROM:
        low = max(low, DEPTH * high)
        return True, [float(tick) for tick in LogLocator(numticks=5).tick_values(low, high)]
    is_level = high - low < LEVEL * max(abs(low), abs(high)) or high == low
    margin = (abs(low) / 10 or 1) if is_level else 0
    return False, [float(tick) for tick in MaxNLocator(4).tick_values(low - margin, high + margin)]
