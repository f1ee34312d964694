"""Names at the ends of lines: instead of a legend, where a figure has few lines."""

from collections.abc import Collection, Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from rosa_bench.report.figures.plotting.beside import label_beside

MOST = 4  # lines in a figure; a legend is clearer for more
LONGEST = 40  # characters of a name; longer ones would leave no room for the axes


def name_lines(axes: Iterable[Axes]) -> bool:
    """Write each line's label at its right end, and return whether that was done: for few lines with short labels.

    Limits must be final. Axes whose lines are all named in axes to their right get no names.
    """
    drawn = [ax for ax in axes if ax.get_visible() and labelled(ax)]
    labels = {label for ax in drawn for label in labelled(ax)}
    if len(labels) > MOST or max(map(len, labels), default=0) > LONGEST:
        return False
    for ax in drawn:
        lines = labelled(ax)
        if not any(set(lines) <= set(labelled(other)) for other in drawn if _is_right_of(other, ax)):
            ends = {label: end for label, line in lines.items() if (end := _end(ax, line))}
            label_beside(ax, ends, {label: line.get_color() for label, line in lines.items()})
    return True


def labelled(ax: Axes) -> dict[str, Line2D]:
    """Return the lines of axes that a legend would name, by label."""
    handles, labels = ax.get_legend_handles_labels()
    return {label: line for line, label in zip(handles, labels, strict=True) if isinstance(line, Line2D)}


def legend_columns(labels: Collection[str], *, width: int, line: int) -> int:
    """Return the most columns in which a legend fits into ``width`` characters; ``line`` are those before a label."""
    for columns in range(len(labels), 1, -1):
        lengths = np.array_split([line + len(label) for label in labels], columns)  # as matplotlib fills columns
        if sum(column.max() for column in lengths) <= width:
            return columns
    return 1


def _is_right_of(one: Axes, other: Axes) -> bool:
    place, reference = one.get_subplotspec(), other.get_subplotspec()
    return (
        place is not None
        and reference is not None
        and place.rowspan.start == reference.rowspan.start
        and place.colspan.start > reference.colspan.start
    )


def _end(ax: Axes, line: Line2D) -> tuple[float, float] | None:
    """Return the last point of a line that has one, moved into the limits of the axes."""
    x, y = (np.asarray(values, dtype=float) for values in line.get_data())
    known = np.flatnonzero(np.isfinite(y))
    if not len(known):
        return None
    across = line.get_transform() != ax.transData  # axhline: x is a share of the axes' width
    low, high = sorted(ax.get_ylim())
    return ax.get_xlim()[1] if across else float(x[known[-1]]), min(max(float(y[known[-1]]), low), high)
