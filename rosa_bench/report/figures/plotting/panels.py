"""Shared by the figures of scores: their panels, each of one setting and task, and what a caption says about them."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rosa_bench.config.files.looks import order_of
from rosa_bench.config.identity.defaults import defaults_of
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import is_resampled, period_words
from rosa_bench.report.cells.selection.select import Cell, Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.words.facts import is_memorised
from rosa_bench.report.cells.words.header import data_note, device_words, heading
from rosa_bench.report.cells.words.shown import reported_rows, scale, selection_scale
from rosa_bench.report.figures.drawing import drawn, letter
from rosa_bench.report.writers.text import span, thousands

MOST = 4  # default limit on the panels in a figure
FIRST_TASK = "cola"  # the task of the paper's Figures 3, 4 and 6
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
            found = group.of_task(task)
            scored = {
                variant: found[variant]
                for variant in sorted(found, key=sort_key)
                if scale(run := found[variant].runs[0]).lower_is_better is lower_is_better and not is_memorised(run)
            }
            cells = {variant: cell for variant, cell in among(scored).items() if drawable(cell)}
            if cells and enough(cells):
                panels.append(Panel(group, task, cells))
    return _nearest_first(panels)[:most]


def _nearest_first(panels: Sequence[Panel]) -> list[Panel]:
    """Sort panels as `panels_of` says."""
    at_distance = Counter(panel.group.setting.distance for panel in panels for _ in panel.runs)
    of_task = Counter((panel.group.setting.distance, panel.task) for panel in panels for _ in panel.runs)

    def place(panel: Panel) -> tuple:
        distance = panel.group.setting.distance
        task = panel.task != FIRST_TASK, -of_task[distance, panel.task], panel.task
        return distance[0], -at_distance[distance], task, -len(panel.runs), panel.title, panel.run.id

    return sorted(panels, key=place)


def variants_of(panels: Iterable[Panel]) -> list[Variant]:
    """List all variants in a figure."""
    return list(dict.fromkeys(variant for panel in panels for variant in panel.cells))


def run_ids(panels: Iterable[Panel], *, tried: bool = False) -> frozenset[str]:
    """Return the ids of the runs in a figure: of the chosen learning rates, or of all that were ``tried``."""
    cells = [cell for panel in panels for cell in panel.cells.values()]
    return frozenset(run.id for cell in cells for run in (cell.tried if tried else cell.runs))


def has_epochs(cell: Cell) -> bool:
    """Whether every run recorded the scores of its epochs."""
    return all(run.scores.epochs for run in cell.runs)


def sources(panels: Sequence[Panel]) -> list[str]:
    """Write one sentence per panel: its setting, device, rows and seeds, and any note on its data."""
    lines = []
    for number, panel in enumerate(panels):
        have, note = panel.run.data.rows, data_note(panel.run)
        held_out = f", {thousands(have.held_out)} held out of train" if have.held_out else ""
        seeds = {len(cell.runs) for cell in panel.cells.values()}
        train, dev = f"{thousands(have.train)} train", f"{thousands(have.validation)} dev"
        counts = f"{train} and {dev}" if have.test is None else f"{train}, {dev} and {thousands(have.test)} test"
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
