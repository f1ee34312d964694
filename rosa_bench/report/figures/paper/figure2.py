"""Figure 2: validation loss on the synthetic regressions, and the lower bound for LoRA at each rank."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import is_resampled, period_words
from rosa_bench.report.cells.selection.select import Cell, Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.words.facts import best_of_rank
from rosa_bench.report.figures.drawing import WIDTH_IN, Drawing, caption_text, drawn, letter, styled
from rosa_bench.report.figures.plotting.line_names import labelled, name_lines
from rosa_bench.report.figures.plotting.panels import has_epochs, plain
from rosa_bench.report.figures.plotting.styles import styles_of
from rosa_bench.report.writers.text import MISSING, span

TASK = "synthetic"
LOWEST = 1e-6  # bottom of the axis: lower values would flatten the rest, and are in the caption
BOUND_OF = "lora"


@dataclass(frozen=True)
class Panel:
    """One model's curves. ``curves``: variant -> losses (replicates, epochs); ``bounds``: rank -> mean bound on dev."""

    group: Group
    curves: dict[Variant, np.ndarray]
    bounds: dict[int, float]

    def of(self, method: str) -> list[np.ndarray]:
        """Return the curves of one method."""
        return [curve for variant, curve in self.curves.items() if variant.method == method]

    @property
    def runs(self) -> list[RunRecord]:
        """The runs behind the curves."""
        return [run for cell in plain_cells(self.group).values() for run in cell.runs]

    @property
    def title(self) -> str:
        """The model's name."""
        return self.runs[0].settings.model.title


def draw(groups: list[Group]) -> Drawing | None:
    """Draw one panel per model, with the variants that `plain` keeps; None if no run of the task has epochs."""
    panels = [panel_of(group) for group in nearest_to_protocol(groups)]
    if not panels:
        return None
    with styled():
        figure = Figure(figsize=(WIDTH_IN, 5.2), layout="constrained")
        shape: dict[str, Any] = {"sharex": True, "sharey": "row", "squeeze": False, "height_ratios": [1, 1.7]}
        upper, lower = figure.subplots(2, len(panels), **shape)
        for number, panel in enumerate(panels):
            plot(upper[number], panel)
            plot(lower[number], panel)
            upper[number].set_title(f"{letter(number)} {drawn(panel.title)}", loc="left")
            lower[number].set_xlabel("epoch")
        near = [curve.mean(0)[-1] for panel in panels for curve in panel.of(BOUND_OF) or panel.curves.values()]
        values = np.concatenate([curve.ravel() for panel in panels for curve in panel.curves.values()])
        least, greatest = _positive(near).min(), _positive(values).max()
        upper[0].set_ylim(bottom=0.8 * least, top=1.1 * greatest)
        upper[0].set_ylabel("near LoRA's bounds")
        lower[0].set_ylim(bottom=min(LOWEST, greatest / 10), top=1.3 * greatest)
        lower[0].set_ylabel("validation loss (mean squared error)")
        if not name_lines(lower):
            handles = {label: line for ax in lower for label, line in labelled(ax).items()}
            figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=6)
    return Drawing("figure2", figure, caption(panels), frozenset(run.id for panel in panels for run in panel.runs))


def _positive(values: Iterable[float]) -> np.ndarray:
    """Keep the values that a logarithmic axis can show; 1 if there are none."""
    shown = [value for value in values if value > 0 and np.isfinite(value)]
    return np.array(shown or [1.0])


def nearest_to_protocol(groups: Iterable[Group]) -> list[Group]:
    """For each model, return the setting with the fewest deviations; ties go to the one with the most runs."""
    best: dict[str, Group] = {}
    for group in groups:
        if TASK not in group.tasks or not plain_cells(group):
            continue
        model = group.setting.model
        if model not in best or _rank(group) < _rank(best[model]):
            best[model] = group
    return [best[model] for model in sorted(best)]


def _rank(group: Group) -> tuple[int, int, str]:
    return len(group.setting.deviations), -len(group.runs), group.setting.protocol


def plain_cells(group: Group) -> dict[Variant, Cell]:
    """Return the cells with equally many epochs that `plain` keeps, sorted by method and rank."""
    cells = {
        variant: cell
        for (variant, task), cell in group.cells.items()
        if task == TASK and has_epochs(cell) and all(len(losses(run)) for run in cell.runs) and _equally_long(cell)
    }
    return dict(sorted(plain(cells).items(), key=lambda item: (item[0].method, item[0].rank or 0, item[0].label)))


def _equally_long(cell: Cell) -> bool:
    return len({len(run.scores.epochs) for run in cell.runs}) == 1


def panel_of(group: Group) -> Panel:
    """Collect one model's curves, and its bounds if its records have them."""
    cells = plain_cells(group)
    curves = {variant: np.concatenate([losses(run) for run in cell.runs]) for variant, cell in cells.items()}
    bounds = {}
    for variant, cell in cells.items():
        bound = best_of_rank(cell.runs)
        if variant.method == BOUND_OF and variant.rank is not None and bound is not None:
            bounds[variant.rank] = bound
    return Panel(group, curves, bounds)


def losses(run: RunRecord) -> np.ndarray:
    """Return a run's validation losses, (replicates, epochs). NaN where one is undefined."""
    own = f"{run.scores.reported}."
    epochs = [epoch.scores for epoch in run.scores.epochs]
    names = [name for name in epochs[0] if name.startswith(own)]
    return np.array([[scores.get(name) for scores in epochs] for name in names], dtype=float)


def plot(ax: Axes, panel: Panel) -> None:
    """Draw the mean and range of each curve, darker for a higher rank, and the bounds."""
    styles = styles_of(panel.curves)
    for variant, curve in panel.curves.items():
        epochs = np.arange(1, curve.shape[1] + 1)
        style: dict[str, Any] = {**styles[variant], "marker": None}  # hundreds of epochs
        colour = style["color"]
        ax.plot(epochs, curve.mean(0), label=drawn(variant.label), **style)
        shade = ax.fill_between(epochs, curve.min(0), curve.max(0), alpha=0.15, linewidth=0, color=colour)
        shade.set_rasterized(True)  # hundreds of epochs: as vectors, one figure's shading took a megabyte
    for number, bound in enumerate(panel.bounds.values()):
        ax.axhline(bound, color="black", linewidth=0.8, linestyle=":", label="_" if number else "LoRA's bound")
    ax.set_yscale("log")


def caption(panels: list[Panel]) -> str:
    """Write what the figure shows, how it was made, and the final losses."""
    run = panels[0].runs[0]
    settings, setting = run.settings, panels[0].group.setting
    changes = ", ".join(change.text for change in setting.deviations)
    counts = {curve.shape[0] for panel in panels for curve in panel.curves.values()}
    several = f"Lines: mean; shades: range over {span(counts)} independent problems."
    shown = several if max(counts) > 1 else "Lines: one problem."
    text = (
        "Validation loss against epochs on synthetic data (made by a program), after Figure 2 of arXiv "
        f"2407.07802. A random network f is fine-tuned to f*, whose weights are f's plus random matrices of rank "
        f"{settings.task.true_rank}: {settings.task.inputs} inputs, {settings.task.outputs} outputs, "
        f"{run.data.rows.train:,} train and {run.data.rows.validation:,} validation rows. {shown} "
        "Dotted: LoRA's bound, the validation loss of "
        "the best update of each rank in closed form (Theorem 2), on the linear map. "
        f"AdamW, lr {settings.lr:g} decaying to 0, batch {settings.batch_size}, {settings.epochs} "
        f"epochs{_resampling(panels)}. Protocol {setting.protocol}{f' ({changes})' if changes else ''}; "
        f"{run.device.name}, {run.device.precision}."
    )
    return caption_text(title="Figure 2.", text=text, tables=[_losses_table(panels)])


def _resampling(panels: list[Panel]) -> str:
    periods = {period_words(run) for panel in panels for run in panel.runs if is_resampled(run)}
    return f", ROSA resampled {' or '.join(sorted(periods))}" if periods else ""


def _losses_table(panels: list[Panel]) -> list[list[str]]:
    """Tabulate final losses as mean (least to greatest): one row per variant, one column per panel, then the bounds."""
    variants = list(dict.fromkeys(variant for panel in panels for variant in panel.curves))
    bounded = [panel for panel in panels if panel.bounds]
    head = ["final loss", *(panel.title for panel in panels), *(f"bound, {panel.title}" for panel in bounded)]
    rows = [head]
    for variant in variants:
        finals = [_final(panel.curves.get(variant)) for panel in panels]
        limits = [
            f"{panel.bounds[variant.rank]:.4g}" if variant.method == BOUND_OF and variant.rank in panel.bounds else ""
            for panel in bounded
        ]
        rows.append([variant.label, *finals, *limits])
    return rows


def _final(curve: np.ndarray | None) -> str:
    if curve is None:
        return MISSING
    last = curve[:, -1]
    spread = f" ({last.min():.3g} to {last.max():.3g})" if len(last) > 1 else ""
    return f"{last.mean():.3g}{spread}"
