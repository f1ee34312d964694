"""Points that are far left of all others on a logarithmic axis: drawn at its edge, with their own values."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from matplotlib.axes import Axes

from rosa_bench.report.figures.drawing import SMALL
from rosa_bench.report.figures.plotting.families import Place

FAR = 20.0  # a gap by this factor breaks the axis
EDGE = 2.5  # the edge is left of the other points by this factor


def far_left(values: Iterable[float]) -> list[float]:
    """Return the values left of the widest gap, if its ends differ by more than a factor of `FAR`.

    >>> far_left([0.002, 0.003, 1, 8]), far_left([0.25, 1, 8])
    ([0.002, 0.003], [])
    """
    ordered = sorted(set(values))
    gaps = [right / left for left, right in pairwise(ordered)]
    widest = max(gaps, default=0.0)
    return ordered[: gaps.index(widest) + 1] if widest > FAR else []


def moved(places: Sequence[Place]) -> list[Place]:
    """Return the places with those far left at the edge instead."""
    far = far_left(place.x for place in places)
    if not far:
        return list(places)
    edge = min(place.x for place in places if place.x > far[-1]) / EDGE
    return [replace(place, x=edge) if place.x <= far[-1] else place for place in places]


def name_far(ax: Axes, places: Sequence[Place]) -> None:
    """Write the true x of the points at the edge beside the highest of them."""
    far = far_left(place.x for place in places)
    if not far:
        return
    at_edge = [after for before, after in zip(places, moved(places), strict=True) if before.x <= far[-1]]
    edge = at_edge[0].x
    ax.set_xticks([tick for tick in ax.get_xticks() if tick > 1.2 * edge])
    highest = max(at_edge, key=lambda place: place.y.mean)
    text = f"\N{BLACK LEFT-POINTING SMALL TRIANGLE} at {', '.join(f'{value:.1g}' for value in far)}"
    ax.annotate(
        text, (highest.x, highest.y.mean), xytext=(6, 0), textcoords="offset points", fontsize=SMALL, va="center"
    )
