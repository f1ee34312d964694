"""Not in the paper: every method's score over tasks beside what it costs, and PEFT's published order of the same."""

from collections.abc import Callable, Iterable, Mapping

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.agreement import agreement, best_of_methods
from rosa_bench.report.cells.costs import step_time_s
from rosa_bench.report.cells.differences import FEW_SEEDS_NOTE, Difference, holm, survives
from rosa_bench.report.cells.methods import MethodComparison, MethodRow
from rosa_bench.report.cells.selection.comparable import method_comparisons
from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.cells.words.header import (
    changed_words,
    data_note,
    heading,
    lr_marks,
    lr_notes,
    selection_words,
    setting_words,
)
from rosa_bench.report.cells.words.shown import Scale
from rosa_bench.report.published import PublishedTable, load_published
from rosa_bench.report.tables.building.table import Column, Entry, Line, Section, Table
from rosa_bench.report.writers.text import MIB, parameters, span, thousands
from rosa_bench.report.writers.tidy_csv import csv_text

PUBLISHED = "peft_method_comparison"
INTRO = [
    "Score: the mean over tasks, times 100, each method at its best learning rate on each task by the median over "
    "seeds. Intervals are 95 % over seeds; tasks are fixed strata with independent seeds (Satterthwaite's degrees of "
    "freedom). One seed has no interval.",
    "Less LoRA: the difference from LoRA, paired over seeds; * and bold: significant at 5 % after Holm's correction "
    "over all differences of its table.",
    "Peak memory: in training, of this process alone, on one kind of device; the mean over tasks and learning rates. "
    "Time: of a step with its share of resamples, divided by LoRA's in runs with the same device, number of runs that "
    "share it, code and torch; the geometric mean over tasks. Saved: the tensors that training can change, which must "
    "be stored beside the base model. –: not recorded, or nothing to compare with.",
]
LOSSES = (
    "A loss or perplexity of references is as it is, not times 100: nats per token, or their exponential. Lower is "
    "better, so a difference from LoRA below 0 is better, and orders have the lowest first."
)
TITLES = (
    "Less LoRA",
    "Trained",
    "Peak memory, MiB",
    "Time / LoRA's",
    "Saved, MiB",
    "Collapsed",
    "Seeds",
    "PEFT's",
)


def build(groups: list[Group]) -> Table:
    """Build the table: one section per comparison of methods, the best method first.

    Methods that were run with seeds that most lack are compared on these in a section of their own, right after.
    """
    published = load_published(PUBLISHED)
    found = [one for main in method_comparisons(groups) for one in (main, main.others) if one]
    return Table(
        name="methods",
        title="Methods",
        intro=[*INTRO, *([LOSSES] if any(one.scale.lower_is_better for one in found) else []), _about(published)],
        sections=[_section(one, published) for one in found],
        tidy=[line for number, one in enumerate(found, start=1) for line in _tidy(number, one, published)],
        legend="mean over tasks [95 % interval]",
    )


def _about(published: PublishedTable) -> str:
    return (
        f"PEFT's: {published.metric} ({published.source}), with {published.model}; {'; '.join(published.notes)}. Task, "
        "model and rates differ from ours, so only the orders are compared: Kendall's tau-b is 1 if they are the same, "
        "and 0 if they have nothing in common."
    )


def _section(one: MethodComparison, published: PublishedTable) -> Section:
    theirs = best_of_methods(published, "accuracy")
    adjusted = holm([row.against_lora.p if row.against_lora else None for row in one.rows])
    return Section(
        heading=f"{', '.join(one.titles().values())}: {heading(one.group)}{', other seeds' if one.follows else ''}",
        header=_header(one, theirs),
        columns=[Column(title=title) for title in (one.score_name.capitalize(), *TITLES)],
        lines=[
            Line(label=row.name, entries=_entries(row, p, theirs.get(row.variant.method, {}), one.scale))
            for row, p in zip(one.rows, adjusted, strict=True)
        ],
        notes=_notes(one, [row.against_lora for row, p in zip(one.rows, adjusted, strict=True) if survives(p)]),
    )


def _header(one: MethodComparison, theirs: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    cells = [cell for row in one.rows for cell in row.cells.values()]
    setting = setting_words(one.group, one.runs)
    known = {
        "Tasks": "; ".join(_task(run) for run in map(one.group.tasks.__getitem__, one.tasks)),
        **setting,
        "Device": f"{setting['Device']}; memory from {', '.join(sorted({run.device.name for run in one.measured}))}",
        "Seeds": ", ".join(map(str, one.seeds)),
        "Selection": selection_words(cells),
        "Runs": f"{len(one.rows)} methods, {thousands(len(one.runs))} runs of {thousands(len(one.tried))} tried",
    }
    if one.rank is not None:
        known["Rank"] = f"{one.rank} where a method has one"
    ours, merit = {row.variant.method: row for row in one.rows}, one.scale.merit
    accuracy, memory = (
        {name: float(figures[key]) for name, figures in theirs.items()} for key in ("accuracy", "memory")
    )
    untuned = {name: merit(score) for name, score in _known(ours, lambda row: row.untuned).items()}
    orders = {
        one.score_name: agreement({name: merit(row.score.mean) for name, row in ours.items()}, accuracy),
        f"{one.score_name} at each method's default rate": agreement(untuned, accuracy),
        "peak memory": agreement(_known(ours, lambda row: row.memory_bytes), memory),
    }
    if said := [f"by {name} {found.text}" for name, found in orders.items() if found]:
        known["Order of methods, ours and PEFT's"] = f"Kendall's {', '.join(said)}"
    return known


def _known(ours: Mapping[str, MethodRow], value: Callable[[MethodRow], float | None]) -> dict[str, float]:
    return {name: found for name, row in ours.items() if (found := value(row)) is not None}


def _task(run: RunRecord) -> str:
    """``CoLA (matthews correlation; 7,696 train rows)``."""
    task, note = run.settings.task, data_note(run)
    metric, count = run.scores.reported.replace("_", " "), thousands(run.data.rows.train)
    return f"{task.title} ({metric}; {count} train rows{f'; {note}' if note else ''})"


def _entries(row: MethodRow, p: float | None, theirs: Mapping[str, str], scale: Scale) -> list[Entry]:
    cells, score, lead = row.cells.values(), row.score, row.against_lora
    mark = lr_marks(
        at_an_end=any(cell.at_an_end for cell in cells), unsettled=any(cell.runner_up is not None for cell in cells)
    )
    difference = None if lead is None else scale.signed(lead.mean, lead)
    return [
        Entry(mean=scale.text(score.mean, score), mark=mark),
        Entry(mean=difference and f"{difference}{'*' if survives(p) else ''}", best=survives(p)),
        Entry(mean=parameters(row.trainable)),
        Entry(mean=None if row.memory_bytes is None else f"{row.memory_bytes / MIB:,.0f}"),
        Entry(mean=None if row.time_ratio is None else f"{row.time_ratio:.2f}"),
        Entry(mean=None if row.saved_bytes is None else f"{row.saved_bytes / MIB:,.2f}"),
        Entry(mean=f"{row.collapsed} of {len(row.runs)}"),
        Entry(mean=span(row.score.seeds)),
        Entry(mean=theirs.get("accuracy")),
    ]


def _notes(one: MethodComparison, significant: Iterable[Difference | None]) -> list[str]:
    at_an_end = any(cell.at_an_end for row in one.rows for cell in row.cells.values())
    timed = [run for run in one.tried if step_time_s(run) is not None]
    shared = [count for run in timed if (count := run.device.shared_by or 1) > 1]
    unsettled = "; ".join(
        f"{row.name} {cell.runner_up:g} on {title}"
        for row in one.rows
        for cell, title in zip(row.cells.values(), one.titles().values(), strict=True)
        if cell.runner_up is not None
    )
    return [
        *lr_notes(at_an_end=at_an_end, unsettled=unsettled),
        *([FEW_SEEDS_NOTE] if any(found and found.has_few_seeds for found in significant) else []),
        *(
            [f"times are rough: up to {max(shared)} runs shared a GPU, in {len(shared)} of {len(timed)} timed runs"]
            if shared else []
        ),
        *([one.spare_note] if one.spare_note else []),
        *(f"{name} is left out: {why}" for name, why in one.left_out.items()),
    ]  # fmt: skip


def _tidy(number: int, one: MethodComparison, published: PublishedTable) -> list[dict[str, str]]:
    """Return one row per method, with scores times 100; a loss or perplexity is as it is, in columns of its own."""
    theirs = best_of_methods(published, "accuracy")
    return [
        {
            "setting": str(number),
            "model": one.group.setting.model,
            "protocol": one.group.setting.protocol,
            "deviations": "; ".join(map(changed_words, one.group.setting.deviations)),
            "tasks": " ".join(one.tasks),
            "method": row.variant.method,
            "rank": csv_text(row.variant.rank),
            "variant": row.variant.label,
            **_scores("score", row.score, one.scale),
            **_scores("less_lora", row.against_lora, one.scale),
            "trainable_parameters": str(row.trainable),
            "peak_memory_bytes": csv_text(row.memory_bytes, "{:.0f}"),
            "memory_device": one.measured[0].device.name if one.measured else "",
            "time_ratio": csv_text(row.time_ratio, "{:.4f}"),
            "saved_bytes": csv_text(row.saved_bytes, "{:.0f}"),
            "collapsed": str(row.collapsed),
            "seeds": " ".join(map(str, row.score.seeds)),
            "lrs": " ".join(f"{cell.lr:g}" for cell in row.cells.values()),
            "lrs_at_an_end": " ".join(task for task, cell in row.cells.items() if cell.at_an_end),
            "peft_accuracy_x100": theirs.get(row.variant.method, {}).get("accuracy", ""),
            "peft_memory_bytes": theirs.get(row.variant.method, {}).get("memory", ""),
            "runs": " ".join(run.id for run in row.runs),
            **({"metric": one.score_name} if one.scale.lower_is_better else {}),
        }
        for row in one.rows
    ]


def _scores(name: str, found: Difference | None, scale: Scale) -> dict[str, str]:
    ends = (None, None, None) if found is None else (found.mean, found.low, found.high)
    named = zip(("", "_low", "_high"), ends, strict=True)
    form = "{:.6f}" if scale.lower_is_better else "{:.4f}"
    return {scale.column(f"{name}{ending}"): csv_text(scale.scaled(end), form) for ending, end in named}
