"""The plots of score against peak memory: one panel for the runs that may be compared in both."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.costs import how_run, made_on
from rosa_bench.report.cells.settings import setting_of, words
from rosa_bench.report.cells.words.shown import metric
from rosa_bench.report.figures.plotting.front import pareto_front
from rosa_bench.report.page.run_list import memory_mib, score

Point = tuple[float, float]  # peak memory in training in MiB, and score (an error as it is)


def panels(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return the panels, those with the most runs first.

    Each has a name, the places of its runs in ``records``, their points, and which of its runs no other beats in both.
    Runs without a score or a memory of their own are in none.
    """
    found: dict[Hashable, dict[int, Point]] = defaultdict(dict)
    for number, run in enumerate(records):
        x, y = memory_mib(run), score(run, run.selected)
        if x and y is not None:
            found[_kind(run)][number] = (x, y)
    return [_panel(records, points) for points in sorted(found.values(), key=lambda points: -len(points))]


def _kind(run: RunRecord) -> Hashable:
    """Return all that two runs of a panel share."""
    return run.settings.task.name, setting_of(run), metric(run), made_on(run)


def _panel(records: Sequence[RunRecord], points: dict[int, Point]) -> dict[str, Any]:
    run = records[next(iter(points))]
    is_error = run.scores.lower_is_better
    front = set(pareto_front(points.values(), lower_is_better=is_error))
    return {
        "name": panel_name(run),
        "lower": is_error,
        "runs": list(points),
        "points": list(points.values()),
        "front": [point in front for point in points.values()],
    }


def panel_name(run: RunRecord) -> str:
    """Name a run's panel: the task, its metric, and what else its runs share."""
    settings, device = run.settings, run.device
    shared = [settings.task.title, settings.model.title, settings.protocol.name, device.name, device.precision]
    changes = {change.key: change.value for change in setting_of(run).deviations} | how_run(run)
    return ", ".join([*shared, metric(run), *(f"{key}={words(value)}" for key, value in changes.items())])
