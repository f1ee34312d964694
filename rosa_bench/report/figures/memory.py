"""Not in the paper: the score of memorisation and of language modelling against peak memory, with the Pareto front."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import (
    INTERVALS,
    NO_INTERVAL,
    estimate,
    in_all_arms,
    over_seeds,
    sharing_words,
    text_of,
)
from rosa_bench.report.cells.facts import is_memorised, is_text
from rosa_bench.report.cells.select import Cell, Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.figures.arms import (
    FILLED,
    MOST,
    REDRAWN,
    Point,
    labels_of,
    panels_where,
    plot_points,
    set_arm_legend,
)
from rosa_bench.report.figures.curves import Panel, Styles, in_two_columns, letter, run_ids, sources
from rosa_bench.report.figures.drawing import Caption, Drawing, drawn, styled
from rosa_bench.report.figures.figure3 import ELSEWHERE, MEASURED, MIB

FRONT = "Pareto front"


def draw_memorised(groups: list[Group]) -> Drawing | None:
    """Draw one panel per setting and amount of data; None if no run that memorised has its memory measured."""
    return _drawing("recall_memory", "Recall and memory", groups, is_memorised, "Up and left is better.")


def draw_texts(groups: list[Group]) -> Drawing | None:
    """Draw one panel per setting and text; None if no run of a text has its memory measured."""
    return _drawing("loss_memory", "Held-out loss and memory", groups, is_text, "Down and left is better.")


def _drawing(
    name: str, title: str, groups: list[Group], keep: Callable[[RunRecord], bool], better: str
) -> Drawing | None:
    found = panels_where(groups, lambda run: keep(run) and run.memory_bytes.training, 10 * MOST)
    panels = [panel for one in found if (panel := on_one_device(one)).cells][:MOST]
    if not panels:
        return None
    labels, styles, runs = labels_of(panels)
    with styled():
        figure, axes = in_two_columns(panels, height_in=2.4)
        for ax, panel in zip(axes, panels, strict=True):
            _plot(ax, panel, labels, styles)
        set_arm_legend(figure, [*labels.values(), FRONT])
    return Drawing(name, figure, _caption(title, better, panels, runs, labels), run_ids(panels))


def on_one_device(panel: Panel) -> Panel:
    """Keep the runs on the most common device, because kernels on other devices need different memory."""
    counts = Counter(run.device.name for run in panel.runs)
    name = min(counts, key=lambda one: (-counts[one], one))
    kept = {
        variant: replace(cell, runs=runs)
        for variant, cell in panel.cells.items()
        if (runs := tuple(run for run in cell.runs if run.device.name == name))
    }
    return replace(panel, cells={variant: cell for variant, cell in kept.items() if point_of(cell)})


def point_of(cell: Cell) -> Point | None:
    """Return peak memory in MiB and the reported score, a fraction times 100; None if a score is undefined."""
    factor = 1 if cell.runs[0].scores.lower_is_better else 100
    memory, score = estimate(_memory(cell)), over_seeds(cell, lambda run: run.score)
    return Point(x=memory, y=score.times(factor)) if memory and score else None


def _memory(cell: Cell) -> list[float]:
    return [(run.memory_bytes.training or 0) / MIB for run in cell.runs]


def pareto_front(points: Iterable[tuple[float, float]], *, lower_is_better: bool) -> list[tuple[float, float]]:
    """Return the points that no other beats, by increasing x: less of x and a better y, or one of both and as much."""
    front: list[tuple[float, float]] = []
    sign = 1 if lower_is_better else -1
    for x, y in sorted(points, key=lambda point: (point[0], sign * point[1])):
        if not front or sign * y < sign * front[-1][1]:
            front.append((x, y))
    return front


def _plot(ax: Axes, panel: Panel, labels: Mapping[Variant, str], styles: Styles) -> None:
    means = []
    for variant, cell in panel.cells.items():
        if point := point_of(cell):
            style = styles[variant] | {"linestyle": "none", "markersize": 5}
            plot_points(ax, [point], label=drawn(labels[variant]), **style)
            means.append((point.x.mean, point.y.mean))
    front = pareto_front(means, lower_is_better=panel.run.scores.lower_is_better)
    right = max(x for x, _ in means)
    steps = [*front, (right, front[-1][1])]
    ax.step(*zip(*steps, strict=True), where="post", color="#999999", linewidth=1, zorder=0, label=FRONT)
    ax.margins(x=0.1)
    ax.set_xlabel("peak memory in training (MiB)")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(lambda mib, _place: f"{mib:,.0f}")
    ax.set_ylabel(score_label(panel.run))
    if not panel.run.scores.lower_is_better:
        ax.set_ylim(-4, 104)


def score_label(run: RunRecord) -> str:
    """Label an axis with the reported score: ``exact recall (%)`` or ``held-out loss (nats per token)``."""
    known = {"recall": "exact recall (%)", "loss": "held-out loss (nats per token)"}
    name = run.scores.reported
    return known.get(name) or drawn(name.replace("_", " ")) + ("" if run.scores.lower_is_better else " × 100")


def _caption(
    title: str,
    better: str,
    panels: Sequence[Panel],
    runs: Mapping[Variant, RunRecord],
    labels: Mapping[Variant, str],
) -> str:
    kinds = sorted({panel.group.setting.device for panel in panels})
    text = (
        "(not in the paper). The score of each arm at its best learning rate against its peak memory while training: "
        "the greatest over steps and resamples; scoring is not counted. Arms on the grey line are not beaten by "
        f"another that needs as little memory. {better} Means with {INTERVALS}; {NO_INTERVAL}. {FILLED} {REDRAWN} "
        f"{in_all_arms(runs)} Measured on "
        f"{'; on '.join(f'{kind}: {MEASURED.get(kind, ELSEWHERE)}' for kind in kinds)}. Each panel has the runs of its "
        f"most common device alone. {sharing_words([run for panel in panels for run in panel.runs])}"
    )
    return Caption(title=title, text=text.strip(), sources=sources(panels), tables=[_table(panels, labels)]).markdown


def _table(panels: Sequence[Panel], labels: Mapping[Variant, str]) -> list[list[str]]:
    """Tabulate the points: one row per panel and arm."""
    lines = [["panel", "arm", "peak memory, MiB", "score", "on the front", "lr", "seeds"]]
    for number, panel in enumerate(panels):
        points = {variant: point for variant, cell in panel.cells.items() if (point := point_of(cell))}
        means = {variant: (point.x.mean, point.y.mean) for variant, point in points.items()}
        front = pareto_front(means.values(), lower_is_better=panel.run.scores.lower_is_better)
        for variant, point in points.items():
            cell = panel.cells[variant]
            lines.append(
                [
                    letter(number), labels[variant], f"{point.x.mean:,.0f}", text_of(point.y, "{:.4g}"),
                    "yes" if means[variant] in front else "", f"{cell.lr:g}", str(len(cell.runs)),
                ]
            )  # fmt: skip
    return lines
