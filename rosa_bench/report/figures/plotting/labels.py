"""Write names next to the points of a plot without overlaps. A thin line connects a distant name to its point."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath

from rosa_bench.report.figures.drawing import SMALL

LINE_IN, EDGE_IN = 0.11, 0.02  # height of a name, and the space left and right of it
CLOSE_IN, RING_IN = 0.06, 0.05  # from a point to its name, and between rings of places further away
DIRECTIONS = 24
NEAR_IN = 0.1  # a name further away gets a line to its point
ON_POINT, ON_LINE = 0.3, 0.15  # what covering a marker, or a line to another name, costs in inches of distance
MISLEADING = 0.4  # the cost of a name that is close to another marker, and closer than to its own
MARKER_IN = 0.04  # half of a marker's width
STEPS = 12  # of a line that is searched for crossings

Spot = tuple[float, float]


class Place(NamedTuple):
    """Where a name is written, as a rectangle in inches, and the point that it names."""

    left: float
    low: float
    right: float
    high: float
    point: Spot

    def overlaps(self, other: "Place") -> bool:
        """Whether two names cover each other."""
        across = self.left < other.right and other.left < self.right
        return across and self.low < other.high and other.low < self.high

    def covers(self, start: Spot, end: Spot, around: float = 0.0) -> bool:
        """Whether the name covers a vertical or horizontal line, or anything within ``around`` inches of it."""
        left, right = sorted((start[0], end[0]))
        low, high = sorted((start[1], end[1]))
        across = self.left < right + around and left - around < self.right
        return across and self.low < high + around and low - around < self.high

    def nearest(self, spot: Spot) -> Spot:
        """The place in the name that is nearest to a spot."""
        return min(max(spot[0], self.left), self.right), min(max(spot[1], self.low), self.high)

    def distance(self, spot: Spot) -> float:
        """From a spot to the name."""
        return math.dist(self.nearest(spot), spot)

    @property
    def end(self) -> Spot:
        """The place on the edge of the name that is nearest to its point."""
        return self.nearest(self.point)

    @property
    def line(self) -> list[Spot]:
        """Points between the name and its point; empty if no line is drawn."""
        (x, y), (ex, ey) = self.point, self.end
        if self.distance(self.point) < NEAR_IN:
            return []
        return [(x + (ex - x) * step / STEPS, y + (ey - y) * step / STEPS) for step in range(1, STEPS)]


def placed(
    names: Mapping[str, Spot],
    size: Spot,
    lines: Collection[tuple[Spot, Spot]] = (),
    *,
    unnamed: Collection[Spot] = (),
) -> dict[str, Place]:
    """Choose a place for each name, in order. ``names`` maps it to its point, in inches from the lower left corner.

    A name never covers another and stays inside ``size``. Among such places, the cost decides: the distance, what is
    covered, and whether another marker is closer. Markers are also those of ``unnamed`` points; vertical
    or horizontal ``lines`` can be covered, too. A name for which there is no room is left out.
    """
    found: dict[str, Place] = {}
    markers = [*names.values(), *unnamed]
    for name, point in names.items():
        best, least = None, math.inf
        for radius, place in _places(point, width_in(name), size):
            if radius > least:
                break
            if any(map(place.overlaps, found.values())):
                continue
            cost = radius + _confusion(place, markers, found.values(), lines)
            if cost < least:
                best, least = place, cost
        if best:
            found[name] = best
    return found


def label_points(
    ax: Axes,
    points: Mapping[str, Spot],
    *,
    size: Spot,
    colours: Mapping[str, Any],
    lines: Collection[tuple[Spot, Spot]] = (),
    unnamed: Collection[Spot] = (),
) -> None:
    """Write names beside points of axes of this size in inches, whose limits are set. The first get the best places.

    The line from a name to its point has the ``colours`` of the point. Where possible, no name is on one of the
    vertical or horizontal ``lines``, or on an ``unnamed`` point.
    """
    to_axes = ax.transData + ax.transAxes.inverted()

    def inches(spot: Spot) -> Spot:
        x, y = to_axes.transform(spot)
        return float(x) * size[0], float(y) * size[1]

    drawn = [(inches(start), inches(end)) for start, end in lines]
    named = {name: inches(point) for name, point in points.items()}
    for name, place in placed(named, size, drawn, unnamed=list(map(inches, unnamed))).items():
        middle = (place.left + place.right) / 2 / size[0], (place.low + place.high) / 2 / size[1]
        ax.text(
            *middle, name, transform=ax.transAxes, ha="center", va="center", fontsize=SMALL, zorder=4,
            path_effects=[withStroke(linewidth=1.2, foreground="white")],
        )  # fmt: skip
        if place.line:
            ends = [(x / size[0], y / size[1]) for x, y in (place.point, place.end)]
            ax.plot(
                *zip(*ends, strict=True), transform=ax.transAxes, color=colours[name], linewidth=0.5, label="_",
                zorder=1.8,
            )  # fmt: skip


def width_in(name: str) -> float:
    """Return the width of a name in inches, with its edges."""
    return float(TextPath((0, 0), name, size=SMALL).get_extents().width) / 72 + 2 * EDGE_IN


def _places(point: Spot, width: float, size: Spot) -> Iterator[tuple[float, Place]]:
    """Yield places inside the axes on rings around a point, from near to far, each with the radius of its ring."""
    for ring in range(int(sum(size) / RING_IN)):
        radius = CLOSE_IN + ring * RING_IN
        for step in range(DIRECTIONS):
            across, up = (part(2 * math.pi * step / DIRECTIONS) for part in (math.cos, math.sin))
            left = point[0] + radius * across - width * (1 - across) / 2
            low = point[1] + radius * up - LINE_IN * (1 - up) / 2
            place = Place(left, low, left + width, low + LINE_IN, point)
            if left >= 0 and low >= 0 and place.right <= size[0] and place.high <= size[1]:
                yield radius, place


def _confusion(
    place: Place, points: Collection[Spot], others: Collection[Place], lines: Collection[tuple[Spot, Spot]]
) -> float:
    """Return the cost of what a name and its line would cover, and of a name that seems to belong to another point."""
    markers = sum(place.covers(point, point, MARKER_IN) for point in points)
    under = any(place.covers(*line) for line in lines)
    named = any(place.covers(spot, spot) for other in others for spot in other.line)
    crossed = any(other.covers(spot, spot) for other in others for spot in place.line)
    near = min(place.distance(place.point), NEAR_IN)
    misleading = any(place.distance(point) < near for point in points)
    return ON_POINT * markers + ON_LINE * (under + named + crossed) + MISLEADING * misleading
