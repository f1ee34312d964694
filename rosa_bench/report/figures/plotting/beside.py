"""Names to the right of axes, each at or near the height of its point, with a line to it."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from rosa_bench.report.figures.drawing import SMALL

NAME_IN = 0.125  # height of a name
GAP = 0.075  # between names, as a share of the axes' height
GREY = "#999999"


def label_beside(ax: Axes, points: Mapping[str, tuple[float, float]], colours: Mapping[str, Any] | None = None) -> None:
    """Write names to the right of axes, each at or near its point's height, with a line to it.

    Limits that were not set become those of what has been drawn. ``colours`` of the lines are grey by default.
    """
    ax.autoscale_view()  # limits that are not set wait for the next drawing
    to_axes = ax.transScale + ax.transLimits
    heights = spread([float(to_axes.transform(point)[1]) for point in points.values()], GAP)
    for (name, point), height in zip(points.items(), heights, strict=True):
        ax.annotate(
            name, point, (1.04, height), textcoords=ax.transAxes, va="center", fontsize=SMALL, zorder=1,
            arrowprops={
                "arrowstyle": "-", "color": (colours or {}).get(name, GREY), "linewidth": 0.4,
                "shrinkA": 1, "shrinkB": 3,
            },
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move heights between 0 and 1 as little as needed, so that neighbours are ``gap`` apart and keep their order.

    If there are too many of them, they are closer, at equal distances.
    """
    gap = min(gap, 1 / max(1, len(heights) - 1))
    order = sorted(range(len(heights)), key=lambda one: heights[one])
    moved = [min(max(heights[one], 0.0), 1.0) for one in order]
    for n in range(1, len(moved)):
        moved[n] = max(moved[n], moved[n - 1] + gap)
    for n in reversed(range(len(moved))):
        moved[n] = min(moved[n], 1 - gap * (len(moved) - 1 - n))
    return [height for _, height in sorted(zip(order, moved, strict=True))]
