"""Not in the paper: the score of memorisation and of language modelling against peak memory, with the Pareto front."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import (
    CUT,
    INTERVALS,
    NO_INTERVAL,
    Estimate,
    over_seeds,
    sharing_words,
    text_of,
)
from rosa_bench.report.cells.selection.select import Cell, Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.words.facts import POSITIVE, is_learned_at_once, is_text
from rosa_bench.report.cells.words.facts import RECALL as FRACTION
from rosa_bench.report.cells.words.shown import scale
from rosa_bench.report.figures.drawing import WIDTH_IN, Drawing, caption_text, drawn, letter, styled
from rosa_bench.report.figures.plotting import dots
from rosa_bench.report.figures.plotting.arms import (
    FILLED,
    MOST,
    PALE,
    REDRAWN,
    arm_look,
    labels_of,
    panels_where,
    plot_whiskers,
    sources_of_arms,
)
from rosa_bench.report.figures.plotting.beside import NAME_IN, label_beside
from rosa_bench.report.figures.plotting.curves import titled
from rosa_bench.report.figures.plotting.families import MOST_METHODS, method_handles
from rosa_bench.report.figures.plotting.front import pareto_front, plot_front
from rosa_bench.report.figures.plotting.memory import measured_words, on_one_device
from rosa_bench.report.figures.plotting.panels import Panel, run_ids
from rosa_bench.report.writers.text import MIB

LEGEND: dict[str, Any] = {"loc": "outside lower center", "ncols": MOST_METHODS, "fontsize": 7}
AXES_IN, HEIGHT_IN = 4.6, 2.5
EDGES_IN, LEGEND_IN = 1.2, 0.5  # heights of a panel's title and axis, and of the legend
TITLE = 80  # characters


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where an arm is drawn: its mean peak memory in MiB, and its score."""

    x: float
    y: Estimate


def draw_memorised(groups: list[Group]) -> Drawing | None:
    """Draw one panel per setting and amount of data; None if no run that memorised has its memory measured."""
    return _drawing("recall_memory", "Recall and memory", groups, is_learned_at_once, "Up and left is better.")


def draw_texts(groups: list[Group]) -> Drawing | None:
    """Draw one panel per setting and text; None if no run of a text has its memory measured."""
    return _drawing("loss_memory", "Held-out loss and memory", groups, is_text, "Down and left is better.")


def _drawing(
    name: str, title: str, groups: list[Group], keep: Callable[[RunRecord], bool], better: str
) -> Drawing | None:
    found = panels_where(groups, lambda run: keep(run) and run.memory_bytes.training, 10 * MOST)
    panels = [panel for one in found if (panel := _drawable(one)).cells][:MOST]
    if not panels:
        return None
    labels = [labels_of([panel])[0] for panel in panels]
    fronts = [front_of(panel, points_of(panel)) for panel in panels]
    longest = max(dots.names_in([some[one] for one in front]) for some, front in zip(labels, fronts, strict=True))
    heights = [max(HEIGHT_IN, EDGES_IN + NAME_IN * len(front)) for front in fronts]
    with styled():
        figure = Figure(figsize=(max(WIDTH_IN, AXES_IN + longest), LEGEND_IN + sum(heights)), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for number, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
            _plot(ax, panel, labels[number])
            ax.set_title(titled(number, panel.title, width=TITLE), loc="left")
        figure.legend(handles=method_handles(variant for panel in panels for variant in panel.cells), **LEGEND)
    return Drawing(name, figure, _caption(title, better, panels, labels), run_ids(panels))


def _drawable(panel: Panel) -> Panel:
    found = on_one_device(panel)
    return replace(found, cells={variant: cell for variant, cell in found.cells.items() if point_of(cell)})


def point_of(cell: Cell) -> Point | None:
    """Return mean peak memory in MiB and the reported score, a fraction times 100; None if a score is undefined."""
    measure = scale(cell.runs[0])
    score = over_seeds(cell, lambda run: run.score, lambda _: POSITIVE if measure.lower_is_better else FRACTION)
    return Point(x=fmean(_memory(cell)), y=score.times(measure.times)) if score else None


def points_of(panel: Panel) -> dict[Variant, Point]:
    """Return the point of each arm."""
    return {variant: point for variant, cell in panel.cells.items() if (point := point_of(cell))}


def front_of(panel: Panel, points: Mapping[Variant, Point]) -> list[Variant]:
    """Return the arms on the front, by increasing memory; of those at one point, the first."""
    places = {(point.x, point.y.mean): variant for variant, point in reversed(list(points.items()))}
    return [places[one] for one in pareto_front(places, lower_is_better=panel.run.scores.lower_is_better)]


def _memory(cell: Cell) -> list[float]:
    return [(run.memory_bytes.training or 0) / MIB for run in cell.runs]


def memory_text(cell: Cell) -> str:
    """Format peak memory in MiB: its mean and, where seeds differ, its range, ``93 (82 to 114)``."""
    values = _memory(cell)
    low, high = f"{min(values):,.0f}", f"{max(values):,.0f}"
    return f"{fmean(values):,.0f}{f' ({low} to {high})' if low != high else ''}"


def _plot(ax: Axes, panel: Panel, labels: Mapping[Variant, str]) -> None:
    points = points_of(panel)
    front = front_of(panel, points)
    for variant, point in points.items():
        run, on_front = panel.cells[variant].runs[0], variant in front
        look = arm_look(variant, run, colour=None if on_front else PALE)
        if on_front:
            plot_whiskers(ax, point.x, point.y, look["color"])
        ax.plot([point.x], [point.y.mean], label="_", zorder=3 if on_front else 2, **look)
    means = [(points[variant].x, points[variant].y.mean) for variant in front]
    plot_front(ax, means, until=max(point.x for point in points.values()))
    ax.margins(x=0.06, y=0.06)
    if not panel.run.scores.lower_is_better:
        ax.set_ylim(-4, 104)
    label_beside(ax, {dots.name_of(labels[variant]): (points[variant].x, points[variant].y.mean) for variant in front})
    ax.set_xlabel("peak memory in training (MiB)")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(lambda mib, _place: f"{mib:,.0f}")
    ax.set_ylabel(score_label(panel.run))


def score_label(run: RunRecord) -> str:
    """Label an axis with the reported score: ``exact recall (%)`` or ``held-out loss (nats per token)``."""
    known = {"recall": "exact recall (%)", "loss": "held-out loss (nats per token)"}
    name = run.scores.reported
    return known.get(name) or drawn(name.replace("_", " ")) + scale(run).unit


def _caption(
    title: str,
    better: str,
    panels: Sequence[Panel],
    labels: Sequence[Mapping[Variant, str]],
) -> str:
    text = (
        "(not in the paper). The score of each arm at its best learning rate against its peak memory while training: "
        "the greatest over steps and resamples; scoring is not counted. Arms on the grey line are named: they are not "
        f"beaten by another that needs as little memory. All other arms are grey, with their intervals "
        f"in the table alone. {better} Means with {INTERVALS} "
        f"of the score; {NO_INTERVAL}. {CUT} The table has the range of memory over seeds. {FILLED} {REDRAWN} "
        f"{measured_words(panel.group for panel in panels)} Each panel has the runs of its "
        f"most common device alone. {sharing_words([run for panel in panels for run in panel.runs])}"
    )
    return caption_text(
        title=title,
        text=text.strip(),
        sources=sources_of_arms(panels),
        tables=[_table(panels, labels)],
    )


def _table(panels: Sequence[Panel], labels: Sequence[Mapping[Variant, str]]) -> list[list[str]]:
    """Tabulate the points: one row per panel and arm."""
    lines = [["panel", "arm", "peak memory, MiB", "score", "on the front", "lr", "seeds"]]
    for number, panel in enumerate(panels):
        points = points_of(panel)
        front = {(points[variant].x, points[variant].y.mean) for variant in front_of(panel, points)}
        for variant, point in points.items():
            cell = panel.cells[variant]
            lines.append(
                [
                    letter(number), labels[number][variant], memory_text(cell), text_of(point.y, "{:.4g}"),
                    "yes" if (point.x, point.y.mean) in front else "", f"{cell.lr:g}", str(len(cell.runs)),
                ]
            )  # fmt: skip
    return lines
