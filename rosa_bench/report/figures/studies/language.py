"""Not in the paper: held-out loss against trainable parameters, and what is forgotten of another text meanwhile."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import CUT, INTERVALS, NO_INTERVAL, Estimate, in_all_arms, over_seeds, text_of
from rosa_bench.report.cells.selection.select import Cell, Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.words.facts import POSITIVE, fact, is_text
from rosa_bench.report.figures.drawing import Drawing, caption_text, drawn, letter, styled
from rosa_bench.report.figures.plotting.arms import FILLED, GREY, MOST, REDRAWN, labels_of, panels_where, set_log_axis
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
from rosa_bench.report.figures.plotting.panels import Panel, run_ids, sources
from rosa_bench.report.figures.studies.memory import score_label
from rosa_bench.report.writers.text import parameters

LEFT_IN, COLUMN_IN, LEAST_IN, LEGEND_IN = 3.2, 2.0, 2.7, 0.5
FLOOR = "floor: entropy of the language"


def draw(groups: list[Group]) -> Drawing | None:
    """Draw one row per setting and task: loss by size, then the loss of every arm, and forgetting if recorded.

    Returns None without such runs.
    """
    panels = [one for panel in panels_where(groups, is_text, 10 * MOST) if (one := _drawable(panel)).cells][:MOST]
    if not panels:
        return None
    labels, runs = labels_of(panels)
    families, columns = families_of(runs), 3 if any(map(_forgets, panels)) else 2
    heights = [max(LEAST_IN, 0.35 + height_in(len(panel.cells))) for panel in panels]
    widths = [LEFT_IN, names_in(list(labels.values())) + COLUMN_IN, *[COLUMN_IN] * (columns - 2)]
    with styled():
        figure = Figure(figsize=(sum(widths), LEGEND_IN + sum(heights)), layout="constrained")
        parts = figure.subfigures(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for number, (panel, part) in enumerate(zip(panels, parts, strict=True)):
            part.suptitle(titled(number, panel.title, width=int(14 * sum(widths))), x=0.01, ha="left", fontsize=9)
            [axes] = part.subplots(1, columns, squeeze=False, width_ratios=[LEFT_IN, *[COLUMN_IN] * (columns - 1)])
            _plot_loss(axes[0], panel, families)
            _plot_arms(axes[1:], panel, labels)
        dotted = Line2D([], [], color=GREY, linewidth=0.9, linestyle=":", label=FLOOR)
        set_family_legend(figure, families, [dotted] if any(floor_of(panel.run) for panel in panels) else [])
    return Drawing("language", figure, _caption(panels, runs, labels), run_ids(panels))


def _drawable(panel: Panel) -> Panel:
    return replace(
        panel, cells={variant: cell for variant, cell in panel.cells.items() if cell.trainable and loss(cell)}
    )


def loss(cell: Cell) -> Estimate | None:
    """The reported score of the held-out text, lower is better: nats per token, or bits per character."""
    return over_seeds(
        cell, lambda run: run.score, lambda run: POSITIVE if run.scores.lower_is_better else None
    )  # fmt: skip


def forgotten(cell: Cell) -> Estimate | None:
    """The rise of the loss on another text, in nats per token; None unless each run recorded it."""
    return over_seeds(cell, lambda run: run.forgetting.rise if run.forgetting else None)


def floor_of(run: RunRecord) -> float | None:
    """The least loss that any model can reach on average, in nats per token, where the text's source is known."""
    return fact(run, "entropy") if run.scores.reported == "loss" else None


def _forgets(panel: Panel) -> bool:
    return any(map(forgotten, panel.cells.values()))


def _plot_loss(ax: Axes, panel: Panel, families: Families) -> None:
    places = [
        Place(variant=variant, run=cell.runs[0], x=cell.trainable, y=found)
        for variant, cell in panel.cells.items()
        if (found := loss(cell))
    ]
    floor = floor_of(panel.run)
    set_log_axis(ax, [place.x for place in places], doubling=False, form=lambda size: parameters(round(size)))
    _set_ends(ax.set_ylim, [place.y for place in places], [floor] if floor else [], below=0.12)
    plot_families(ax, places, families)
    if floor:
        ax.axhline(floor, color=GREY, linewidth=0.9, linestyle=":", label=FLOOR)
    ax.set_xlabel("trainable parameters")
    ax.set_ylabel(_score_label(panel))


def _score_label(panel: Panel) -> str:
    """The score and its unit on a line each: one line would be longer than the axes."""
    return score_label(panel.run).replace(" (", "\n(")


def _plot_arms(axes: Sequence[Axes], panel: Panel, labels: Mapping[Variant, str]) -> None:
    """Draw one line per arm: its loss and, in the second axes if there are any, what it forgot."""
    rises = {variant: forgotten(cell) for variant, cell in panel.cells.items()}
    dots = best_first(
        dots_of(panel.cells, labels, {variant: loss(cell) for variant, cell in panel.cells.items()}),
        lower_is_better=panel.run.scores.lower_is_better,
    )
    plot_dots(axes[0], dots, sizes=len(axes) == 1 or not _forgets(panel))
    axes[0].set_xlabel(_score_label(panel))
    _set_ends(axes[0].set_xlim, [dot.score for dot in dots if dot.score])
    axes[0].xaxis.set_major_locator(MaxNLocator(3))
    for ax in axes[1:]:
        plot_dots(ax, [replace(dot, score=rises[dot.variant]) for dot in dots], names=False)
        ax.axvline(0, color=GREY, linewidth=0.6, label="_")
        _set_ends(ax.set_xlim, filter(None, rises.values()), [0])
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.set_xlabel(f"forgetting: rise of loss on\n{_other_text(panel)} (nats per token)")
        ax.set_visible(_forgets(panel))


def _set_ends(
    set_limits: Callable[[float, float], object],
    found: Iterable[Estimate],
    shown: Sequence[float] = (),
    *,
    below: float = 0.06,
) -> None:
    """Let an axis span some estimates with their intervals, the values in ``shown``, and a share of that around."""
    ends = [end for one in found for end in (one.mean, one.low, one.high) if end is not None] + [*shown]
    low, high = min(ends, default=0), max(ends, default=0)
    room = high - low or 0.1 * abs(high) or 0.1
    set_limits(low - below * room, high + 0.06 * room)


def _other_text(panel: Panel) -> str:
    return drawn(" and ".join(sorted({run.forgetting.task for run in panel.runs if run.forgetting})))


def _caption(panels: Sequence[Panel], runs: Mapping[Variant, RunRecord], labels: Mapping[Variant, str]) -> str:
    text = (
        "(not in the paper). Left: loss on held-out text of each arm at its best learning rate, against the number of "
        f"trainable parameters; lower is better, and further left is smaller. {JOINED}. {COLOURS} Beside: every arm, "
        "the best first, with the number of its trained parameters."
    )
    if any(floor_of(panel.run) for panel in panels):
        text += " Dotted: the entropy of the language, which no model can beat on average."
    if any(map(_forgets, panels)):
        text += " Right: how much the loss on another text has risen from before to after training; less is better."
    text += f" Means with {INTERVALS}; {NO_INTERVAL}. {CUT} {FILLED} {REDRAWN} {in_all_arms(runs)}"
    return caption_text(
        title="Language modelling", text=text.strip(), sources=sources(panels),
        tables=[_table(panels, labels)],
    )  # fmt: skip


def _table(panels: Sequence[Panel], labels: Mapping[Variant, str]) -> list[list[str]]:
    """Tabulate the points: one row per panel and arm."""
    lines = [["panel", "arm", "trainable", "loss", "forgetting", "lr", "seeds"]]
    for number, panel in enumerate(panels):
        for variant, cell in panel.cells.items():
            lines.append(
                [
                    letter(number), labels[variant], parameters(cell.trainable), text_of(loss(cell), "{:.4g}"),
                    text_of(forgotten(cell), "{:+.3f}"), f"{cell.lr:g}", str(len(cell.runs)),
                ]
            )  # fmt: skip
    return lines
