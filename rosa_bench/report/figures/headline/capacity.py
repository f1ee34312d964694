"""Right part of the headline figure: what is memorised by LoRA of every rank, and by a ROSA that is drawn again."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from rosa_bench.config.files.looks import look_of
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import Estimate, is_resampled, one_run_each, period_order, period_words, plain_arms
from rosa_bench.report.cells.differences import Difference, paired
from rosa_bench.report.cells.grid import BASELINE
from rosa_bench.report.cells.selection.select import Cell, Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.words.facts import per_parameter
from rosa_bench.report.figures.drawing import drawn, faded
from rosa_bench.report.figures.plotting.arms import plot_whiskers, set_log_axis
from rosa_bench.report.figures.plotting.beside import spread
from rosa_bench.report.figures.studies.capacity_panels import Panel, capacity_panels, recall

METHOD, WHOLE = "rosa", "ft"
SMALL = 7  # points
LOW, HIGH = -6.0, 110.0  # ends of the axis, in per cent
GAP = 0.07  # between labels, as a share of the axis
ROOM = 3.2  # the axis goes on to the right by this factor, for labels


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The arms of one amount of data: LoRA by rank, ROSA of one rank by period, and full fine-tuning."""

    panel: Panel
    lora: Mapping[int, Cell]
    rosa: Mapping[str, Cell]
    rank: int
    whole: Cell | None

    @property
    def shortest(self) -> tuple[str, Cell]:
        """The shortest period and its cell."""
        return list(self.rosa.items())[-1]

    @property
    def difference(self) -> Difference | None:
        """Recall of the ROSA that is drawn most often minus that of LoRA of the same rank, paired over seeds."""
        return paired(self.shortest[1].by_seed, self.lora[self.rank].by_seed)

    @property
    def cells(self) -> list[Cell]:
        """All cells that are drawn."""
        return [*self.lora.values(), *self.rosa.values(), *([self.whole] if self.whole else [])]

    @property
    def run(self) -> RunRecord:
        """Any one of the runs."""
        return self.cells[0].runs[0]


def ladder_of(groups: Iterable[Group]) -> Ladder | None:
    """Return the arms with the most runs that have LoRA and several periods of ROSA at one rank; None without any."""
    found = [
        ladder
        for panel in capacity_panels(groups)
        for cells in panel.by_amount.values()
        if (ladder := _ladder(panel, cells))
    ]
    return max(found, key=lambda one: sum(len(cell.runs) for cell in one.cells), default=None)


def _ladder(panel: Panel, cells: Mapping[Variant, Cell]) -> Ladder | None:
    plain = plain_arms(one_run_each(cells))
    usual = {variant: cell for variant, cell in cells.items() if variant in plain}
    lora = {v.rank: c for v, c in usual.items() if v.method == BASELINE and v.rank and not is_resampled(c.runs[0])}
    by_rank: dict[int, dict[str, Cell]] = {}
    for variant, cell in sorted(usual.items(), key=lambda pair: period_order(pair[1].runs[0])):
        if variant.method == METHOD and variant.rank in lora:
            by_rank.setdefault(variant.rank, {}).setdefault(period_words(cell.runs[0]), cell)
    rank = max(by_rank, key=lambda one: len(by_rank[one]), default=None)
    if rank is None or not any(is_resampled(cell.runs[0]) for cell in by_rank[rank].values()):
        return None
    whole = next((cell for variant, cell in usual.items() if variant.method == WHOLE), None)
    return Ladder(panel=panel, lora=dict(sorted(lora.items())), rosa=by_rank[rank], rank=rank, whole=whole)


def verdict(found: Ladder) -> str:
    """Say in a few words whether drawing again wins over LoRA of the same size."""
    difference = found.difference
    if difference is None or difference.p is None or difference.within_noise:
        return "no gain shown"
    return "resampling wins" if difference.mean > 0 else "resampling loses"


def place_of(cell: Cell) -> tuple[float, Estimate]:
    """Return the data in bits per trained parameter, and the recall in per cent."""
    found = recall(cell)
    assert found is not None  # panels hold no cell without
    return per_parameter(cell.runs[0]) or 0.0, found.times(100)


def plot_capacity(ax: Axes, found: Ladder) -> None:
    """Draw recall by bits of data per trained parameter: LoRA's ranks as a line, ROSA's periods above each other."""
    set_log_axis(ax, [place_of(cell)[0] for cell in found.cells], doubling=True, form="{:g}".format)
    ax.set_xlim(right=ROOM * max(place_of(cell)[0] for cell in found.cells))
    ax.set_ylim(LOW, HIGH)
    ax.set_xlabel("data, bits per trained parameter")
    ax.set_ylabel("recalled exactly (%)")
    ax.grid(linewidth=0.3, alpha=0.6)
    ax.set_axisbelow(True)
    if found.whole:
        x, y = place_of(found.whole)
        look = look_of(WHOLE)
        ax.plot([x], [y.mean], marker=look.marker, color=look.colour, markersize=5)
        _write(ax, (x, y.mean), "full\nfine-tuning", look.colour, offset=(-4, -6), ha="left", va="top")
    _plot_lora(ax, found)
    _plot_rosa(ax, found)


def _plot_lora(ax: Axes, found: Ladder) -> None:
    look = look_of(BASELINE)
    places = {rank: place_of(cell) for rank, cell in found.lora.items()}
    ax.plot(
        [x for x, _ in places.values()], [y.mean for _, y in places.values()], look.line, color=look.colour,
        marker=look.marker, markersize=5, markerfacecolor="white", linewidth=1.2,
    )  # fmt: skip
    for number, (rank, (x, y)) in enumerate(reversed(places.items())):
        plot_whiskers(ax, x, y, faded(look.colour, 0.5))
        text, side = (f"LoRA r={rank}", 1) if number == 0 else (f"r={rank}", 1 if number == len(places) - 1 else -1)
        _write(
            ax, (x, y.mean), text, look.colour, offset=(6 * side, 0), ha="left" if side > 0 else "right", va="center"
        )


def _plot_rosa(ax: Axes, found: Ladder) -> None:
    """Draw ROSA's periods at one place, darker the more often it is drawn, each named to its right."""
    look = look_of(METHOD)
    places = [place_of(cell) for cell in found.rosa.values()]
    x = places[0][0]
    ax.plot([x, x], [places[0][1].mean, places[-1][1].mean], color=faded(look.colour, 0.5), linewidth=1, zorder=1)
    levels = spread([(y.mean - LOW) / (HIGH - LOW) for _, y in places], GAP)
    for number, (period, level) in enumerate(zip(found.rosa, levels, strict=True)):
        strength = 0.35 + 0.65 * number / max(1, len(places) - 1)
        y = places[number][1]
        plot_whiskers(ax, x, y, faded(look.colour, strength))
        face = faded(look.colour, strength) if is_resampled(found.rosa[period].runs[0]) else "white"
        ax.plot([x], [y.mean], marker=look.marker, color=look.colour, markerfacecolor=face, markersize=6, zorder=3)
        last = number == len(places) - 1
        name = f"ROSA r={found.rank},\n" if last else ""
        ax.annotate(
            name + drawn(period), (x, LOW + level * (HIGH - LOW)), xytext=(8, 0), textcoords="offset points",
            fontsize=SMALL, color=look.colour, va="bottom" if last else "center", weight="bold" if last else "normal",
            linespacing=1.1,
        )  # fmt: skip


def _write(
    ax: Axes, at: tuple[float, float], text: str, colour: str, *, offset: tuple[float, float], **how: Any
) -> None:
    ax.annotate(text, at, xytext=offset, textcoords="offset points", fontsize=SMALL, color=colour, **how)
