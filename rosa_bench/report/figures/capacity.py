"""Not in the paper: what is memorised against the amount of data per trained parameter, and what it is per parameter.

Where an adapter's line falls, its capacity ends. A method that stores more than its parameters hold at a time stays up.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import (
    INTERVALS,
    NO_INTERVAL,
    Estimate,
    arm_labels,
    arm_order,
    in_all_arms,
    over_seeds,
    text_of,
)
from rosa_bench.report.cells.facts import fact, is_memorised, per_parameter
from rosa_bench.report.cells.header import AT_AN_END, heading
from rosa_bench.report.cells.select import Cell, Group
from rosa_bench.report.cells.settings import Setting, Variant
from rosa_bench.report.figures.arms import (
    FILLED,
    REDRAWN,
    Point,
    arm_styles,
    plot_points,
    set_arm_legend,
)
from rosa_bench.report.figures.curves import Styles, titled
from rosa_bench.report.figures.drawing import WIDTH_IN, Caption, Drawing, drawn, letter, styled
from rosa_bench.report.writers.text import parameters, rows, span

# Settings that may differ along a line: how much data there is, and how long it is learnt.
SCALE = ("task.pairs", "task.digits", "task.passes", "epochs")
MOST = 3  # panels
EVERYTHING = "all of the data"
HEAD = ["arm", "pairs", "data, bits per parameter", "recall, %", "stored, bits per parameter", "lr", "seeds"]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The arms of one setting, which may differ in the amount of data: cells by arm, and within it by bits."""

    group: Group
    arms: dict[Variant, dict[float, Cell]]

    @property
    def cells(self) -> list[Cell]:
        """All cells."""
        return [cell for by_bits in self.arms.values() for cell in by_bits.values()]

    @property
    def runs(self) -> list[RunRecord]:
        """The runs behind the cells."""
        return [run for cell in self.cells for run in cell.runs]

    @property
    def title(self) -> str:
        """The task and the setting."""
        return f"{self.runs[0].settings.task.title}: {heading(self.group)}"


def draw(groups: list[Group]) -> Drawing | None:
    """Draw one row per setting: recall left, bits per trained parameter right; None if nothing was memorised."""
    panels = capacity_panels(groups)[:MOST]
    if not panels:
        return None
    runs = runs_of(panels)
    labels, styles = arm_labels(runs), arm_styles(runs)
    with styled():
        figure = Figure(figsize=(WIDTH_IN, 0.4 + 2.6 * len(panels)), layout="constrained")
        for number, (panel, (left, right)) in enumerate(
            zip(panels, figure.subplots(len(panels), 2, squeeze=False), strict=True)
        ):
            _plot_recall(left, panel, labels, styles)
            _plot_stored(right, panel, labels, styles)
            left.set_title(titled(number, panel.title, width=110), loc="left")
        set_arm_legend(figure, [*labels.values(), EVERYTHING])
    return Drawing(
        "capacity", figure, _caption(panels, runs, labels), frozenset(run.id for p in panels for run in p.runs)
    )


def capacity_panels(groups: Iterable[Group]) -> list[Panel]:
    """Return the panels of all memorised data, those with most runs first.

    If the same data was learnt for several lengths of time, the length with most runs comes into the first panel, and
    the others into panels of their own.
    """
    found: dict[tuple[Setting, str], dict[float, list[tuple[Group, dict[Variant, Cell]]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for group in groups:
        for task in group.tasks:
            cells = {variant: cell for (variant, one), cell in group.cells.items() if one == task and _is_drawn(cell)}
            for bits, some in _by_bits(cells).items():
                found[_without_scale(group.setting), task][bits].append((group, some))
    panels = [panel for (setting, _), by_bits in found.items() for panel in _merged(setting, by_bits)]
    return sorted(panels, key=lambda panel: (-len(panel.runs), panel.title, panel.runs[0].id))


def _is_drawn(cell: Cell) -> bool:
    return all(is_memorised(run) and per_parameter(run) for run in cell.runs) and recall(cell) is not None


def _by_bits(cells: dict[Variant, Cell]) -> dict[float, dict[Variant, Cell]]:
    found: dict[float, dict[Variant, Cell]] = defaultdict(dict)
    for variant, cell in cells.items():
        found[fact(cell.runs[0], "bits") or 0][variant] = cell
    return found


def _without_scale(setting: Setting) -> Setting:
    return replace(setting, deviations=tuple(change for change in setting.deviations if change.key not in SCALE))


def _merged(setting: Setting, by_bits: dict[float, list[tuple[Group, dict[Variant, Cell]]]]) -> Iterator[Panel]:
    """Yield panels that have each amount of data at most once."""
    queues = {
        bits: sorted(some, key=lambda pair: (-sum(len(cell.runs) for cell in pair[1].values()), heading(pair[0])))
        for bits, some in by_bits.items()
    }
    while any(queues.values()):
        arms: dict[Variant, dict[float, Cell]] = defaultdict(dict)
        group = next(queue[0][0] for queue in queues.values() if queue)
        for bits, queue in queues.items():
            for variant, cell in (queue.pop(0)[1] if queue else {}).items():
                arms[variant][bits] = cell
        yield Panel(group=replace(group, setting=setting), arms=dict(arms))


def runs_of(panels: Iterable[Panel]) -> dict[Variant, RunRecord]:
    """Return every arm of some panels in the order of legends, with one of its runs."""
    found = {
        variant: next(iter(by_bits.values())).runs[0] for panel in panels for variant, by_bits in panel.arms.items()
    }
    return {variant: found[variant] for variant in sorted(found, key=lambda one: arm_order(one, found[one]))}


def recall(cell: Cell) -> Estimate | None:
    """The fraction of names whose whole number is right."""
    return over_seeds(cell, lambda run: run.selected.get("recall"))


def stored(cell: Cell) -> Estimate | None:
    """The bits that are stored per trained parameter."""
    return over_seeds(cell, lambda run: run.bits_per_parameter)


def _exactly(value: float) -> Estimate:
    return Estimate(mean=value, low=None, high=None, count=1)


def _plot_recall(ax: Axes, panel: Panel, labels: dict[Variant, str], styles: Styles) -> None:
    for variant in (variant for variant in labels if variant in panel.arms):
        points = [
            Point(x=_exactly(per_parameter(cell.runs[0]) or 0), y=found.times(100))
            for cell in panel.arms[variant].values()
            if (found := recall(cell))
        ]
        plot_points(ax, points, label=drawn(labels[variant]), **styles[variant])
    _join_ranks(ax, panel, styles)
    ax.set_ylim(-4, 104)
    ax.set_ylabel("exact recall (%)")
    _scale(ax)


def _plot_stored(ax: Axes, panel: Panel, labels: dict[Variant, str], styles: Styles) -> None:
    for variant in (variant for variant in labels if variant in panel.arms):
        points = [
            Point(x=_exactly(per_parameter(cell.runs[0]) or 0), y=found)
            for cell in panel.arms[variant].values()
            if (found := stored(cell))
        ]
        if points:
            plot_points(ax, points, label=drawn(labels[variant]), **styles[variant])
    x = [per_parameter(cell.runs[0]) or 0 for cell in panel.cells]
    highest = max((found.mean for cell in panel.cells if (found := stored(cell))), default=0) or 1
    everything = np.geomspace(0.8 * min(x), 1.25 * max(x), 200)
    ax.plot(everything, everything, color="#777777", linewidth=0.8, linestyle=":", label=drawn(EVERYTHING))
    ax.set_ylim(-0.04 * highest, 1.15 * highest)
    ax.set_ylabel("stored, bits per trained parameter")
    _scale(ax)


def _scale(ax: Axes) -> None:
    ax.set_xscale("log")
    ax.set_xlabel("data, bits per trained parameter")
    ax.grid(linewidth=0.3, alpha=0.5)
    ax.margins(x=0.08)


def _join_ranks(ax: Axes, panel: Panel, styles: Styles) -> None:
    """Join arms that differ in rank alone by a thin line, where there is one amount of data and so no other line."""
    if len({bits for by_bits in panel.arms.values() for bits in by_bits}) > 1:
        return
    by_rank: dict[Variant, list[Cell]] = defaultdict(list)
    for variant, by_bits in panel.arms.items():
        if variant.rank is not None:
            by_rank[replace(variant, rank=None)].extend(by_bits.values())
    for variant, cells in by_rank.items():
        places = sorted((per_parameter(cell.runs[0]) or 0, found.mean) for cell in cells if (found := recall(cell)))
        colour = next(styles[one]["color"] for one in panel.arms if replace(one, rank=None) == variant)
        if len(places) > 1:
            ax.plot(
                *zip(*((x, 100 * y) for x, y in places), strict=True), color=colour, linewidth=0.6, label="_", zorder=1
            )


def _caption(panels: list[Panel], runs: dict[Variant, RunRecord], labels: dict[Variant, str]) -> str:
    text = (
        "(not in the paper). Left: the fraction of names whose whole number is right, against the "
        "information in all numbers per trained parameter. Right: the information stored, which is that in the numbers "
        "less the loss over their digits, per trained parameter; dotted: all of the data. To the right there is more "
        "data for each parameter. Where a line leaves 100 %, the capacity of its arm ends: at equal x a higher arm "
        "makes more of its parameters. Each arm is at its best learning rate, chosen by the loss on the same rows. "
        f"Means with {INTERVALS}; {NO_INTERVAL}. {FILLED} {REDRAWN} {in_all_arms(runs)}"
    )
    if any(len({bits for arm in panel.arms.values() for bits in arm}) == 1 for panel in panels):
        text += " Thin lines join the ranks of a method."
    return Caption(
        title="Capacity", text=text.strip(), sources=[_source(n, panel) for n, panel in enumerate(panels)],
        tables=[_table(panel, labels) for panel in panels],
    ).markdown  # fmt: skip


def _source(number: int, panel: Panel) -> str:
    devices = ", ".join(sorted({run.device.name for run in panel.runs}))
    lengths = sorted(
        {(int(fact(run, "pairs") or 0), run.settings.epochs, str(run.setting("task.passes", 1))) for run in panel.runs}
    )
    said = "; ".join(f"{rows(pairs)} pairs, {epochs} epochs of {passes} passes" for pairs, epochs, passes in lengths)
    seeds = span({len(cell.runs) for cell in panel.cells})
    return f"{letter(number)} {panel.title} ({devices}); {said}; synthetic; seeds: {seeds}."


def _table(panel: Panel, labels: dict[Variant, str]) -> list[list[str]]:
    """Tabulate the points: one row per arm and amount of data."""
    lines = [HEAD]
    for variant, label in labels.items():
        for _, cell in sorted(panel.arms.get(variant, {}).items()):
            run = cell.runs[0]
            lines.append(
                [
                    f"{label} ({parameters(cell.trainable)})",
                    rows(int(fact(run, "pairs") or 0)),
                    f"{per_parameter(run):.3g}",
                    text_of(recall(cell), "{:.1f}", times=100),
                    text_of(stored(cell)),
                    f"{cell.lr:g}{AT_AN_END if cell.at_an_end else ''}",
                    str(len(cell.runs)),
                ]
            )
    return lines
