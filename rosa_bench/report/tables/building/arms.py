"""Shared by the tables of memorisation and of language modelling: a section per setting and task, a row per arm."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import (
    CUT,
    INTERVALS,
    NO_INTERVAL,
    Estimate,
    Range,
    arm_labels,
    arms_of,
    common_words,
    estimate,
    one_run_each,
    over_seeds,
    sharing_words,
    text_of,
)
from rosa_bench.report.cells.selection.select import Cell, Group, open_ended
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.words.header import (
    changed_words,
    heading,
    lr_marks,
    lr_notes,
    selection_words,
    setting_words,
)
from rosa_bench.report.tables.building.by_lr import first_columns
from rosa_bench.report.tables.building.table import Column, Entry, Line, Section, Table
from rosa_bench.report.writers.text import MIB, MISSING, parameters, span
from rosa_bench.report.writers.tidy_csv import csv_text

HOW_TO_READ = (
    f"Each row is an arm at its best learning rate: means with {INTERVALS}; {NO_INTERVAL}. {CUT} "
    "–: not recorded. "
    "Peak memory: the greatest over steps and resamples, of this process alone, in MiB; the least to the greatest over "
    "runs if they differ by more than 5 %, as runs of different versions may."
)
ALIKE = 0.05  # relative difference of peak memory up to which a mean is printed


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A column of such a table, and its columns in the csv.

    key       stem of the csv's columns, which are in the unit of ``value``
    form      format of the mean and of the interval's ends
    times     factor in the table alone
    possible  the ends of the values that are possible, by which intervals are cut
    """

    title: str
    key: str
    value: Callable[[RunRecord], float | None]
    form: str = "{:.3g}"
    times: float = 1
    possible: Callable[[RunRecord], Range | None] = lambda _: None

    def over_seeds(self, cell: Cell) -> Estimate | None:
        """Return the mean over the runs of a cell, with its interval."""
        return over_seeds(cell, self.value, self.possible)


def score(
    title: str, key: str, *, possible: Callable[[RunRecord], Range], form: str = "{:#.4g}", times: float = 1
) -> Measure:
    """Return the column of the selected epoch's score that records have as ``key``."""
    return Measure(
        title=title, key=key, value=lambda run: run.selected.get(key), form=form, times=times, possible=possible
    )


def table_of_arms(
    groups: Iterable[Group],
    keep: Callable[[RunRecord], bool],
    measures: Sequence[Measure],
    facts: Callable[[RunRecord], Mapping[str, str]],
    *,
    name: str,
    title: str,
    intro: list[str],
) -> Table:
    """Build a table with one section per setting and task whose runs ``keep`` accepts.

    ``facts`` says what a section's header adds about the data of a run.
    """
    sections, tidy = [], []
    for group in groups:
        for task in group.tasks:
            cells = arms_of(group, task, keep)
            shown = [one for one in measures if any(one.over_seeds(cell) for cell in cells.values())]
            if cells and shown:
                sections.append(_section(group, cells, shown, facts))
                tidy += [
                    {**first_columns(len(sections), group, task, variant), **_tidy(group, cell, measures)}
                    for variant, cell in cells.items()
                ]
    return Table(
        name=name, title=title, intro=[*intro, HOW_TO_READ], sections=sections, tidy=tidy, legend=f"means, {INTERVALS}"
    )


def _section(
    group: Group,
    cells: dict[Variant, Cell],
    measures: Sequence[Measure],
    facts: Callable[[RunRecord], Mapping[str, str]],
) -> Section:
    runs = one_run_each(cells)
    first, labels, ends = next(iter(runs.values())), arm_labels(runs), open_ended(cells)
    titles = ["Trainable", *(measure.title for measure in measures), "Peak memory", "Resamples", "lr", "Seeds"]
    every_run = [run for cell in cells.values() for run in cell.runs]
    which = "; ".join(
        f"{labels[variant]} {cell.runner_up:g}" for variant, cell in cells.items() if cell.runner_up is not None
    )
    header = {
        "Task": first.settings.task.title,
        **facts(first),
        **setting_words(group, every_run),
        "Selection": selection_words(list(cells.values())),
    }
    if common := common_words(runs):
        header["In all arms of"] = common
    return Section(
        heading=f"{first.settings.task.title}: {heading(group)}",
        header=header,
        columns=[Column(title=title) for title in titles],
        head="Arm",
        lines=[
            Line(label=labels[variant], entries=_entries(cell, measures, at_an_end=variant in ends))
            for variant, cell in cells.items()
        ],
        notes=[
            *lr_notes(at_an_end=bool(ends), unsettled=which),
            *([shared] if (shared := sharing_words(every_run)) else []),
        ],
    )


def _entries(cell: Cell, measures: Sequence[Measure], *, at_an_end: bool) -> list[Entry]:
    mark = lr_marks(at_an_end=at_an_end, unsettled=cell.runner_up is not None)
    texts = [
        parameters(cell.trainable),
        *(text_of(one.over_seeds(cell), one.form, times=one.times) for one in measures),
        memory_words(cell),
        resample_words(cell),
    ]
    return [
        *(Entry(mean=None if text == MISSING else text) for text in texts),
        Entry(mean=f"{cell.lr:g}", mark=mark),
        Entry(mean=str(len(cell.runs))),
    ]


def memory_words(cell: Cell) -> str:
    """Return the peak memory of an arm's runs in MiB: their mean, or a range if they are not alike."""
    known = [run.memory_bytes.training / MIB for run in cell.runs if run.memory_bytes.training]
    if not known:
        return MISSING
    least, greatest = min(known), max(known)
    return f"{fmean(known):,.0f}" if greatest <= least * (1 + ALIKE) else f"{least:,.0f} to {greatest:,.0f}"


def resample_words(cell: Cell) -> str:
    """Return how many times each run resampled; a dash if a record does not say."""
    counts = [run.resamples for run in cell.runs if run.resamples is not None]
    return span(counts) if len(counts) == len(cell.runs) else MISSING


def _tidy(group: Group, cell: Cell, measures: Sequence[Measure]) -> dict[str, str]:
    memory = estimate(run.memory_bytes.training for run in cell.runs)
    return {
        "deviations": "; ".join(map(changed_words, group.setting.deviations)),
        "trainable_parameters": str(cell.trainable),
        "lr": f"{cell.lr:g}",
        "lrs_tried": str(len(cell.lrs)),
        "seeds": str(len(cell.runs)),
        **{
            f"{measure.key}{ending}": csv_text(value, "{:.6g}")
            for measure in measures
            for ending, value in _ends(measure.over_seeds(cell)).items()
        },
        "peak_memory_bytes": csv_text(None if memory is None else memory.mean, "{:.0f}"),
        "resamples": resample_words(cell).replace(MISSING, ""),
        "runs_per_gpu": " ".join(sorted({str(run.device.shared_by) for run in cell.runs if run.device.shared_by})),
        "runs": " ".join(run.id for run in cell.runs),
    }


def _ends(found: Estimate | None) -> dict[str, float | None]:
    """Return a mean and the ends of its interval, by what their columns' names end with."""
    if found is None:
        return dict.fromkeys(("", "_low", "_high"))
    return {"": found.mean, "_low": found.low, "_high": found.high}
