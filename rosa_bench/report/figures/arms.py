"""Shared by the figures of capacity experiments: panels, styles of arms, points with whiskers, and legends."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from rosa_bench.config.looks import look_of
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import Estimate, arm_labels, arm_order, common_changes, is_resampled, own_changes
from rosa_bench.report.cells.select import Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.figures.curves import CHANGED_COLOURS, LEGEND_LINE, LEGEND_WIDTH, Panel, Styles
from rosa_bench.report.figures.drawing import drawn

MOST = 4  # panels or pairs of panels
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2.5)), (0, (8, 2)))
DARKEST, PALEST = 0.45, 0.6  # of an arm's colour: a share of its own brightness, and of it mixed with white
LEGEND_LINE_IN = 0.165
FILLED = "Filled markers: the subspace is drawn again during training. Open: it is not."
REDRAWN = "LoRA with a period is merged and drawn again, as in ReLoRA (arXiv 2307.05695)."


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where an arm is drawn: its exact place on x, or one with an interval, and its mean on y."""

    x: Estimate
    y: Estimate


def panels_where(groups: Iterable[Group], keep: Callable[[RunRecord], object], most: int = MOST) -> list[Panel]:
    """Return one panel per setting and task with the cells whose runs ``keep`` accepts, those with most runs first."""
    panels = []
    for group in groups:
        for task in group.tasks:
            cells = {
                variant: cell
                for (variant, one), cell in group.cells.items()
                if one == task and all(map(keep, cell.runs))
            }
            if cells:
                order = sorted(cells, key=lambda variant: arm_order(variant, cells[variant].runs[0]))
                panels.append(Panel(group, task, {variant: cells[variant] for variant in order}))
    return sorted(panels, key=lambda panel: (-len(panel.runs), panel.title, panel.run.id))[:most]


def arm_styles(runs: Mapping[Variant, RunRecord]) -> Styles:
    """Style each arm: the method's marker, a shade of its colour, and a line of its own. ``runs``: any run of each.

    Arms that differ in more than rank and period get a colour of their own.
    """
    ordered = sorted(runs, key=lambda variant: arm_order(variant, runs[variant]))
    shared = common_changes(runs)
    styles: Styles = {}
    others = 0
    for method in dict.fromkeys(variant.method for variant in ordered):
        own = [variant for variant in ordered if variant.method == method]
        plain = [variant for variant in own if not own_changes(variant, runs[variant], shared)]
        for number, variant in enumerate(own):
            if variant in plain:
                colour = shade(look_of(method).colour, plain.index(variant), len(plain))
            else:
                colour = to_rgb(CHANGED_COLOURS[others % len(CHANGED_COLOURS)])
                others += 1
            fixed = variant.rank is not None and not is_resampled(runs[variant])
            styles[variant] = {
                "color": colour,
                "linestyle": LINES[number % len(LINES)],
                "marker": look_of(method).marker,
                "markersize": 4.5,
                "markerfacecolor": "white" if fixed else colour,
                "linewidth": 1.2,
            }
    return styles


def shade(colour: str, number: int, count: int) -> tuple[float, float, float]:
    """Return one of ``count`` shades of a colour, from pale to dark; the colour itself if there is one."""
    if count == 1:
        return to_rgb(colour)
    strength = 2 * number / (count - 1) - 1  # -1 pale, 1 dark
    red, green, blue = (
        part * (1 - strength * (1 - DARKEST)) if strength >= 0 else part + (1 - part) * -strength * PALEST
        for part in to_rgb(colour)
    )
    return red, green, blue


def plot_points(ax: Axes, points: Iterable[Point], **style: Any) -> None:
    """Draw an arm's points in the order of x, joined by its line, with the intervals as whiskers."""
    ordered = sorted(points, key=lambda point: point.x.mean)
    x, y = [point.x.mean for point in ordered], [point.y.mean for point in ordered]
    ax.errorbar(
        x, y, xerr=_whiskers(point.x for point in ordered), yerr=_whiskers(point.y for point in ordered),
        fmt="none", ecolor=style["color"], elinewidth=0.8, capsize=1.5,
    )  # fmt: skip
    ax.plot(x, y, **style)


def _whiskers(estimates: Iterable[Estimate]) -> list[list[float]]:
    low, high = zip(*(estimate.whiskers for estimate in estimates), strict=True)
    return [list(low), list(high)]


def set_arm_legend(figure: Figure, labels: Iterable[str]) -> None:
    """Add one legend below all axes, and the height that it needs: each of ``labels`` that is drawn once, in order."""
    handles: dict[object, Any] = {
        label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    shown = [handles[name] for label in dict.fromkeys(labels) if (name := drawn(label)) in handles]
    longest = max(len(str(handle.get_label())) for handle in shown)
    columns = min(4, max(1, LEGEND_WIDTH // (LEGEND_LINE + longest)))
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + LEGEND_LINE_IN * -(-len(shown) // columns))
    figure.legend(handles=shown, loc="outside lower center", ncols=columns)


def labels_of(panels: Iterable[Panel]) -> tuple[dict[Variant, str], Styles, dict[Variant, RunRecord]]:
    """Return the names and the styles of all arms of a figure, in order, and a run of each."""
    found = {variant: cell.runs[0] for panel in panels for variant, cell in panel.cells.items()}
    runs = {variant: found[variant] for variant in sorted(found, key=lambda one: arm_order(one, found[one]))}
    return arm_labels(runs), arm_styles(runs), runs
