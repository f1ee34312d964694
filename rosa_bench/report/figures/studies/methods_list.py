"""The list beside the Pareto plots: every method with its marker, its score and the interval, the best first."""

import math
from collections.abc import Sequence
from statistics import quantiles

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from rosa_bench.config.files.looks import look_of
from rosa_bench.report.cells.arms import Estimate
from rosa_bench.report.cells.methods import MethodRow
from rosa_bench.report.cells.words.shown import Scale
from rosa_bench.report.figures.drawing import SMALL
from rosa_bench.report.figures.plotting.arms import plot_whiskers
from rosa_bench.report.figures.plotting.dots import set_lines

MANY = 13  # methods
REACH = 1.5  # the axis goes beyond few means by at most this many times their range, and wider intervals are cut
FENCE = 3  # the same for many means, in interquartile ranges; so far behind most others, a mean is left out


def plot_list(
    ax: Axes, rows: Sequence[MethodRow], names: Sequence[str], scores: Sequence[Estimate], scale: Scale
) -> None:
    """Draw one line per method from top to bottom, with its name on the left. Scores beyond the axis are numbers."""
    shown = inside_fence(scores, scale)
    for line, (row, score) in enumerate(zip(rows, scores, strict=True)):
        look = look_of(row.variant.method)
        if score not in shown:
            number = f"{score.mean:{scale.digits}}"
            text, side, align = (f"{number} →", 1, "right") if scale.lower_is_better else (f"← {number}", 0, "left")
            ax.annotate(
                text, (side, line), xycoords=("axes fraction", "data"), ha=align, va="center", fontsize=SMALL,
                color=look.colour,
            )  # fmt: skip
            continue
        plot_whiskers(ax, line, score, look.colour, across=True)
        ax.plot([score.mean], [line], color=look.colour, marker=look.marker, markersize=5, label="_", zorder=2)
    ax.set_xlim(*limits_around(shown, room=_room([score.mean for score in shown]), margin=0.04))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    set_lines(ax, names)


def inside_fence(scores: Sequence[Estimate], scale: Scale) -> list[Estimate]:
    """Return the scores that an axis shows: all but those whose merit is below their `fence_of`."""
    merits = [scale.merit(score.mean) for score in scores]
    fence = fence_of(merits)
    return [score for score, merit in zip(scores, merits, strict=True) if merit >= fence]


def fence_of(merits: Sequence[float]) -> float:
    """Return the merit below which methods are left out of an axis, so that the others can be told apart.

    Of many it is Tukey's outer fence: three interquartile ranges below the lower quartile. Of few there is none.
    Source: Tukey, Exploratory Data Analysis (1977), chapter 2.
    """
    if len(merits) < MANY:
        return -math.inf
    lower, _, upper = quantiles(merits, n=4)
    return lower - FENCE * (upper - lower)


def limits_around(scores: Sequence[Estimate], *, room: float, margin: float) -> tuple[float, float]:
    """Return the ends of an axis: around all means, and their intervals as far as ``room``.

    ``margin`` is the share of that which is left free at both ends.
    """
    least, most = min(one.mean for one in scores), max(one.mean for one in scores)
    ends = [end for one in scores for end in (one.low, one.high) if end is not None]
    low, high = max(min([least, *ends]), least - room), min(max([most, *ends]), most + room)
    edge = margin * (high - low) or 1.0
    return low - edge, high + edge


def _room(means: Sequence[float]) -> float:
    """Return how far the list's axis goes beyond the means: `REACH` times their range; of many, as far as `FENCE`."""
    if len(means) < MANY:
        return REACH * (max(means) - min(means)) or 1.0
    lower, _, upper = quantiles(means, n=4)
    return FENCE * (upper - lower) or 1.0
