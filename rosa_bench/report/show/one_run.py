"""Everything that a record says about its run, in blocks of named lines."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rosa_bench.records.predictions import read
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.settings import Deviation, frozen, setting_of, variant_of, words
from rosa_bench.report.cells.statistics import CONFIDENCE, Interval, interval, wilson
from rosa_bench.report.cells.words.facts import best_of_rank
from rosa_bench.report.cells.words.header import changed_words, data_note, model_words
from rosa_bench.report.cells.words.shown import (
    SCORES,
    SELECTED_ON,
    metric,
    reported_rows,
    scale,
    selection_rows,
    selection_scale,
)
from rosa_bench.report.writers.text import MIB, UNDEFINED, parameters, thousands
from rosa_bench.system.errors import UserError

OURS = ("python", "rosa-bench", "torch", "transformers")  # versions that are shown first
HASH = 12  # characters of a hash that are shown


class Block(NamedTuple):
    """Lines with a name each, under a title. A name may be empty."""

    title: str
    lines: list[tuple[str, str]]


def blocks(run: RunRecord, path: Path) -> list[Block]:
    """Return what a terminal shows of a run. ``path`` is its record's; its predictions are read from beside it."""
    found = [
        Block("Settings", list(_settings(run))),
        Block(f"Scores: {metric(run)}{_unit(run)}", list(_scores(run, path))),
        Block("Cost", list(_cost(run))),
        Block("Provenance", list(_provenance(run))),
    ]
    return [block for block in found if block.lines]


def state(run: RunRecord) -> str:
    """Say how a run ended and when it started: ``completed; started 2026-11-28 09:50 UTC``."""
    started = run.started_at[:16].replace("T", " ")
    zone = " UTC" if run.started_at.endswith(("Z", "+00:00")) else ""
    return f"{run.status}{f': {run.error}' if run.error else ''}; started {started}{zone}"


def _settings(run: RunRecord) -> Iterator[tuple[str, str]]:
    settings = run.settings
    yield "task", f"{settings.task.name} ({settings.task.title})"
    yield "model", f"{settings.model.name} ({model_words(run)})"
    yield "method", f"{settings.method.name} ({variant_of(run).label})"
    yield "protocol", f"{settings.protocol.name} ({settings.protocol.title})"
    yield "recipe", f"lr={settings.lr:g} seed={settings.seed} epochs={settings.epochs} batch_size={settings.batch_size}"
    changes: list[Deviation] = [*setting_of(run).deviations, *variant_of(run).changes]
    for number, change in enumerate(changes):
        yield "" if number else "deviates", changed_words(change)
    if not changes:
        yield "deviates", "in nothing from its protocol"


def _unit(run: RunRecord) -> str:
    return ", lower is better" if run.scores.lower_is_better else " x 100"


def _scores(run: RunRecord, path: Path) -> Iterator[tuple[str, str]]:
    scores = run.scores
    turn, count = ("candidate", len(run.candidates)) if run.candidates else ("epoch", run.settings.epochs)
    for name, result in (("selected", run.selected), ("last", run.last)):
        if scores.reported in result:
            found = _with_interval(run, result[scores.reported])
            yield name, f"{found} on {reported_rows(run)}, {turn} {result.epoch} of {count}"
    if (how := _interval(run, run.selected.get(scores.reported))) is not None:
        yield "", f"in brackets: {CONFIDENCE:.0%} interval over {thousands(run.data.rows.reported)} rows, {how.method}"
    if run.status == "completed" and (bound := best_of_rank([run])) is not None:
        yield "best of rank", f"{bound:.4g}, which no single update of that rank is below"
    if run.selected_candidate:
        yield "chosen", run.selected_candidate
    if run.selected:
        by = scores.selected_by
        found = _number(selection_scale(run).scaled(run.selection_score))
        where = SELECTED_ON.get(scores.selected_on, selection_rows(run))
        yield "selected by", f"{by.name.replace('_', ' ')} on {where}, {found}"
    others = {name: score for name, score in run.selected.items() if name not in ("epoch", scores.reported)}
    if others:
        yield "as recorded", ", ".join(f"{name} {_number(score)}" for name, score in others.items())
    yield from _by_row(run, path)
    if run.forgetting:
        found = run.forgetting
        losses = " -> ".join(_number(loss) for loss in (found.before, found.selected))
        yield "forgetting", f"loss on {found.task} {losses}"
    if run.stopped:
        yield "stopped", f"after epoch {run.stopped.epoch}: {run.stopped.reason}"
    if run.has_collapsed and not run.candidates:
        yield "collapsed", "the last epoch's model predicts nearly the same for all rows"


def _with_interval(run: RunRecord, score: float | None) -> str:
    """Return a score with its interval over rows, if its metric has one: ``81.2 [79.8, 82.6]``."""
    if score is None or not math.isfinite(score):
        return UNDEFINED
    return scale(run).text(score, _interval(run, score))


def _interval(run: RunRecord, score: float | None) -> Interval | None:
    return None if score is None else interval([score], metric=run.scores.reported, dev_rows=run.data.rows.reported)


def _by_row(run: RunRecord, path: Path) -> Iterator[tuple[str, str]]:
    """Yield how many rows the stored classes are right on, with Wilson's interval."""
    if not (name := run.scores.predictions) or not (file := path.with_name(name)).is_file():
        return
    try:
        found = read(file)
    except UserError as error:
        yield "by row", str(error)
        return
    if found.percent:
        count = len(found.labels)
        right = sum(label == predicted for label, predicted in zip(found.labels, found.predictions, strict=True))
        shown = SCORES.text(right / count, wilson(right / count, count))
        yield "by row", f"right on {thousands(right)} of {thousands(count)} rows, {shown} %"


def _cost(run: RunRecord) -> Iterator[tuple[str, str]]:
    trained, total, saved = run.parameters.trainable, run.parameters.total, run.parameters.saved_bytes
    if trained is not None:
        stored = "" if saved is None else f", {saved / MIB:,.2f} MiB to store"
        yield "trained", f"{parameters(trained)} of {parameters(total or trained)} parameters{stored}"
    if run.resamples:
        yield "resamples", thousands(run.resamples)
    if run.time_s.total is not None:
        phases = [f"{phase} {time:,.1f}" for phase, time in run.time_s.items() if phase != "total"]
        yield "time, s", f"{run.time_s.total:,.1f} ({', '.join(phases)})"
    if run.packed:
        yield "packed", f"{run.packed} runs in one pass; time and peak are of all of them"
    if run.memory_bytes:
        peaks = ", ".join(f"{phase} {count / MIB:,.0f}" for phase, count in run.memory_bytes.items())
        yield "peak, MiB", peaks


def _provenance(run: RunRecord) -> Iterator[tuple[str, str]]:
    have = run.data.rows
    counts = ", ".join(
        f"{thousands(count)} {split.replace('_', ' ')}" for split, count in have.by_split.items() if count
    )
    yield "data", f"{run.data.source}; {counts} rows"
    if note := data_note(run):
        yield "", note
    yield (
        "",
        f"fingerprint {run.data.fingerprint[:HASH]}{f', commit {run.data.commit[:HASH]}' if run.data.commit else ''}",
    )
    device = run.device
    several = f", CPU threads: {device.threads}" if device.threads else ""
    shared = f", shared by {device.shared_by} runs" if (device.shared_by or 1) > 1 else ""
    yield "device", f"{device.type} ({device.name}), {device.precision}{several}{shared}"
    if run.git.commit:
        yield "commit", f"{run.git.commit[:HASH]}{', with changes' if run.git.dirty else ''}"
    ordered = sorted(run.versions, key=lambda name: (OURS.index(name) if name in OURS else len(OURS), name))
    if ordered:
        yield "versions", ", ".join(f"{name} {run.versions[name]}" for name in ordered)


def _number(score: float | None) -> str:
    """Format a score that may be undefined with four digits."""
    return UNDEFINED if score is None or not math.isfinite(score) else words(frozen(float(f"{score:.4g}")))
