"""The arms that answer whether to draw subspaces again: scores by size, ranks joined, periods as colours."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from rosa_bench.config.files.looks import look_of, looks
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import Estimate, is_resampled, period_order, period_words, plain_arms
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.figures.drawing import SMALL, drawn, faded
from rosa_bench.report.figures.plotting.arms import GREY, PALE, arm_look, plot_whiskers

MOST_METHODS, FEW_METHODS, MOST_PERIODS = 5, 3, 4  # in the legend: few methods if there are too many for all
LONGEST, SHORTEST = 0.2, 1.0  # how much of its method's colour an arm has, by its period
DARK = "#333333"  # of the shades in the legend, which hold for all methods
BELOW: dict[str, Any] = {"xytext": (0, -4), "va": "top"}
ABOVE: dict[str, Any] = {"xytext": (0, 4), "va": "bottom"}
NEAR = (0.09, 0.06)  # shares of the axes: the places of two ranks that are nearer share a label, or are apart
OTHERS = "other arms, see right"
COLOURS = (
    "The darker a filled marker, the more often an arm of its method's usual form draws again; grey: all other arms. "
    "On the left, intervals are those of arms that do not draw again."
)
JOINED = "Thin lines join the ranks of a method"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an arm is drawn. ``amount``: of data, to tell the places of one arm apart."""

    variant: Variant
    run: RunRecord
    x: float
    y: Estimate
    amount: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Families:
    """The arms of a figure that are drawn in colour, with any run of each, and the shade of each period."""

    plain: Mapping[Variant, RunRecord]
    shades: Mapping[str, float]
    has_others: bool


def families_of(runs: Mapping[Variant, RunRecord]) -> Families:
    """Choose the arms of each method's usual form, and give each period a shade, from pale (long) to full (short)."""
    chosen = plain_arms(runs)
    plain = {variant: run for variant, run in runs.items() if variant in chosen}
    ordered = sorted(filter(is_resampled, plain.values()), key=period_order)
    periods = list(dict.fromkeys(map(period_words, ordered)))
    shades = dict(zip(periods, np.linspace(SHORTEST, LONGEST, len(periods))[::-1].tolist(), strict=True))
    return Families(plain=plain, shades=shades, has_others=len(plain) < len(runs))


def plot_families(ax: Axes, places: Sequence[Place], families: Families) -> None:
    """Draw arms at their places, on axes whose limits are set: the families in colour, and others small and grey."""
    for place in places:
        if place.variant not in families.plain:
            look = arm_look(place.variant, place.run, colour=PALE) | {"markersize": 2.8}
            ax.plot([place.x], [place.y.mean], label="_", zorder=1, **look)
            continue
        shade = families.shades.get(period_words(place.run))
        face = None if shade is None else faded(look_of(place.variant.method).colour, shade)
        look = arm_look(place.variant, place.run, face=face) | {"markersize": 5.5}
        if not is_resampled(place.run):  # several periods share their place on x
            plot_whiskers(ax, place.x, place.y, look["color"])
        ax.plot([place.x], [place.y.mean], label="_", zorder=3, **look)
    known = [place for place in places if place.variant in families.plain]
    _join(ax, known)
    _label_ranks(ax, known)
    ax.grid(linewidth=0.3, alpha=0.5)


def _join(ax: Axes, places: Iterable[Place]) -> None:
    """Join the ranks of a method on the same data by thin lines, and the amounts of data of an arm by dashes."""
    ranks: dict[object, list[Place]] = defaultdict(list)
    amounts: dict[object, list[Place]] = defaultdict(list)
    for place in places:
        amounts[place.variant].append(place)
        if place.variant.rank is not None and not is_resampled(place.run):
            ranks[replace(place.variant, rank=None), place.amount].append(place)
    for lines, dashes in ((ranks, "-"), (amounts, "--")):
        for some in lines.values():
            if len(some) > 1:
                points = sorted((place.x, place.y.mean) for place in some)
                colour = look_of(some[0].variant.method).colour
                ax.plot(*zip(*points, strict=True), color=colour, linewidth=0.7, linestyle=dashes, label="_", zorder=1)


def _label_ranks(ax: Axes, places: Iterable[Place]) -> None:
    """Write the rank of each fixed subspace below its marker, or above if another rank is there already."""
    to_axes = ax.transScale + ax.transLimits
    taken: list[tuple[float, float, str]] = []
    for place in places:
        if place.variant.rank is None or is_resampled(place.run):
            continue
        x, y = to_axes.transform((place.x, place.y.mean))
        text = f"r={place.variant.rank}"
        near = {other for left, low, other in taken if abs(left - x) < NEAR[0] and abs(low - y) < 2 * NEAR[1]}
        if text in near or len(near) > 1:
            continue
        taken.append((x, y, text))
        ax.annotate(
            text, (place.x, place.y.mean), textcoords="offset points", ha="center", fontsize=SMALL, zorder=4,
            path_effects=[withStroke(linewidth=1.5, foreground="white")], **(ABOVE if near else BELOW),
        )  # fmt: skip


def set_family_legend(figure: Figure, families: Families, extra: Iterable[Artist] = ()) -> None:
    """Add a short legend below all axes: some methods, some periods, other arms, and ``extra`` lines."""
    handles: list[Artist] = [*method_handles(families.plain)]
    periods = list(families.shades)
    last = len(periods) - 1
    shown = {round(number * last / (MOST_PERIODS - 1)) for number in range(MOST_PERIODS)} if periods else set()
    handles += [
        Patch(
            facecolor=faded(DARK, families.shades[periods[number]]),
            edgecolor=GREY,
            linewidth=0.5,
            label=drawn(periods[number]),
        )
        for number in sorted(shown)
    ]
    if families.has_others:
        handles.append(Line2D([], [], color=PALE, marker="o", linestyle="none", markersize=3, label=OTHERS))
    figure.legend(handles=[*handles, *extra], loc="outside lower center", ncols=5, fontsize=7)


def method_handles(variants: Iterable[Variant]) -> list[Line2D]:
    """Return legend entries of the methods' markers; of the first few if they are many."""
    titles = {variant.method: variant.title for variant in variants}
    known = [method for method in looks() if method in titles]
    return [
        Line2D([], [], color=look_of(method).colour, marker=look_of(method).marker, linestyle="none", markersize=5,
               markerfacecolor="none", label=drawn(titles[method]))
        for method in known[: None if len(known) <= MOST_METHODS else FEW_METHODS]
    ]  # fmt: skip
