"""The Pareto front: points that no other beats at once in cost and in score."""

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes

FRONT = "Pareto front"


def pareto_front(points: Iterable[tuple[float, float]], *, lower_is_better: bool) -> list[tuple[float, float]]:
    """Return the points that no other beats: by increasing x, each with a better y than all before it."""
    front: list[tuple[float, float]] = []
    sign = 1 if lower_is_better else -1
    for x, y in sorted(points, key=lambda point: (point[0], sign * point[1])):
        if not front or sign * y < sign * front[-1][1]:
            front.append((x, y))
    return front


def plot_front(ax: Axes, front: Sequence[tuple[float, float]], *, until: float) -> None:
    """Draw a front as a grey line of steps, from its first point to x = ``until``."""
    steps = [*front, (until, front[-1][1])]
    ax.step(*zip(*steps, strict=True), where="post", color="#999999", linewidth=1, zorder=0, label=FRONT)
