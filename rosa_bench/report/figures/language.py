"""Not in the paper: held-out loss against trainable parameters, and what is forgotten of another text meanwhile."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import INTERVALS, NO_INTERVAL, Estimate, estimate, in_all_arms, over_seeds, text_of
from rosa_bench.report.cells.facts import fact, is_text
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
from rosa_bench.report.figures.curves import Panel, Styles, letter, run_ids, sources, titled
from rosa_bench.report.figures.drawing import WIDTH_IN, Caption, Drawing, drawn, styled
from rosa_bench.report.figures.memory import score_label
from rosa_bench.report.writers.text import parameters

FLOOR = "floor: entropy of the language"


def draw(groups: list[Group]) -> Drawing | None:
    """Draw one row per setting and task: loss by size left, forgetting right if recorded; None without such runs."""
    panels = [one for panel in panels_where(groups, is_text, 10 * MOST) if (one := _drawable(panel)).cells][:MOST]
    if not panels:
        return None
    labels, styles, runs = labels_of(panels)
    columns = 2 if any(map(_forgetting, (cell for panel in panels for cell in panel.cells.values()))) else 1
    with styled():
        figure = Figure(figsize=(WIDTH_IN, 0.4 + 2.6 * len(panels)), layout="constrained")
        for number, (panel, axes) in enumerate(
            zip(panels, figure.subplots(len(panels), columns, squeeze=False), strict=True)
        ):
            _plot_loss(axes[0], panel, labels, styles)
            if columns == 2:
                _plot_forgetting(axes[1], panel, labels, styles)
            axes[0].set_title(titled(number, panel.title, width=110), loc="left")
        set_arm_legend(figure, [*labels.values(), FLOOR])
    return Drawing("language", figure, _caption(panels, runs, labels), run_ids(panels))


def _drawable(panel: Panel) -> Panel:
    return replace(
        panel, cells={variant: cell for variant, cell in panel.cells.items() if cell.trainable and loss(cell)}
    )


def loss(cell: Cell) -> Estimate | None:
    """The reported score of the held-out text, lower is better: nats per token, or bits per character."""
    return over_seeds(cell, lambda run: run.score)


def forgotten(cell: Cell) -> Estimate | None:
    """The rise of the loss on another text, in nats per token; None unless each run recorded it."""
    return over_seeds(cell, lambda run: run.forgetting.rise if run.forgetting else None)


def floor_of(run: RunRecord) -> float | None:
    """The least loss that any model can reach on average, in nats per token, where the text's source is known."""
    return fact(run, "entropy") if run.scores.reported == "loss" else None


def _forgetting(cell: Cell) -> bool:
    return forgotten(cell) is not None


def _plot_loss(ax: Axes, panel: Panel, labels: Mapping[Variant, str], styles: Styles) -> None:
    by_rank: dict[Variant, list[tuple[int, float]]] = defaultdict(list)
    colours = {}
    for variant, cell in panel.cells.items():
        found = loss(cell)
        if found is None:
            continue
        size = estimate([float(cell.trainable)])
        assert size is not None
        point = Point(x=size, y=found)
        plot_points(ax, [point], label=drawn(labels[variant]), **styles[variant] | {"linestyle": "none"})
        if variant.rank is not None:
            without = replace(variant, rank=None)
            by_rank[without].append((cell.trainable, found.mean))
            colours[without] = styles[variant]["color"]
    for without, places in by_rank.items():
        ax.plot(*zip(*sorted(places), strict=True), color=colours[without], linewidth=0.6, label="_", zorder=1)
    if floor := floor_of(panel.run):
        ax.axhline(floor, color="#777777", linewidth=0.9, linestyle=":", label=FLOOR)
    ax.set_xscale("log")
    ax.margins(x=0.08)
    ax.set_xlabel("trainable parameters (logarithmic)")
    ax.set_ylabel(score_label(panel.run))
    ax.grid(linewidth=0.3, alpha=0.5)


def _plot_forgetting(ax: Axes, panel: Panel, labels: Mapping[Variant, str], styles: Styles) -> None:
    drawn_any = False
    for variant, cell in panel.cells.items():
        x, y = loss(cell), forgotten(cell)
        if x and y:
            style = styles[variant] | {"linestyle": "none"}
            plot_points(ax, [Point(x=x, y=y)], label=drawn(labels[variant]), **style)
            drawn_any = True
    ax.set_visible(drawn_any)
    ax.axhline(0, color="#777777", linewidth=0.6, label="_")
    ax.set_xlabel(score_label(panel.run))
    ax.set_ylabel(f"forgetting: rise of loss on\n{_other_text(panel)} (nats per token)")
    ax.grid(linewidth=0.3, alpha=0.5)


def _other_text(panel: Panel) -> str:
    return drawn(" and ".join(sorted({run.forgetting.task for run in panel.runs if run.forgetting})))


def _caption(panels: Sequence[Panel], runs: Mapping[Variant, RunRecord], labels: Mapping[Variant, str]) -> str:
    text = (
        "(not in the paper). Loss on held-out text of each arm at its best learning rate, against the number of "
        "trainable parameters; lower is better, and further left is smaller. Thin lines join the ranks of one method."
    )
    if any(floor_of(panel.run) for panel in panels):
        text += " Dotted: the entropy of the language, which no model can beat on average."
    if any(map(_forgetting, (cell for panel in panels for cell in panel.cells.values()))):
        text += (
            " Right: how much the loss on another text has risen from before to after training, against the loss on "
            "the text that was learnt. Down and left is better: it learns more and forgets less."
        )
    text += f" Means with {INTERVALS}; {NO_INTERVAL}. {FILLED} {REDRAWN} {in_all_arms(runs)}"
    return Caption(
        title="Language modelling", text=text.strip(), sources=sources(panels),
        tables=[_table(panels, labels)],
    ).markdown  # fmt: skip


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
