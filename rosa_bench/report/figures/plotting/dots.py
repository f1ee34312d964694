"""Dot plots: one line per arm with its name, its score with the interval, and the number of trained parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import Estimate
from rosa_bench.report.cells.selection.select import Cell
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.figures.drawing import SMALL, drawn
from rosa_bench.report.figures.plotting.arms import arm_look, plot_whiskers
from rosa_bench.report.writers.text import parameters

SIZES = "trained"  # head of the column of numbers of parameters
LINE_IN = 0.155  # height of an arm's line
LONGEST_NAME = 90  # characters
LETTER_IN = 0.048  # width of a letter of a name, on average


@dataclass(frozen=True, kw_only=True)
class Dot:
    """An arm and its score, which may be unknown."""

    variant: Variant
    run: RunRecord
    label: str
    trainable: int
    score: Estimate | None


def dots_of(
    cells: Mapping[Variant, Cell], labels: Mapping[Variant, str], scores: Mapping[Variant, Estimate | None]
) -> list[Dot]:
    """Return the arms in the order of ``cells``."""
    return [
        Dot(
            variant=variant, run=cell.runs[0], label=labels[variant], trainable=cell.trainable, score=scores[variant]
        )
        for variant, cell in cells.items()
    ]  # fmt: skip


def best_first(dots: Sequence[Dot], *, lower_is_better: bool = False) -> list[Dot]:
    """Sort arms by score; those without come last."""
    sign = 1 if lower_is_better else -1
    return sorted(dots, key=lambda dot: (dot.score is None, sign * dot.score.mean if dot.score else 0))


def plot_dots(ax: Axes, dots: Sequence[Dot], *, names: bool = True, sizes: bool = True) -> None:
    """Draw one line per arm from top to bottom, with ``names`` on the left and ``sizes`` on the right."""
    for line, dot in enumerate(dots):
        if dot.score:
            look = arm_look(dot.variant, dot.run)
            plot_whiskers(ax, line, dot.score, look["color"], across=True)
            ax.plot([dot.score.mean], [line], label="_", zorder=2, clip_on=False, **look)
        if sizes:
            ax.text(
                1.03, line, parameters(dot.trainable), transform=ax.get_yaxis_transform(), fontsize=SMALL, va="center"
            )
    if sizes:
        ax.text(1.03, -1, SIZES, transform=ax.get_yaxis_transform(), fontsize=SMALL, va="center")
    set_lines(ax, [name_of(dot.label) if names else "" for dot in dots], grid_alpha=0.6)


def set_lines(ax: Axes, names: Sequence[str], *, grid_alpha: float = 0.4) -> None:
    """Make axes of one line per name, from top to bottom: names on the left, a pale grid, and no y axis."""
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_yticks(range(len(names)), list(names), fontsize=SMALL)
    ax.tick_params(axis="y", length=0)
    ax.grid(linewidth=0.3, alpha=grid_alpha)
    ax.set_axisbelow(True)
    ax.spines["left"].set_visible(False)


def name_of(label: str) -> str:
    """Return an arm's name as a label of at most `LONGEST_NAME` characters."""
    return drawn(label, longest=LONGEST_NAME)


def names_in(labels: Sequence[str]) -> float:
    """Return the width in inches that names need."""
    return LETTER_IN * max(min(LONGEST_NAME, len(label)) for label in labels)


def height_in(count: int) -> float:
    """Return the height in inches of a dot plot of so many arms, with its axis and title."""
    return 0.6 + LINE_IN * count
