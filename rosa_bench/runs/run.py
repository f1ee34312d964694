"""One run, from a checked configuration to a record."""

import copy
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch
from msgspec import convert, structs
from torch import Tensor
from transformers import PreTrainedModel

from rosa_bench.config.identity import public_config
from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.stacked import LARGEST, materialised
from rosa_bench.models.attention import without_cudnn_attention
from rosa_bench.records.generations import Generation
from rosa_bench.records.generations import save as save_generations
from rosa_bench.records.mappings import PeakBytes, Seconds, Weights
from rosa_bench.records.mappings import Result as RecordedResult
from rosa_bench.records.provenance import git_state, versions
from rosa_bench.records.record import (
    Criterion,
    Data,
    Device,
    EpochScores,
    Parameters,
    RunRecord,
    Scores,
    Spectrum,
)
from rosa_bench.records.store import save_record
from rosa_bench.runs.resolve import ResolvedRun
from rosa_bench.system.device import autocast, describe
from rosa_bench.system.errors import PreemptedError, UserError
from rosa_bench.system.files import remove_unfinished
from rosa_bench.system.meter import Meter, release_unused
from rosa_bench.tasks.prepared import PreparedTask, Result
from rosa_bench.trackers.base import Tracking, end_figures
from rosa_bench.training.checkpoint import Checkpoints, Snapshot, joined
from rosa_bench.training.compile import WARM_UPS as COMPILED_WARM_UPS
from rosa_bench.training.compile import compiled
from rosa_bench.training.cuda_graphs import Replay, replaying
from rosa_bench.training.loop import fit
from rosa_bench.training.selection import BestEpoch
from rosa_bench.training.spectrum import spectrum, weights
from rosa_bench.training.state import Epoch, Recipe, Training

log = logging.getLogger(__name__)


def run(resolved: ResolvedRun) -> RunRecord:
    """Load, train, evaluate and record. A run that breaks off is recorded too, and its error raised again.

    With ``resume=auto`` a run that broke off before goes on from its checkpoint, to the same figures.
    """
    release_unused()
    config, meter = resolved.config, Meter(resolved.device)
    with meter.phase("load"):
        problem = config.task.prepare(resolved.context)
        record = begin(resolved, problem)
        watched = config.method.watched_names(problem.model, config.model.attention) if config.record_spectrum else []
        initial = weights(problem.model, watched)
        problem.model.to(resolved.device)  # pyright: ignore[reportArgumentType]
        config.method.attach(problem.model)
        record.parameters.trainable = sum(p.numel() for p in problem.model.parameters() if p.requires_grad)
    checkpoints = Checkpoints(resolved.checkpoints, resolved.identity, every_s=config.checkpoint_s)
    earlier = checkpoints.load() if config.resume == "auto" else None
    say_start(resolved, record)
    with (
        tracked(record, resolved, goes_on=earlier is not None) as tracking,
        recorded(record, meter, resolved.results_dir),
    ):
        generations = train_and_score(
            resolved,
            problem,
            meter=meter,
            record=record,
            checkpoints=checkpoints,
            earlier=earlier,
            initial=initial,
            tracking=tracking,
        )
        if generations:
            record.scores.generations = save_generations(generations, resolved.record_path, resolved.results_dir).name
    checkpoints.clear()
    say_end(resolved, record)
    return record


def train_and_score(
    resolved: ResolvedRun,
    problem: PreparedTask,
    *,
    meter: Meter,
    record: RunRecord,
    checkpoints: Checkpoints,
    earlier: Snapshot | None,
    initial: dict[str, Tensor],
    tracking: Tracking,
) -> tuple[Generation, ...]:
    """Train, choose the epoch as the protocol says, merge, and score, into the record. Returns what the model wrote.

    ``initial`` are the weights whose updates' spectrum is to be recorded, as they were before training.
    """
    config, task, model = resolved.config, resolved.config.task, problem.model
    best = BestEpoch(model, task.selects_by, keep_weights=problem.report is not None or config.save_model)
    scores = Scores(
        reported=task.score,
        lower_is_better=task.lower_is_better,
        selected_by=Criterion(**task.selects_by._asdict()),
        selected_on=problem.selected_on,
        signature=problem.signature,
    )
    record.scores = scores  # so that a run that breaks off leaves what it had
    if earlier is not None:
        best.state = earlier.part("best")
        meter.go_on_from(earlier.values["meter"])
        scores.epochs += [EpochScores(**epoch) for epoch in earlier.values["training"]["history"]]
        log.info("going on from step %d", earlier.values["training"]["step"])

    def end_epoch(number: int, epoch: Epoch) -> None:
        scores.epochs.append(EpochScores(**asdict(epoch)))
        best.offer(number, epoch.scores)
        epochs = [structs.asdict(epoch) for epoch in scores.epochs]
        tracking.show_epochs(epochs, scored_on=scores.selected_on, steps_per_epoch=len(problem.train))

    with sigterm_held_back() as asked_to_end:

        def between(training: Training) -> None:
            ending = asked_to_end()  # once: what comes later is for the next step
            if ending or checkpoints.due():
                state = joined(training=training.state, best=best.state, meter=Snapshot({}, meter.totals))
                checkpoints.save(training.step, len(training.history), state)
            if ending:
                raise PreemptedError(f"stopped by SIGTERM after step {training.step}; the same command goes on from it")

        with fast(model, resolved) as replay:
            history = fit(
                model,
                config.method,
                problem.train,
                recipe=recipe(config, len(problem.train)),
                evaluate=lambda: problem.select(model, replay).scores,
                autocast=autocast(resolved.precision, resolved.device),
                meter=meter,
                replay=replay,
                end_epoch=end_epoch,
                between=between,
                start=None if earlier is None else earlier.part("training"),
            )
    if initial:
        with meter.phase("spectrum"):  # of the last epoch's weights: the best one's are not always kept
            record.spectrum = convert(spectrum(initial, weights(model, list(initial))), Spectrum)
    with meter.phase("evaluate"):
        last, selected = final_results(resolved, problem, best, history)
    if config.save_model:
        remove_unfinished(resolved.saved_model)
        problem.save_model(resolved.saved_model)
        log.info("model saved in %s", resolved.saved_model)
    scores.selection_score = best.score
    scores.selected = RecordedResult({"epoch": best.number + 1, **selected.scores})
    scores.last = RecordedResult({"epoch": len(history), **last.scores})
    return selected.generations


@contextmanager
def fast(model: PreTrainedModel, resolved: ResolvedRun) -> Iterator[Replay]:
    """Inside the block passes through the model take the fastest sound way, and whole steps can be replayed."""
    config, device = resolved.config, resolved.device
    with (
        without_cudnn_attention(),
        replaying(device, config.cuda_graphs, warm_ups=1 if config.compile == "none" else COMPILED_WARM_UPS) as replay,
        materialised(model, largest=LARGEST if device.type == "cuda" else 0),
        compiled(model, config.compile),
    ):
        yield replay


def final_results(
    resolved: ResolvedRun, problem: PreparedTask, best: BestEpoch, history: list[Epoch]
) -> tuple[Result, Result]:
    """Of the last epoch and of the selected one, the model merged: it is left as it was in the selected one.

    Where other rows than the reported selected, those are scored now; else their scores are known.
    """
    model, method = problem.model, resolved.config.method
    last = None
    if problem.report is not None and best.number < len(history) - 1:
        copied = copy.deepcopy(model)  # merging cannot be undone
        method.merge(copied)
        last = problem.report(copied)
        del copied
    best.restore()
    method.merge(model)
    if problem.report is None:
        return Result(history[-1].scores), Result(history[best.number].scores)
    selected = problem.report(model)
    return last or selected, selected


@contextmanager
def sigterm_held_back() -> Iterator[Callable[[], bool]]:
    """Inside the block SIGTERM ends nothing; what it yields says whether one has come. For the main thread alone."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def recipe(config: RunConfig, steps_per_epoch: int) -> Recipe:
    """The optimisation settings, with durations turned into steps."""
    optimizer, total_steps = config.optimizer, config.epochs * steps_per_epoch
    warmup_steps = optimizer.warmup(total_steps)
    if optimizer.warmup_steps is not None and warmup_steps >= total_steps:
        log.warning(
            "the warm-up of %d steps is as long as the whole run of %d, which never reaches its learning rate; "
            "set optimizer.warmup_steps=null for a fraction of the run, or a smaller one",
            warmup_steps, total_steps,
        )  # fmt: skip
    return Recipe(
        lr=config.lr,
        epochs=config.epochs,
        warmup_steps=warmup_steps,
        schedule=optimizer.schedule,
        betas=optimizer.betas,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        clip_norm=optimizer.clip_norm,
        accumulate=config.accumulate,
        reset=config.protocol.optimizer_reset,
    )


def begin(resolved: ResolvedRun, problem: PreparedTask) -> RunRecord:
    """A record of what is known before training."""
    return RunRecord(
        id=resolved.id,
        status="running",
        config=public_config(resolved.config),
        deviations=resolved.deviations,
        data=data_of(problem),
        model=Weights({"source": resolved.source.kind, **resolved.source.identity, "commit": problem.commit}),
        device=convert({**describe(resolved.device), "precision": resolved.precision}, Device),
        versions=versions(),
        git=git_state(),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        parameters=Parameters(total=sum(p.numel() for p in problem.model.parameters())),
    )


def data_of(problem: PreparedTask) -> Data:
    """What a record says about the data. Facts that it has no field for are kept under ``facts``."""
    named = {name: value for name, value in problem.facts.items() if name in Data.__struct_fields__}
    others = {name: value for name, value in problem.facts.items() if name not in named}
    return convert({**asdict(problem.info), **named, "facts": others}, Data)


@contextmanager
def recorded(record: RunRecord, meter: Meter, results_dir: Path) -> Iterator[None]:
    """Save the record when the block ends, however it ends; a user's mistake found inside leaves none.

    A run that finds no memory has not failed: beside fewer others it goes on where it stood.
    """
    try:
        yield
        record.status = "completed"
    except UserError:
        record.status = "refused"
        raise
    except KeyboardInterrupt as error:
        record.status, record.error = "interrupted", str(error) or "stopped from the keyboard"
        raise
    except torch.OutOfMemoryError as error:
        record.status, record.error = "interrupted", str(error).split(". ")[0]
        what = f"{record.id}: {record.error}; start it again beside fewer others, or with a greater accumulate"
        raise UserError(what) from error
    except Exception as error:
        record.status, record.error = "failed", f"{type(error).__name__}: {error}"
        raise
    finally:
        record.time_s = Seconds({**meter.time_s, "total": sum(meter.time_s.values())})
        record.memory_bytes = PeakBytes(meter.memory_bytes)
        if record.status != "refused":
            path = save_record(record, results_dir)
            if record.status != "completed":
                log.error("%s; recorded in %s", record.status, path)


@contextmanager
def tracked(record: RunRecord, resolved: ResolvedRun, *, goes_on: bool) -> Iterator[Tracking]:
    """Show the run in its logger, and there too how it ended, however it ended."""
    logger = resolved.config.logger
    tracking = Tracking(logger, run=record.id, settings=record.config, kept=resolved.tracking, goes_on=goes_on)
    try:
        yield tracking
    finally:
        scores = {"selected": record.selected, "last": record.last}
        tracking.end(record.status, end_figures(scores, record.time_s, record.memory_bytes))


def say_start(resolved: ResolvedRun, record: RunRecord) -> None:
    """One line on what is about to run."""
    trained, total = record.parameters.trainable, record.parameters.total
    log.info(
        "%s: %s of %s parameters train, on %d rows (%s), %s in %s",
        resolved.id, f"{trained:,}", f"{total:,}", record.data.rows.train, record.data.source.split(" ")[0],
        resolved.device, resolved.precision,
    )  # fmt: skip
    for key, (value, expected) in resolved.deviations.items():
        log.info("  differs from protocol %s: %s=%s (there: %s)", resolved.config.protocol.name, key, value, expected)


def say_end(resolved: ResolvedRun, record: RunRecord) -> None:
    """One line on how it went, and where the record is."""
    scores, selected, last = record.scores, record.score, record.last_score
    said = "%.3g" if scores.lower_is_better else "%.2f"
    times = 1 if scores.lower_is_better else 100  # a fraction is told in hundredths, an error as it is
    log.info(
        f"%s {said} at epoch %d of %d (last: {said}), in %.1f s; %s",
        scores.reported, times * selected, record.selected.epoch, record.last.epoch, times * last,
        record.time_s.total, resolved.record_path,
    )  # fmt: skip
    if record.has_collapsed:
        log.warning(
            "the last epoch's model gives all rows the same answer: too great a learning rate, or too few steps"
        )
