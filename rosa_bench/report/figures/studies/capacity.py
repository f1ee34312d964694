"""Not in the paper: what is memorised against the amount of data per trained parameter, and a line for every arm.

Where a line of ranks falls, capacity ends. A method that stores more than its parameters hold at a time stays up.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from rosa_bench.report.cells.arms import (
    CUT,
    INTERVALS,
    NO_INTERVAL,
    Estimate,
    arm_labels,
    common_changes,
    common_words,
    one_run_each,
    text_of,
)
from rosa_bench.report.cells.selection.select import Cell, Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.words.facts import fact, per_parameter
from rosa_bench.report.cells.words.header import device_words, lr_text
from rosa_bench.report.figures.drawing import Drawing, caption_text, drawn, letter, styled
from rosa_bench.report.figures.plotting.arms import FILLED, GREY, REDRAWN, set_log_axis
from rosa_bench.report.figures.plotting.axis_break import moved, name_far
from rosa_bench.report.figures.plotting.curves import titled
from rosa_bench.report.figures.plotting.dots import best_first, dots_of, height_in, names_in, plot_dots
from rosa_bench.report.figures.plotting.families import (
    COLOURS,
    JOINED,
    Families,
    Place,
    families_of,
    plot_families,
    set_family_legend,
)
from rosa_bench.report.figures.studies.capacity_panels import Panel, capacity_panels, recall, runs_of, stored
from rosa_bench.report.writers.text import parameters, span, thousands

MOST = 3  # panels
LEFT_IN, RIGHT_IN, LEAST_IN, LEGEND_IN = 3.6, 2.6, 2.9, 0.5
ENOUGH = 0.01  # of the names: what the median arm must recall for recall to be drawn
EVERYTHING = "all of the data"
HEAD = ["arm", "pairs", "data, bits per parameter", "recall, %", "stored, bits per parameter", "lr", "seeds"]

Labels = Mapping[float, Mapping[Variant, str]]  # by bits of data


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What is drawn of each arm."""

    label: str
    of: Callable[[Cell], Estimate | None]
    top: float | None = None  # the greatest that is possible, if it is the same for all arms


RECALL = Quantity(label="exact recall (%)", of=lambda cell: (found := recall(cell)) and found.times(100), top=100)
STORED = Quantity(label="stored, bits per trained parameter", of=stored)


def labels_by_amount(panel: Panel) -> Labels:
    """Name the arms of each amount of data, without what they all share."""
    return {bits: arm_labels(one_run_each(cells)) for bits, cells in panel.by_amount.items()}


def quantity_of(cells: Collection[Cell]) -> Quantity:
    """Return recall if the median of some arms is at least `ENOUGH`, and else what is stored."""
    known = [found.mean for cell in cells if (found := recall(cell))]
    return RECALL if median(known) >= ENOUGH or not all(map(stored, cells)) else STORED


def draw(groups: list[Group]) -> Drawing | None:
    """Draw one row per setting: scores by bits per parameter left, every arm right; None if nothing was memorised."""
    panels = capacity_panels(groups)[:MOST]
    if not panels:
        return None
    runs = runs_of(panels)
    labels, families = [labels_by_amount(panel) for panel in panels], families_of(runs)
    heights = [max(LEAST_IN, 0.35 + sum(map(height_in, map(len, panel.by_amount.values())))) for panel in panels]
    size = (
        LEFT_IN + max(names_in(list(some.values())) for by_bits in labels for some in by_bits.values()) + RIGHT_IN,
        LEGEND_IN + sum(heights),
    )
    with styled():
        figure = Figure(figsize=size, layout="constrained")
        rows_of_axes = figure.subfigures(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for number, (panel, part) in enumerate(zip(panels, rows_of_axes, strict=True)):
            title = titled(number, panel.title, width=int(14 * size[0]))
            part.suptitle(title, x=0.01, ha="left", fontsize=9)
            _plot(part, panel, labels[number], families, names=size[0] - LEFT_IN)
        dotted = Line2D([], [], color=GREY, linewidth=0.8, linestyle=":", label=EVERYTHING)
        set_family_legend(figure, families, [dotted] if any(map(_has_line, panels)) else [])
    return Drawing("capacity", figure, _caption(panels, labels), frozenset(run.id for p in panels for run in p.runs))


def _has_line(panel: Panel) -> bool:
    return quantity_of(panel.cells) is STORED


def _plot(part: SubFigure, panel: Panel, labels: Labels, families: Families, *, names: float) -> None:
    counts = [len(cells) for cells in panel.by_amount.values()]
    [left, right] = part.add_gridspec(1, 2, width_ratios=[LEFT_IN, names])
    _plot_families(part.add_subplot(left), panel, families)
    lines = right.subgridspec(len(counts), 1, height_ratios=list(map(height_in, counts)))
    for number, (bits, cells) in enumerate(panel.by_amount.items()):
        _plot_arms(part.add_subplot(lines[number]), cells, labels[bits])


def _plot_families(ax: Axes, panel: Panel, families: Families) -> None:
    quantity = quantity_of(panel.cells)
    places = [
        Place(variant=variant, run=cell.runs[0], x=per_parameter(cell.runs[0]) or 0, y=found, amount=bits)
        for bits, cells in panel.by_amount.items()
        for variant, cell in cells.items()
        if (found := quantity.of(cell))
    ]
    shown = moved(places)
    set_log_axis(ax, [place.x for place in shown], doubling=True, form="{:g}".format)
    _set_ends(ax.set_ylim, quantity, [place.y for place in places], below=0.1)
    ax.set_xlabel("data, bits per trained parameter")
    ax.set_ylabel(quantity.label)
    plot_families(ax, shown, families)
    name_far(ax, places)
    if quantity is STORED:
        everything = np.geomspace(*ax.get_xlim(), 200)
        ax.plot(everything, everything, color=GREY, linewidth=0.8, linestyle=":", label=EVERYTHING, zorder=0)


def _plot_arms(ax: Axes, cells: Mapping[Variant, Cell], labels: Mapping[Variant, str]) -> None:
    quantity = quantity_of(cells.values())
    scores = {variant: quantity.of(cell) for variant, cell in cells.items()}
    plot_dots(ax, best_first(dots_of(cells, labels, scores)))
    _set_ends(ax.set_xlim, quantity, filter(None, scores.values()), below=0.02)
    run = next(iter(cells.values())).runs[0]
    names, digits = fact(run, "pairs"), fact(run, "digits")
    said = [f"{thousands(int(names))} names, {digits:g} digits each"] if names and digits else []
    targets = _targets(cells)
    ax.set_title(drawn("; ".join([*said, *([targets] if targets else [])])), loc="right", fontsize=7)
    ax.set_xlabel(quantity.label)


def _targets(cells: Mapping[Variant, Cell]) -> str:
    """Say which layers all adapters are in, where no arm's name says it."""
    shared = common_changes(one_run_each(cells))
    found = {changes["targets"] for changes in shared.values() if "targets" in changes}
    return f"targets={found.pop()}" if len(found) == 1 else ""


def _set_ends(
    set_limits: Callable[[float, float], object], quantity: Quantity, found: Iterable[Estimate], *, below: float
) -> None:
    """Let an axis go from just below 0 to the top of its quantity, or of what was found."""
    highest = max((one.mean if one.high is None else one.high for one in found), default=1) or 1
    top = quantity.top or highest
    set_limits(-below * top, 1.05 * top)


def _caption(panels: list[Panel], labels: Sequence[Labels]) -> str:
    text = (
        "(not in the paper). Left: what is memorised, against the information in all numbers per trained parameter. To "
        "the right there is more data for each parameter. Where a line falls, capacity ends: at equal x a "
        f"higher arm makes more of its parameters. {JOINED}, dashes the amounts of data of an arm. Points far left of "
        f"all others are at the edge, with their own value. {COLOURS} Right: "
        "every arm, the best first, with the number of its trained parameters. Shown is exact recall, the fraction of "
        f"names whose whole number is right. Where the median arm recalls less than {ENOUGH:.0%} of the names, the "
        "information stored is shown instead, which is that in the numbers less the loss over their digits, per "
        "trained parameter (dotted: all of the data). Each arm is at its best learning rate, chosen by the loss on the "
        f"same rows. Means with {INTERVALS}; {NO_INTERVAL}. {CUT} {FILLED} {REDRAWN}"
    )
    return caption_text(
        title="Capacity", text=text.strip(), sources=[_source(n, panel) for n, panel in enumerate(panels)],
        tables=[_table(*both) for both in zip(panels, labels, strict=True)],
    )  # fmt: skip


def _source(number: int, panel: Panel) -> str:
    lengths = []
    for cells in panel.by_amount.values():
        runs = one_run_each(cells)
        ways = sorted({(run.settings.epochs, str(run.setting("task.passes", 1))) for run in runs.values()})
        said = ", ".join(f"{epochs} epochs of {passes} passes" for epochs, passes in ways)
        common = f" (in all arms of {words})" if (words := common_words(runs)) else ""
        lengths.append(f"{thousands(int(fact(next(iter(runs.values())), 'pairs') or 0))} pairs, {said}{common}")
    seeds = span({len(cell.runs) for cell in panel.cells})
    return f"{letter(number)} {panel.title}, {device_words(panel.runs)}; {'; '.join(lengths)}; seeds: {seeds}."


def _table(panel: Panel, labels: Labels) -> list[list[str]]:
    """Tabulate the points: one row per amount of data and arm."""
    lines = [HEAD]
    for bits, cells in panel.by_amount.items():
        for variant, cell in cells.items():
            run = cell.runs[0]
            lines.append(
                [
                    f"{labels[bits][variant]} ({parameters(cell.trainable)})",
                    thousands(int(fact(run, "pairs") or 0)),
                    f"{per_parameter(run):.3g}",
                    text_of(recall(cell), "{:.1f}", times=100),
                    text_of(stored(cell)),
                    lr_text(cell),
                    str(len(cell.runs)),
                ]
            )
    return lines
