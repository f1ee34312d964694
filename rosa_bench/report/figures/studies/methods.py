"""Not in the paper: score of every method against peak memory and trained parameters, with the Pareto fronts."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rosa_bench.config.files.looks import look_of
from rosa_bench.report.cells.arms import Estimate, sharing_words
from rosa_bench.report.cells.methods import MethodComparison, MethodRow
from rosa_bench.report.cells.selection.comparable import method_comparisons
from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.cells.words.header import data_note, heading
from rosa_bench.report.cells.words.shown import reported_rows
from rosa_bench.report.figures.drawing import Drawing, caption_text, drawn, faded, letter, styled
from rosa_bench.report.figures.plotting.arms import plot_whiskers, set_log_axis
from rosa_bench.report.figures.plotting.curves import titled
from rosa_bench.report.figures.plotting.front import FRONT, plot_front
from rosa_bench.report.figures.plotting.labels import label_points, width_in
from rosa_bench.report.figures.plotting.memory import measured_words
from rosa_bench.report.figures.plotting.panels import metric_name
from rosa_bench.report.figures.studies.methods_list import inside_fence, limits_around, plot_list
from rosa_bench.report.figures.studies.methods_points import (
    COSTS,
    MEMORY,
    Cost,
    Point,
    points_of,
    score_of,
    scores_of,
    tidy_points,
)
from rosa_bench.report.writers.text import MISSING, parameters, span, thousands

WIDTH_IN, LEFT_IN, RIGHT_IN, GAP_IN = 11.0, 0.1, 0.1, 0.2
NAMES_IN, LIST_IN, SCORES_IN = 1.5, 2.0, 0.65  # the list's names (at least) and axes, and the numbers right of it
TICK_IN = 0.05  # between a name and the axes
MOST_NAMED = 12  # methods; of more, only those on a front and the paper's two are named beside their points
NAMED = ("lora", "rosa")
TITLE_IN, AXIS_IN, LEGEND_IN = 0.4, 0.55, 0.15
LEAST_IN, LINE_IN = 2.4, 0.15  # height of axes: at least, and for each method
ROOM = 0.15  # for intervals beyond the means, as a share of their range
MARGIN = 0.07  # around all, as a share of the axis
TITLE, LONGEST_NAME = 125, 45  # characters of a line, and of a method's name
STRENGTH = 0.5  # of the colour of intervals
# What is better, and which scores have no place on the axes, keyed by the directions of all comparisons in the figure.
WORDS = {
    frozenset({False}): ("Up and left is better.", "Scores far below all others"),
    frozenset({True}): (
        "Down and left is better: a loss is in nats per token, a perplexity its exponential.",
        "Scores far above all others",
    ),
    frozenset({False, True}): (
        "Up and left is better; of a loss, in nats per token, or a perplexity, down and left.",
        "Scores far below all others, and losses far above them,",
    ),
}


def draw(groups: list[Group]) -> Drawing | None:
    """Draw one row per comparison: a list of its methods, and the score against each of `COSTS`; None without any."""
    found = [one for one in method_comparisons(groups) if one.measured]
    if not found:
        return None
    heights = [max(LEAST_IN, LINE_IN * len(one.rows)) for one in found]
    total = LEGEND_IN + sum(heights) + len(heights) * (TITLE_IN + AXIS_IN)
    list_left = LEFT_IN + max(NAMES_IN, TICK_IN + max(width_in(_label(one, row)) for one in found for row in one.rows))
    start = list_left + LIST_IN + SCORES_IN
    width = (WIDTH_IN - start - RIGHT_IN - GAP_IN) / len(COSTS)
    with styled():
        figure = Figure(figsize=(WIDTH_IN, total))
        top = total
        for number, (one, height) in enumerate(zip(found, heights, strict=True)):
            low = top - TITLE_IN - height
            for place, cost in enumerate(COSTS):
                left = start + place * (width + GAP_IN)
                box = (left / WIDTH_IN, low / total, width / WIDTH_IN, height / total)
                _plot(figure.add_axes(box), one, cost, (width, height), is_first=place == 0)
            box = (list_left / WIDTH_IN, low / total, LIST_IN / WIDTH_IN, height / total)
            _plot_list(figure.add_axes(box), one)
            title = f"{', '.join(one.titles().values())}: {heading(one.group, device=False)}"
            words = titled(number, title, width=TITLE)
            figure.text(LEFT_IN / WIDTH_IN, (top - 0.2) / total, words, fontsize=9, va="center")
            top = low - AXIS_IN
    return Drawing(
        "methods",
        figure,
        _caption(found),
        frozenset(run.id for one in found for run in one.runs),
        tidy=tidy_points(found),
    )


def _plot_list(ax: Axes, one: MethodComparison) -> None:
    plot_list(ax, one.rows, [_label(one, row) for row in one.rows], scores_of(one), one.scale)
    ax.set_xlabel(_score_label(one))


def _plot(ax: Axes, one: MethodComparison, cost: Cost, size: tuple[float, float], *, is_first: bool) -> None:
    shown = inside_fence(scores_of(one), one.scale)
    points = [point for point in points_of(one, cost) if point.y in shown]
    means = [score.mean for score in shown]
    limits = limits_around(shown, room=ROOM * (max(means) - min(means)) or 1, margin=MARGIN)
    ax.set_ylim(*limits)
    ax.set_xlabel(cost.label)
    ax.set_ylabel(_score_label(one) if is_first else "")
    ax.tick_params(axis="y", labelleft=is_first)
    ax.grid(linewidth=0.3, alpha=0.4)
    ax.set_axisbelow(True)
    if not points:  # no score that the axis shows has a known cost
        ax.set_xticks([])
        return
    set_log_axis(ax, [point.x for point in points], doubling=False, form=cost.form, least=3)
    front = sorted(point.mean for point in points if point.on_front)
    plot_front(ax, front, until=ax.get_xlim()[1])
    for point in points:
        look = _look(point)
        if _fits(point.y, limits):
            plot_whiskers(ax, point.x, point.y, faded(look["color"], STRENGTH))
        ax.plot([point.x], [point.y.mean], label="_", **look)
    bars = [((p.x, p.y.low or 0), (p.x, p.y.high or 0)) for p in points if _fits(p.y, limits)]
    level = [((x, y), (until, y)) for (x, y), (until, _) in pairwise([*front, (ax.get_xlim()[1], 0)])]
    _name(ax, points, size=size, lines=[*bars, *level])


def _name(
    ax: Axes,
    points: Sequence[Point],
    *,
    size: tuple[float, float],
    lines: Sequence[tuple[tuple[float, float], tuple[float, float]]],
) -> None:
    """Name few points, or of many those on the front and `NAMED`, where the names cover little, ``lines`` least."""
    named = [p for p in points if len(points) <= MOST_NAMED or p.on_front or p.row.variant.method in NAMED]
    label_points(
        ax,
        {drawn(point.row.name, longest=LONGEST_NAME): point.mean for point in named},
        size=size,
        colours={drawn(point.row.name, longest=LONGEST_NAME): _look(point)["color"] for point in named},
        lines=lines,
        unnamed=[point.mean for point in points if point not in named],
    )


def _fits(score: Estimate, limits: tuple[float, float]) -> bool:
    """Whether both ends of the interval are inside the plot."""
    return all(end is not None and limits[0] <= end <= limits[1] for end in (score.low, score.high))


def _look(point: Point) -> dict[str, Any]:
    look = look_of(point.row.variant.method)
    face = look.colour if point.on_front else "white"
    return {
        "color": look.colour, "marker": look.marker, "markersize": 5, "markerfacecolor": face, "linestyle": "none",
        "zorder": 3 if point.on_front else 2,
    }  # fmt: skip


def _label(one: MethodComparison, row: MethodRow) -> str:
    """Name a method, with what a reader must know about its runs."""
    said = [
        *([f"{row.seeds} seed{'s' if row.seeds > 1 else ''}"] if one.few_seeds(row) else []),
        *([f"{row.collapsed} of {len(row.runs)} collapsed"] if row.collapsed else []),
    ]
    return drawn(f"{row.name} ({', '.join(said)})" if said else row.name, longest=LONGEST_NAME)


def _score_label(one: MethodComparison) -> str:
    """Label the axis with the score: of one task its metric, of several their mean."""
    run, several = one.runs[0], f"Mean over {len(one.tasks)} tasks"
    name = several if len(one.tasks) > 1 else drawn(metric_name(run.scores.reported))
    return f"{name}{one.scale.unit}, on {reported_rows(run)}"


def _caption(found: Sequence[MethodComparison]) -> str:
    better, far = WORDS[frozenset(one.scale.lower_is_better for one in found)]
    text = (
        "(not in the paper). Left: the score of each method at its best learning rate on each task, the best first. "
        "Then the same score against its peak memory in training, and against the number of parameters that train. "
        f"{better} Bars: 95 % intervals of the mean over tasks, which are fixed strata with independent "
        "seeds (Satterthwaite); one seed has none. Intervals wider than a plot are on the left alone, cut where they "
        "are far wider than the means differ: the order of such methods may be chance. "
        f"{far} (Tukey's outer fence) are numbers on the left. "
        f"Grey line: the {FRONT}, of means alone. Filled markers are on it. Peak memory is the mean over tasks, of all "
        "learning rates, on the most common device alone. "
        f"{measured_words(one.group for one in found)} "
        f"{sharing_words([run for one in found for run in one.measured])}"
    )
    return caption_text(
        title="Methods",
        text=text.strip(),
        sources=[_source(number, one) for number, one in enumerate(found)],
        tables=[_table(found)],
    )


def _source(number: int, one: MethodComparison) -> str:
    """Say what a row of plots is made of: tasks, rows, metrics, seeds, runs, devices, and what is left out."""
    tasks = []
    for task, title in one.titles().items():
        run = one.group.tasks[task]
        have, note = run.data.rows, data_note(run)
        tasks.append(
            f"{title} ({run.scores.reported.replace('_', ' ')}; {thousands(have.train)} train rows"
            f"{f', {note}' if note else ''})"
        )
    measured, scored = (", ".join(sorted({run.device.name for run in some})) for some in (one.measured, one.runs))
    seeds = span([count for row in one.rows for count in row.score.seeds])
    unmeasured = ", ".join(row.name for row in one.rows if row.memory_bytes is None)
    untrained = ", ".join(row.name for row in one.rows if not row.trainable)
    left_out = "; ".join(f"{name}: {why}" for name, why in one.left_out.items())
    said = [
        f"{letter(number)} {heading(one.group)}: {', '.join(tasks)}.",
        f"{len(one.rows)} methods; {thousands(len(one.runs))} of {thousands(len(one.tried))} runs; "
        f"seeds per task: {seeds}.",
        f"Scores from {scored}; memory from {measured}.",
        *([] if one.rank is None else [f"Rank {one.rank} where a method has one."]),
        *([f"Without memory there, so only on the right: {unmeasured}."] if unmeasured else []),
        *([f"Trains nothing, so only on the left: {untrained}."] if untrained else []),
        *([f"{one.spare_note.capitalize()}."] if one.spare_note else []),
        *([f"Left out: {left_out}."] if left_out else []),
    ]
    return " ".join(said)


def _table(found: Sequence[MethodComparison]) -> list[list[str]]:
    """Tabulate the methods: one row per comparison and method."""
    lines = [["panel", "method", "score", "trained", "peak memory, MiB", "on the front of", "collapsed", "seeds"]]
    for number, one in enumerate(found):
        fronts = {cost.name: [p.row.variant for p in points_of(one, cost) if p.on_front] for cost in COSTS}
        for row in one.rows:
            memory, trained = MEMORY.of(row), parameters(row.trainable)
            where = " and ".join(name for name, front in fronts.items() if row.variant in front)
            lines.append(
                [
                    letter(number), row.name, score_of(one, row).text(f"{{:{one.scale.digits}}}"), trained,
                    MISSING if memory is None else MEMORY.form(memory), where, f"{row.collapsed} of {len(row.runs)}",
                    span(row.score.seeds),
                ]
            )  # fmt: skip
    return lines
