"""Describe in words what the runs of one setting share, and what a reader must know about them."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from rosa_bench.records.parts.mappings import Weights
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.grid import Grid
from rosa_bench.report.cells.selection.select import Cell, Group
from rosa_bench.report.cells.settings import Deviation, words
from rosa_bench.report.cells.words.facts import fact, scored_on_test
from rosa_bench.report.published import PublishedTable
from rosa_bench.report.writers.text import span, thousands

# Keyed by ``scores.selected_on``; {what} is replaced by what was chosen, {metric} by the metric that chose it.
SELECTION = {
    "held_out": "{what} by rows held out of train; dev is scored once, at the end",
    "validation_split": "{what} by perplexity on the validation split; test is scored once, at the end",
    "validation": "{what} by dev itself, as in the paper, so the scores are optimistic",
    "train": "{what} by the {metric} on the train rows, which are what is memorised",
}
LONGEST_NOTE = 500  # characters of what a record says about its data
# Marks on figures whose learning rate is in doubt, and the notes that explain them.
AT_AN_END, UNSETTLED = "‡", "§"
END_NOTE = f"{AT_AN_END} the smallest, the largest or the only learning rate tried, so a better one may lie beyond"
UNSETTLED_NOTE = f"{UNSETTLED} these other learning rates may be better; they are ahead on shared seeds or over all: "


def lr_marks(*, at_an_end: bool, unsettled: bool) -> str:
    """Return the marks on a figure: whether its learning rate is `AT_AN_END` of those tried, or `UNSETTLED`."""
    return f"{AT_AN_END if at_an_end else ''}{UNSETTLED if unsettled else ''}"


def lr_text(cell: Cell) -> str:
    """Return the chosen learning rate, marked if it is at an end of those tried."""
    return f"{cell.lr:g}{lr_marks(at_an_end=cell.at_an_end, unsettled=False)}"


def lr_notes(*, at_an_end: bool, unsettled: str) -> list[str]:
    """Explain the `lr_marks` of a section. ``unsettled`` lists the learning rates that may be better, if any."""
    return [*([END_NOTE] if at_an_end else []), *([f"{UNSETTLED_NOTE}{unsettled}"] if unsettled else [])]


def heading(group: Group, *, device: bool = True) -> str:
    """Name a setting, with the type of its device and the precision unless ``device`` is False."""
    setting = group.setting
    title = group.runs[0].settings.model.title
    changes = [change.text for change in setting.deviations]
    where = [f"{setting.device} {setting.precision}"] if device else []
    return ", ".join([title, f"protocol {setting.protocol}", *where, *changes])


def header(grid: Grid, published: PublishedTable) -> dict[str, str]:
    """Build the header above a setting's table: name -> text."""
    group = grid.group
    known = {
        **setting_words(group, group.runs),
        "Metric": _metrics(grid),
        "Rows": _rows(grid),
        "Selection": selection_words(list(group.cells.values())),
        "Seeds": seeds_words(list(group.cells.values())),
    }
    if tried := _tuning(grid):
        known["Tuning"] = tried
    if grid.printed:
        known["Paper"] = f"{published.source}: {published.model}, single runs"
    return known


def setting_words(group: Group, runs: Sequence[RunRecord]) -> dict[str, str]:
    """Describe what all of these runs of a group share: model, protocol, deviations from it, and device."""
    protocol = runs[0].settings.protocol
    return {
        "Model": model_words(runs[0]),
        "Protocol": f"{protocol.name}: {protocol.title}",
        "Changed": "; ".join(map(changed_words, group.setting.deviations)) or "nothing",
        "Device": device_words(runs),
    }


def model_words(run: RunRecord) -> str:
    """Describe a run's model: its title, any note about it, and the source of its weights."""
    model = run.settings.model
    note = model.note or ""
    said = f" ({note})" if note not in model.title else ""
    return f"{model.title}{said}; weights from {_weights(run.model)}"


def device_words(runs: Sequence[RunRecord]) -> str:
    """List the devices that the runs of one setting used: ``cuda (NVIDIA H100 80GB HBM3), bfloat16``."""
    names = sorted({run.device.name for run in runs})
    return f"{runs[0].device.type} ({', '.join(names)}), {runs[0].device.precision}"


def data_note(run: RunRecord) -> str | None:
    """Say that a run's data is synthetic, custom, the user's own, or a subset; None if none of these."""
    task, have, official = run.settings.task, run.data.rows, run.data.official_rows
    said = ["synthetic, made by a program"] if run.data.synthetic else []
    if run.has_custom_rows:
        said.append(f"custom rows, not the published ones{', a subset of them' if run.data.subset else ''}")
    elif run.data.subset:
        counts = {
            "train": (have.train + have.held_out, official.get(task.train)),
            "dev": (have.validation, official.get(task.validation)),
            **({} if have.test is None else {"test": (have.test, official.get(task.test or ""))}),
        }
        partial = [
            f"{thousands(count)} of {thousands(whole)} official {split} rows"
            for split, (count, whole) in counts.items()
            if whole and count < whole
        ]
        said.append(f"a subset, {', '.join(partial) or 'by limit_train or limit_eval'}")
    if isinstance(note := run.data.facts.get("note"), str):
        said.append(note[:LONGEST_NOTE])
    return "; ".join(said) or None


def numbered_notes(tasks: Mapping[str, RunRecord], titles: Mapping[str, str]) -> tuple[dict[str, int], list[str]]:
    """Number the tasks whose data needs a note, and write the notes. ``tasks`` maps each task to any one of its runs.

    Returns the number for each such task's column heading, and the notes.
    """
    said = {task: note for task, run in tasks.items() if (note := data_note(run))}
    numbers = {task: number for number, task in enumerate(said, start=1)}
    return numbers, [f"{numbers[task]} {titles[task]}: {note}" for task, note in said.items()]


def modified_notes(runs: Collection[RunRecord]) -> list[str]:
    """Say how many of these runs were made from a modified working tree; empty if none."""
    modified = sum(run.git.dirty is True for run in runs)
    return (
        [f"modified code: {modified} of {len(runs)} runs, whose working tree had uncommitted changes"]
        if modified
        else []
    )


def _weights(weights: Weights) -> str:
    """Name the source of the weights and what pins them, briefly."""
    if weights.requirements:
        first, *more = weights.requirements
        return f"{weights.source} {first}{f' and {len(more)} more' if more else ''}"
    if weights.id is not None:
        return f"{weights.source} {weights.id} ({weights.commit[:12]})"
    if weights.sha256:
        return f"{weights.source} sha256 {weights.sha256[:12]}"
    return f"a {weights.source} draw"


def changed_words(change: Deviation) -> str:
    """Describe a deviation: its value and the protocol's."""
    return f"{change.text} (protocol: {words(change.expected)})"


def _metrics(grid: Grid) -> str:
    """``accuracy: MRPC, QNLI; pearson: STS-B``."""
    titles: dict[str, list[str]] = defaultdict(list)
    for task, run in grid.filled.items():
        titles[run.scores.reported.replace("_", " ")].append(grid.tasks[task])
    return "; ".join(f"{metric}: {', '.join(tasks)}" for metric, tasks in titles.items())


def _rows(grid: Grid) -> str:
    """``train + held out / dev, files: CoLA 7,696 + 855 / 1,043; ...``."""
    runs = grid.filled
    sources = " and ".join(sorted({run.data.source.partition(" ")[0] for run in runs.values()}))
    counts = []
    for task, run in runs.items():
        have = run.data.rows
        train = [thousands(have.train), *([thousands(have.held_out)] if have.held_out else [])]
        others = [thousands(have.validation), *([] if have.test is None else [thousands(have.test)])]
        counts.append(f"{grid.tasks[task]} {' / '.join([' + '.join(train), *others])}")
    held_out = " + held out" if any(run.data.rows.held_out for run in runs.values()) else ""
    test = " / test" if any(map(scored_on_test, runs.values())) else ""
    return f"train{held_out} / dev{test}, {sources}: {'; '.join(counts)}"


def selection_words(cells: list[Cell]) -> str:
    """Say by which rows the epoch and the learning rate were chosen."""
    counts = {len(cell.by_lr) for cell in cells}
    unequal = " (not the same number in every cell)" if len(counts) > 1 else ""
    runs = [run for cell in cells for run in cell.runs]
    epoch = "epoch" if fact(runs[0], "parts") is None else "last epoch"  # of parts, no other is the end
    many = f"{epoch} and the best of {span(counts)} learning rates{unequal}"
    what = f"{epoch} (one learning rate was tried)" if counts == {1} else many
    kinds = sorted({(run.scores.selected_on, run.scores.selected_by.name) for run in runs})
    said = [SELECTION[rows].format(what=what, metric=metric.replace("_", " ")) for rows, metric in kinds]
    return "; ".join(dict.fromkeys(said))


def _tuning(grid: Grid) -> str | None:
    """Say how many configurations were tried for each variant, or None if all had the same number."""
    tried: dict[str, list[str]] = defaultdict(list)
    for variant in grid.variants:
        if counts := {len(cell.tried) for task in grid.tasks if (cell := grid.cell(variant, task))}:
            tried[span(counts)].append(grid.label(variant))
    if len(tried) < 2:
        return None
    said = "; ".join(f"{count} for {', '.join(labels)}" for count, labels in tried.items())
    return f"learning rates x seeds tried, not the same for all: {said}"


def seeds_words(cells: list[Cell]) -> str:
    """Say how many seeds the cells have."""
    counts = {len(cell.runs) for cell in cells}
    if counts == {1}:
        return "1, so there is no measure of chance"
    return f"{span(counts)}, in brackets in each cell" if len(counts) > 1 else str(*counts)
