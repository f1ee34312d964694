"""Shared by the figures of scores: panels of one setting and task, lines with their range over seeds, and text."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rosa_bench.config.files.looks import order_of
from rosa_bench.config.identity.defaults import defaults_of
from rosa_bench.records.measured import EpochScores
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import is_resampled, period_words
from rosa_bench.report.cells.facts import is_memorised
from rosa_bench.report.cells.header import data_note, device_words, heading
from rosa_bench.report.cells.select import Cell, Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.shown import reported_rows, scale, selection_scale
from rosa_bench.report.figures.drawing import WIDTH_IN, drawn, letter
from rosa_bench.report.figures.plotting.line_names import legend_columns, name_lines
from rosa_bench.report.writers.text import rows, span

MOST = 4  # default limit on the panels in a figure
FIRST_TASK = "cola"  # the task of the paper's Figures 3, 4 and 6
LEGEND_WIDTH, LEGEND_LINE = 110, 8  # in characters: the page's width, and the space of a line before its label
TITLE = 100  # characters of a title from the left end of the first axes to the page's edge
NO_BREAK = "\N{NO-BREAK SPACE}"
# The rows that every epoch was scored on, keyed by ``scores.selected_on``.
SCORED_ON = {"held_out": "held-out train rows", "validation": "dev", "validation_split": "dev", "train": "train"}
# Metrics whose names are abbreviations.
SPELT = {"bleu": "BLEU"}

Cells = dict[Variant, Cell]


@dataclass(frozen=True)
class Panel:
    """One setting and task, with the cells of the variants to draw, in a fixed order."""

    group: Group
    task: str
    cells: Cells

    @property
    def runs(self) -> list[RunRecord]:
        """The runs behind the cells."""
        return [run for cell in self.cells.values() for run in cell.runs]

    @property
    def run(self) -> RunRecord:
        """Any one of the runs, to read what they all share."""
        return self.runs[0]

    @property
    def reported(self) -> str:
        """Axis label for the reported score: its name and split."""
        return f"{drawn(metric_name(self.run.scores.reported))}{scale(self.run).unit}, on {reported_rows(self.run)}"

    @property
    def each_epoch(self) -> str:
        """Axis label for the score of every epoch: its name and rows."""
        name, where = self.run.scores.selected_by.name, SCORED_ON[self.run.scores.selected_on]
        return f"{drawn(metric_name(name))}{selection_scale(self.run).unit},\non {where}"

    @property
    def title(self) -> str:
        """The task and the setting."""
        return f"{self.run.settings.task.title}: {heading(self.group, device=False)}"


def unchanged(cells: Cells) -> Cells:
    """Keep the cells of variants without changes."""
    return {variant: cell for variant, cell in cells.items() if not variant.changes}


def plain(cells: Cells) -> Cells:
    """Keep the cells of variants without changes, of those that the paper ran, and of methods only run with changes."""
    without = {variant.method for variant in unchanged(cells)}
    return {
        variant: cell
        for variant, cell in cells.items()
        if not variant.changes or variant.method not in without or _as_in_paper(variant, cell.runs[0])
    }


def _as_in_paper(variant: Variant, run: RunRecord) -> bool:
    """Whether a variant's changes from its protocol's defaults are the defaults of the protocol ``paper``."""
    return all(_default(variant, run, change.key) == change.value for change in variant.changes)


def panels_of(
    groups: Iterable[Group],
    drawable: Callable[[Cell], object],
    enough: Callable[[Cells], object] = bool,
    *,
    among: Callable[[Cells], Cells] = plain,
    most: int = MOST,
    lower_is_better: bool = False,
) -> list[Panel]:
    """Choose the panels of a figure, at most ``most``.

    Panels nearest to their protocol come first, then those of the model with the most runs. Among these CoLA comes
    first, then the tasks with the most runs; a task's protocols are kept together. A panel holds the cells that
    ``among`` keeps and that are ``drawable``. It is used only if these are ``enough``. All tasks report a score or, if
    ``lower_is_better``, a loss or an error; memorised rows are left out. Those have figures of their own.
    """
    panels = []
    for group in groups:
        for task in group.tasks:
            found = {variant: group.cells.get((variant, task)) for variant in sorted(group.variants, key=sort_key)}
            scored = {
                variant: cell
                for variant, cell in found.items()
                if cell and cell.runs[0].scores.lower_is_better is lower_is_better and not is_memorised(cell.runs[0])
            }
            cells = {variant: cell for variant, cell in among(scored).items() if drawable(cell)}
            if cells and enough(cells):
                panels.append(Panel(group, task, cells))

    at_distance = Counter(panel.group.setting.distance for panel in panels for _ in panel.runs)
    of_task = Counter((panel.group.setting.distance, panel.task) for panel in panels for _ in panel.runs)

    def place(panel: Panel) -> tuple:
        distance = panel.group.setting.distance
        task = panel.task != FIRST_TASK, -of_task[distance, panel.task], panel.task
        return distance[0], -at_distance[distance], task, -len(panel.runs), panel.title, panel.run.id

    return sorted(panels, key=place)[:most]


def variants_of(panels: Iterable[Panel]) -> list[Variant]:
    """List all variants in a figure."""
    return list(dict.fromkeys(variant for panel in panels for variant in panel.cells))


def run_ids(panels: Iterable[Panel], *, tried: bool = False) -> frozenset[str]:
    """Return the ids of the runs in a figure: of the chosen learning rates, or of all that were ``tried``."""
    cells = [cell for panel in panels for cell in panel.cells.values()]
    return frozenset(run.id for cell in cells for run in (cell.tried if tried else cell.runs))


def plot_range(ax: Axes, x: Sequence[float], values: Iterable[Sequence[float | None]], **looks: Any) -> None:
    """Draw the mean of the values at each x, and shade their range."""
    groups = [np.asarray(some, dtype=float) for some in values]  # None becomes NaN, which leaves a gap
    [line] = ax.plot(x, [some.mean() for some in groups], **looks)
    low, high = [some.min() for some in groups], [some.max() for some in groups]
    ax.fill_between(x, low, high, alpha=0.13, linewidth=0, color=line.get_color())


def plot_epochs(ax: Axes, cell: Cell, value: Callable[[EpochScores], float | None], **looks: Any) -> None:
    """Draw ``value`` of each epoch of a cell's runs, against epochs; undefined ones leave a gap.

    So do epochs that a stopped run did not make.
    """
    plot_against_epochs(ax, list(zip_longest(*(map(value, run.scores.epochs) for run in cell.runs))), **looks)


def plot_against_epochs(ax: Axes, values: Sequence[Sequence[float | None]], **looks: Any) -> None:
    """Draw the mean and the range of each epoch's values; ``values`` has one sequence per epoch."""
    plot_range(ax, range(1, len(values) + 1), values, **looks)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def has_epochs(cell: Cell) -> bool:
    """Whether every run recorded the scores of its epochs."""
    return all(run.scores.epochs for run in cell.runs)


def score_of(run: RunRecord) -> Callable[[EpochScores], float | None]:
    """Return a function from an epoch to its selection score: scores times 100, errors unchanged, None if undefined."""
    name, measure = run.scores.selected_by.name, selection_scale(run)
    return lambda epoch: measure.scaled(epoch.scores[name])


def in_two_columns(panels: Sequence[Panel], *, height_in: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Make a figure with titled axes of about this height for each panel, in two columns if there are several."""
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(WIDTH_IN, 0.9 + height_in * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=sharey).ravel().tolist()
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for number, (ax, panel) in enumerate(zip(axes, panels, strict=False)):
        set_title(ax, number, panel, width=92 // columns)
    return figure, axes[: len(panels)]


def set_title(ax: Axes, number: int, panel: Panel, *, width: int) -> None:
    """Write a panel's task and setting above its first axes."""
    ax.set_title(titled(number, panel.title, width=width), loc="left")


def titled(number: int, title: str, *, width: int) -> str:
    """Return a panel's letter and title, in lines of at most ``width`` characters, broken after commas."""
    unbroken = ", ".join(part.replace(" ", NO_BREAK) for part in f"{letter(number)} {drawn(title)}".split(", "))
    return "\n".join(wrap(unbroken, width, break_on_hyphens=False)).replace(NO_BREAK, " ")


def name_variants(figure: Figure, panels: Iterable[Panel]) -> None:
    """Write the variants' names at the ends of their lines if they are few, or else in a legend."""
    if not name_lines(figure.axes):
        set_legend(figure, panels)


def set_legend(figure: Figure, panels: Iterable[Panel], extra: Iterable[Line2D] = ()) -> None:
    """Add one legend below all panels, with each variant once, in order."""
    handles: dict[object, Any] = {
        label: line for ax in figure.axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    variants = sorted({variant for panel in panels for variant in panel.cells}, key=sort_key)
    lines = [handles[label] for variant in variants if (label := drawn(variant.label)) in handles]
    lines += extra
    columns = legend_columns([str(line.get_label()) for line in lines], width=LEGEND_WIDTH, line=LEGEND_LINE)
    figure.legend(handles=lines, loc="outside lower center", ncols=columns)


def sources(panels: Sequence[Panel]) -> list[str]:
    """Write one sentence per panel: its setting, device, rows and seeds, and any note on its data."""
    lines = []
    for number, panel in enumerate(panels):
        have, note = panel.run.data.rows, data_note(panel.run)
        held_out = f", {rows(have.held_out)} held out of train" if have.held_out else ""
        seeds = {len(cell.runs) for cell in panel.cells.values()}
        train, dev = f"{rows(have.train)} train", f"{rows(have.validation)} dev"
        counts = f"{train} and {dev}" if have.test is None else f"{train}, {dev} and {rows(have.test)} test"
        noted, further = f" ({note})" if note else "", "".join(f"; {words}" for words in _unlike_the_paper(panel))
        lines.append(
            f"{letter(number)} {panel.title}, {device_words(panel.runs)}; {counts} rows{held_out}{noted}; "
            f"seeds: {span(seeds)}{further}."
        )
    return lines


def _unlike_the_paper(panel: Panel) -> list[str]:
    """Say how often unchanged variants resample, where that is not how often they do under the protocol ``paper``."""
    said = {}
    for variant, cell in unchanged(panel.cells).items():
        run = cell.runs[0]
        theirs = _default(variant, run, "method.resample_every")
        if theirs is not None and run.settings.method.resample_every != theirs:
            how = f"is resampled {period_words(run)}" if is_resampled(run) else "is never resampled"
            said[variant.title] = f"{variant.title} {how} unless its name has a period"
    return list(said.values())


def _default(variant: Variant, run: RunRecord, key: str) -> Any:
    """Return a setting's default under the protocol ``paper``, or None."""
    settings = run.settings
    theirs = defaults_of(settings.task.name, settings.model.name, variant.method, "paper") or {}
    return theirs[key].value if key in theirs else None


def metric_name(metric: str) -> str:
    """Return a metric's name for an axis."""
    return SPELT.get(metric, metric.replace("_", " ").capitalize())


def sort_key(variant: Variant) -> tuple[int, str, int, str]:
    """Sort key: full fine-tuning, then the paper's other methods, then the rest; changed variants after plain ones."""
    return order_of(variant.method), variant.method, variant.rank or 0, variant.label
