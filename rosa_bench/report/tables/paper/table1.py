"""Table 1: time of an epoch of CoLA padded to 512, and of ROSA's factorisation, by setting and device."""

import statistics
from collections import defaultdict
from collections.abc import Iterable

from rosa_bench.methods.base import RunLength
from rosa_bench.methods.resampled import resample_period
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.cells.settings import Variant, variant_of
from rosa_bench.report.cells.words.header import heading
from rosa_bench.report.published import PublishedTable, load_published
from rosa_bench.report.tables.building.table import Column, Entry, Line, Section, Table
from rosa_bench.report.writers.tidy_csv import csv_text

TASK, BATCH_SIZE, LENGTH = "cola", 32, 512
INTRO = [
    "Each cell: ours / the paper's, in seconds. Ours is the mean over runs ± the sample standard deviation (number of "
    "runs). An epoch is training without evaluation, plus one factorisation if the method has any.",
    f"Only runs with batches of {BATCH_SIZE} sequences padded to {LENGTH} (pad_to_max=true) are shown. Other runs pad "
    "each batch to its longest sequence and take far less time, because CoLA's sentences are short.",
    "The devices differ, so only the order of rows can be compared with the paper's.",
]


def build(groups: list[Group]) -> Table:
    """Build the table: the paper's methods first, then every other method timed in the same way."""
    published = load_published("table1")
    timed: dict[tuple[int, str], list[RunRecord]] = defaultdict(list)  # never mix times of two devices
    for number, group in enumerate(groups):
        for run in group.runs:
            if is_timed(run):
                timed[number, run.device.name].append(run)
    sections = [_section(groups[number], runs, published) for (number, _), runs in sorted(timed.items())]
    tidy = [row for (number, _), runs in sorted(timed.items()) for row in _tidy(groups[number], runs)]
    return Table(
        name="table1",
        title=f"{published.source.rpartition(', ')[2]}: {published.title}",
        intro=[*INTRO, f"The paper's table: {published.metric}; {'; '.join(published.notes)}."],
        sections=sections,
        tidy=tidy,
    )


def is_timed(run: RunRecord) -> bool:
    """Whether a run trained on what the paper timed: CoLA in batches of 32 sequences, all padded to 512.

    In records older than ``pad_to_max``, each batch was padded to its own longest sequence.
    """
    settings = run.settings
    alone = not run.packed and run.time_s.train is not None
    shape = (settings.task.name, settings.batch_size, settings.max_length)
    return shape == (TASK, BATCH_SIZE, LENGTH) and settings.pad_to_max and alone


def factorize_time_s(run: RunRecord) -> float | None:
    """Return the seconds per factorisation, including the optimizer's reset; None if the run made none."""
    count, total = resamples(run), run.time_s.resample
    return total / count if count and total is not None else None


def resamples(run: RunRecord) -> int:
    """Return how many resamples a run made, not counting the subspace drawn before training.

    Records older than this count derive it from ROSA's period.
    """
    if run.resamples is not None:
        return run.resamples
    settings, method = run.settings, run.settings.method
    length = RunLength(-(-run.data.rows.train // settings.batch_size), settings.epochs)
    period = resample_period(method.resample_every or 0, method.resample_unit or "epochs", length)
    return 0 if period is None else (length.total_steps - 1) // period


def epoch_time_s(run: RunRecord) -> float:
    """Return the training seconds of one epoch with one factorisation, whatever the run's resampling period."""
    epochs = run.stopped.epoch if run.stopped else run.settings.epochs
    return (run.time_s.train or 0) / epochs + (factorize_time_s(run) or 0)


def _by_variant(runs: Iterable[RunRecord]) -> dict[Variant, list[RunRecord]]:
    found: dict[Variant, list[RunRecord]] = defaultdict(list)
    for run in runs:
        found[variant_of(run)].append(run)
    return found


def _section(group: Group, runs: list[RunRecord], published: PublishedTable) -> Section:
    ours = _by_variant(runs)
    paper_rows = [] if group.setting.has_custom_rows else published.rows
    methods = [row.method for row in paper_rows]
    lines = []
    for row in paper_rows:
        same = {variant: some for variant, some in ours.items() if variant.method == row.method}
        figures = {key: None if figure == "-" else figure for key, figure in row.figures.items()}
        lines += [_line(variant.label, some, figures) for variant, some in same.items()] or [
            _line(row.title, [], figures)
        ]
    lines += [_line(variant.label, some, {}) for variant, some in ours.items() if variant.method not in methods]
    return Section(
        heading=f"{heading(group)}, {runs[0].device.name}",
        header=_header(group, runs[0], published),
        columns=[Column(title=title, paper=True) for title in published.columns.values()],
        lines=lines,
        notes=_shared(runs),
    )


def _shared(runs: list[RunRecord]) -> list[str]:
    """Say that some of these runs shared their GPU, as far as the records know."""
    shared = sum((run.device.shared_by or 1) > 1 for run in runs)
    return [f"the GPU was shared in {shared} of {len(runs)} runs, so times are too long"] if shared else []


def _header(group: Group, run: RunRecord, published: PublishedTable) -> dict[str, str]:
    model, rows = run.settings.model, run.data.rows.train
    return {
        "Model": model.title + (f" ({model.note})" if model.note else ""),
        "Device": f"{run.device.name}, {run.device.precision}",
        "Epoch": f"{rows:,} train rows in batches of {BATCH_SIZE}, padded to {LENGTH}",
        "Changed": "; ".join(change.text for change in group.setting.deviations) or "nothing",
        **({} if group.setting.has_custom_rows else {"Paper": f"{published.source}: {published.model}"}),
    }


def _line(label: str, runs: list[RunRecord], paper: dict[str, str | None]) -> Line:
    factorize = [seconds for run in runs if (seconds := factorize_time_s(run)) is not None]
    return Line(
        label=label,
        entries=[
            _entry(factorize, paper.get("factorize_time_s")),
            _entry([epoch_time_s(run) for run in runs], paper.get("epoch_time_s")),
        ],
    )


def _entry(seconds: list[float], paper: str | None) -> Entry:
    if not seconds:
        return Entry(paper=paper)
    mean = statistics.fmean(seconds)
    digits = 3 if mean < 1 else 2 if mean < 100 else 1
    spread = f"{statistics.stdev(seconds):.{digits}f}" if len(seconds) > 1 else None
    return Entry(mean=f"{mean:.{digits}f}", spread=spread, count=len(seconds), paper=paper)


def _tidy(group: Group, runs: list[RunRecord]) -> list[dict[str, str]]:
    """Return one row per run."""
    return [
        {
            "run": run.id,
            "model": group.setting.model,
            "protocol": group.setting.protocol,
            "device": run.device.name,
            "precision": run.device.precision,
            "method": variant.method,
            "rank": csv_text(variant.rank),
            "epochs": str(run.settings.epochs),
            "resamples": str(resamples(run)),
            "factorize_time_s": csv_text(factorize_time_s(run), "{:.4f}"),
            "epoch_time_s": f"{epoch_time_s(run):.4f}",
        }
        for variant, some in _by_variant(runs).items()
        for run in some
    ]
