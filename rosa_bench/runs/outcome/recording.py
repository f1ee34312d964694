"""What a run leaves: its record, its tracker's curves, and lines in the log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch
from msgspec import convert, structs

from rosa_bench.config.identity.run_id import public_config
from rosa_bench.config.overrides.grammar import written
from rosa_bench.records.generations import save as save_generations
from rosa_bench.records.parts.conditions import Data, Device, Parameters
from rosa_bench.records.parts.mappings import PeakBytes, Seconds, Weights
from rosa_bench.records.parts.measured import EpochScores, Stopped
from rosa_bench.records.predictions import save as save_predictions
from rosa_bench.records.provenance import git_state, versions
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import save_record
from rosa_bench.runs.resolve import ResolvedRun
from rosa_bench.system import processes
from rosa_bench.system.errors import PausedError, UserError
from rosa_bench.system.resources.device import describe, sharers
from rosa_bench.system.resources.meter import Meter
from rosa_bench.tasks.prepared import PreparedTask, Result
from rosa_bench.trackers.base import Tracking, final_metrics
from rosa_bench.training.evaluation import by_row
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.state import Epoch, Training

log = logging.getLogger(__name__)


class Recording(Observer):
    """Writes epochs and the number of resamples to the record, and shows the epochs in the run's tracker."""

    def __init__(self, record: RunRecord, tracking: Tracking):
        self.record, self.tracking = record, tracking

    def on_epoch_end(self, training: Training, number: int, epoch: Epoch) -> None:  # noqa: ARG002 - a hook point
        scores = self.record.scores
        scores.epochs.append(EpochScores(**asdict(epoch)))
        if now := sharers(training.device):
            self.record.device.shared_by = max(now, self.record.device.shared_by or 0)
        epochs = [structs.asdict(one) for one in scores.epochs]
        steps = max(1, training.steps_per_epoch)  # a candidate of a method that trains nothing counts as one
        self.tracking.show_epochs(epochs, scored_on=scores.selected_on, steps_per_epoch=steps)

    def on_train_end(self, training: Training) -> None:
        self.record.resamples = training.resamples
        if (age := training.method.basis_age(training.step, training.length)) is not None:
            self.record.basis_age = age
        if training.stopped is not None:
            self.record.stopped = Stopped(epoch=len(training.history), reason=training.stopped)


def begin(resolved: ResolvedRun, problem: PreparedTask) -> RunRecord:
    """Return a record of everything known before training."""
    shared = {} if resolved.config.parallel == "none" else {"processes": processes.count()}
    libraries = ("bitsandbytes",) if resolved.config.quantises else ()
    return RunRecord(
        id=resolved.id,
        status="running",
        config=public_config(resolved.config),
        deviations=resolved.deviations,
        data=data_of(problem),
        model=Weights({"source": resolved.source.kind, **resolved.source.identity, "commit": problem.commit}),
        device=convert(
            {
                **describe(resolved.device),
                "shared_by": sharers(resolved.device),
                "precision": resolved.precision,
                **shared,
            },
            Device,
        ),
        versions=versions((*resolved.config.method.libraries, *libraries)),
        git=git_state(),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        parameters=Parameters(total=sum(p.numel() for p in problem.model.parameters())),
    )


def data_of(problem: PreparedTask) -> Data:
    """Return what the record says about the data. Facts without a field of their own go under ``facts``."""
    named = {name: value for name, value in problem.facts.items() if name in Data.__struct_fields__}
    others = {name: value for name, value in problem.facts.items() if name not in named}
    return convert({**asdict(problem.info), **named, "facts": others}, Data)


def save_rows(result: Result, record: RunRecord, resolved: ResolvedRun, problem: PreparedTask) -> None:
    """Save what the selected epoch's model gives for each reported row, and name the files in the record."""
    place, results_dir = resolved.record_path, resolved.results_dir
    if not processes.is_first():
        return
    if result.generations:
        record.scores.generations = save_generations(result.generations, place, results_dir).name
    if result.predictions is None or problem.reported is None:
        return
    epoch = record.selected.epoch
    assert epoch is not None
    if rows := by_row(result.predictions, run=record.id, epoch=epoch, rows=problem.reported):
        record.scores.predictions = save_predictions(rows, place, results_dir).name


@contextmanager
def recorded(record: RunRecord, meter: Meter, results_dir: Path) -> Iterator[None]:
    """Save the record when the block ends, however it ends. A user's mistake found inside leaves no record.

    A run without memory, or without a disk to write to, counts as interrupted, not failed: its method is not to
    blame, and it can continue when there is room.
    """
    paused = False

    def rescue(reason: str) -> None:
        record.status, record.error, record.time_s = "interrupted", reason, seconds(meter)
        if processes.is_first():
            _save(record, results_dir)

    try:
        with processes.rescued(rescue):
            yield
        record.status = "completed"
    except UserError:
        record.status = "refused"  # pyrefly: ignore[bad-assignment] - it is not saved
        raise
    except KeyboardInterrupt as error:
        record.status, record.error = "interrupted", str(error) or "stopped from the keyboard"
        paused = isinstance(error, PausedError)
        raise
    except torch.OutOfMemoryError as error:
        record.status, record.error = "interrupted", str(error).split(". ")[0]
        what = f"{record.id}: {record.error}; run fewer jobs at once or increase accumulate, then start it again"
        raise UserError(what) from error
    except (OSError, MemoryError) as error:
        record.status, record.error = "interrupted", described(error)
        raise UserError(f"{record.id}: {record.error}; the same command continues once that is mended") from error
    except Exception as error:
        record.status, record.error = "failed", f"{type(error).__name__}: {error}"
        raise
    finally:
        record.time_s = seconds(meter)
        record.memory_bytes = PeakBytes(meter.memory_bytes)
        if record.status != "refused" and processes.is_first():
            _save(record, results_dir, paused=paused)


def seconds(meter: Meter) -> Seconds:
    """Return the time of each phase so far, and their sum."""
    return Seconds({**meter.time_s, "total": sum(meter.time_s.values())})


def _save(record: RunRecord, results_dir: Path, *, paused: bool = False) -> None:
    """Save a record. If that fails, an incomplete run ends with its own error, and a completed one with `UserError`."""
    try:
        path = save_record(record, results_dir)
    except OSError as error:
        if record.status != "completed":
            log.warning("%s; this could not be recorded: %s", record.status, described(error))
            return
        record.status, record.error = "interrupted", described(error)
        raise UserError(
            f"{record.id} is trained, and its record could not be written: {record.error}; the same command continues "
            "once that is mended"
        ) from error
    if record.status != "completed" and not paused:
        log.error("%s; recorded in %s", record.status, path)


def described(error: OSError | MemoryError) -> str:
    """Return the path and the reason of a failed write, or that there is no memory left."""
    if isinstance(error, MemoryError):
        return "out of memory"
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


@contextmanager
def tracked(record: RunRecord, resolved: ResolvedRun, *, resuming: bool) -> Iterator[Tracking]:
    """Show the run in its logger, and report its final status there however it ends."""
    logger = resolved.config.logger
    tracking = Tracking(logger, run=record.id, settings=record.config, state_file=resolved.tracking, resuming=resuming)
    try:
        yield tracking
    finally:
        scores = {"selected": record.selected, "last": record.last}
        tracking.end(record.status, final_metrics(scores, record.time_s, record.memory_bytes))


def say_start(resolved: ResolvedRun, record: RunRecord) -> None:
    """Log one line about the run that is about to start, and its deviations from the protocol."""
    trained, total = record.parameters.trainable, record.parameters.total
    work = f"training {trained:,} of {total:,} parameters on {record.data.rows.train} rows"
    if record.candidates:
        work = f"training nothing, choosing among {len(record.candidates)} candidates"
    source = record.data.source.split(" ")[0]
    log.info("%s: %s (%s), %s in %s", resolved.id, work, source, resolved.device, resolved.precision)
    for key, (value, usual) in resolved.deviations.items():
        name = resolved.config.protocol.name
        log.info("  differs from protocol %s: %s=%s, not %s", name, key, written(value), written(usual))


def say_end(resolved: ResolvedRun, record: RunRecord) -> None:
    """Log one line with the scores and the path of the record."""
    scores, selected, last = record.scores, record.score, record.last_score
    shown = "%.3g" if scores.lower_is_better else "%.2f"
    times = 1 if scores.lower_is_better else 100  # fractions are shown times 100, errors as they are
    place, beside = f"at epoch {record.selected.epoch} of {record.last.epoch}", "last"
    if record.candidates:
        place = f"with {record.selected_candidate}, the best of {len(record.candidates)} candidates"
        beside = record.candidates[-1]
    log.info(
        f"%s {shown} %s (%s: {shown}), in %.1f s; %s",
        scores.reported, times * selected, place, beside, times * last, record.time_s.total, resolved.record_path,
    )  # fmt: skip
    if (forgetting := record.forgetting) is not None:
        log.info(
            "forgetting on %s: loss %.4g before, %.4g after (last: %.4g)",
            forgetting.task, forgetting.before, forgetting.selected, forgetting.last,
        )  # fmt: skip
    if record.stopped:
        log.warning(
            "stopped after epoch %d of %d: %s", record.stopped.epoch, resolved.config.epochs, record.stopped.reason
        )
    elif record.has_collapsed and not record.candidates:
        log.warning(
            "the last epoch's model gives the same answer for all rows; try a smaller learning rate or more steps"
        )
