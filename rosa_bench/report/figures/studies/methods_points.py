"""The points of the Pareto plots: what each method costs, its score, and which are on the front."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rosa_bench.report.cells.arms import Estimate
from rosa_bench.report.cells.methods import MethodComparison, MethodRow
from rosa_bench.report.cells.words.shown import Scale
from rosa_bench.report.figures.drawing import letter
from rosa_bench.report.figures.plotting.front import pareto_front
from rosa_bench.report.writers.text import MIB, parameters
from rosa_bench.report.writers.tidy_csv import csv_text


def short(count: float) -> str:
    """Format a round number of parameters for an axis: ``50 k``, ``1 M``."""
    value, *unit = parameters(round(count)).split(" ")
    return " ".join([f"{float(value):g}", *unit])


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a method costs: the horizontal axis of a plot. ``name`` is for tables."""

    name: str
    label: str
    of: Callable[[MethodRow], float | None]
    form: Callable[[float], str]


MEMORY = Cost(
    name="memory",
    label="peak memory in training, MiB",
    of=lambda row: row.memory_bytes and row.memory_bytes / MIB,
    form="{:,.0f}".format,
)
TRAINED = Cost(
    name="parameters",
    label="trained parameters",
    of=lambda row: row.trainable,
    form=short,
)
COSTS = (MEMORY, TRAINED)


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where a method is drawn: its cost, its score as it is shown, and whether no other method beats it."""

    row: MethodRow
    x: float
    y: Estimate
    on_front: bool

    @property
    def mean(self) -> tuple[float, float]:
        """The place of the marker."""
        return self.x, self.y.mean


def points_of(one: MethodComparison, cost: Cost) -> list[Point]:
    """Return the points of one plot, those on the front first; methods whose cost is unknown are left out."""
    found = [(row, x, score_of(one, row)) for row in one.rows if (x := cost.of(row))]
    front = pareto_front([(x, y.mean) for _, x, y in found], lower_is_better=one.scale.lower_is_better)
    points = [Point(row=row, x=x, y=y, on_front=(x, y.mean) in front) for row, x, y in found]
    return sorted(points, key=lambda point: not point.on_front)


def score_of(one: MethodComparison, row: MethodRow) -> Estimate:
    """Return a method's score with its interval, as they are shown: times 100, unless lower is better."""
    found = row.score
    return Estimate(mean=found.mean, low=found.low, high=found.high).times(one.scale.times)


def scores_of(one: MethodComparison) -> list[Estimate]:
    """Return the score of every method, in their order."""
    return [score_of(one, row) for row in one.rows]


def tidy_points(found: Sequence[MethodComparison]) -> list[dict[str, str]]:
    """Return every point that is drawn, one row each."""
    return [
        {
            "panel": letter(number),
            "model": one.group.setting.model,
            "protocol": one.group.setting.protocol,
            "tasks": " ".join(one.tasks),
            "method": point.row.variant.method,
            "rank": csv_text(point.row.variant.rank),
            "cost": cost.name,
            "x": f"{point.x:.6g}",
            **_ends(one.scale, point.y),
            "on_front": str(point.on_front).lower(),
            "runs": str(len(point.row.runs)),
        }
        for number, one in enumerate(found)
        for cost in COSTS
        for point in points_of(one, cost)
    ]


def _ends(scale: Scale, score: Estimate) -> dict[str, str]:
    """Return the columns of a score and the ends of its interval."""
    form = "{:.6f}" if scale.lower_is_better else "{:.4f}"
    ends = {"score": score.mean, "low": score.low, "high": score.high}
    return {scale.column(name): csv_text(end, form) for name, end in ends.items()}
