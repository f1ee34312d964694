"""One run, from a checked configuration to a record."""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

from msgspec import convert
from rich.console import Console
from transformers import PreTrainedModel

from rosa_bench.config.schema import RunConfig
from rosa_bench.data.batches import Batches
from rosa_bench.layers.fused.joined import joined
from rosa_bench.layers.fused.stacked import LARGEST, materialised
from rosa_bench.models.attention import without_cudnn_attention
from rosa_bench.models.base_dtype import widen
from rosa_bench.records.parts.mappings import Result as RecordedResult
from rosa_bench.records.parts.measured import Criterion, EpochScores, Scores, Spectrum
from rosa_bench.records.record import RunRecord
from rosa_bench.runs.checkpoints.checkpointing import Checkpointing, InStep
from rosa_bench.runs.checkpoints.resumable import check_resumable
from rosa_bench.runs.exporting.saved_adapter import save_adapter
from rosa_bench.runs.outcome.final import final_results
from rosa_bench.runs.outcome.predicted import Selecting
from rosa_bench.runs.outcome.recording import Recording, recorded, save_rows, say_end, say_start, tracked
from rosa_bench.runs.prepare import Prepared, calibration_batches, prepare
from rosa_bench.runs.resolve import ResolvedRun
from rosa_bench.system import processes
from rosa_bench.system.files.folders import remove_unfinished
from rosa_bench.system.resources.device import autocast
from rosa_bench.system.resources.meter import Meter, release_unused
from rosa_bench.system.signals.stopping import StopRequest, stop_signals_deferred
from rosa_bench.tasks.base import Task
from rosa_bench.tasks.prepared import PreparedTask, Result
from rosa_bench.trackers.base import Tracking
from rosa_bench.training.checkpoint import Snapshot
from rosa_bench.training.compile import WARM_UPS as COMPILED_WARM_UPS
from rosa_bench.training.compile import compiled
from rosa_bench.training.cuda_graphs import Replay, replaying
from rosa_bench.training.distributed.sharded import sharded
from rosa_bench.training.distributed.together import OwnRandomness, Together, agree
from rosa_bench.training.loop import fit
from rosa_bench.training.memory.offload import offloaded
from rosa_bench.training.memory.recompute import recomputed
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.observers.collapse import CollapseStop
from rosa_bench.training.observers.progress import CandidateProgress, TrainingProgress
from rosa_bench.training.observers.selection import BestEpoch
from rosa_bench.training.spectrum import spectrum, weights
from rosa_bench.training.state import Epoch, Recipe, TrainingFailedError

log = logging.getLogger(__name__)


class Surroundings(NamedTuple):
    """What a run trains in, by itself or with others.

    asked_to_stop  whether somebody has asked to stop
    replay         runs steps and evaluations, perhaps as captured graphs
    in_step        makes several runs save their checkpoints at the same step
    stand_in       returns the model to evaluate in place of a given one, with the same weights
    """

    asked_to_stop: StopRequest
    replay: Replay
    in_step: InStep | None = None
    stand_in: Callable[[PreTrainedModel], PreTrainedModel] = lambda model: model


# Returns the arguments of `rosa_bench.training.loop.fit`.
Request = Callable[[Surroundings], dict[str, Any]]
Running = Generator[Request, list[Epoch], RunRecord]


def run(resolved: ResolvedRun, observers: Iterable[Observer] = ()) -> RunRecord:
    """Load the data and the model, train, evaluate, and save the record.

    An interrupted run is recorded as well, and its error is raised again. With ``resume=auto`` it continues from its
    checkpoint and ends with the same scores. ``observers`` watch or change the training
    (`rosa_bench.training.observers.base`).
    """
    release_unused()
    prepared = prepare(resolved)
    rest = running(prepared, observers)
    request = next(rest)
    try:
        model, method = prepared.problem.model, resolved.config.method
        together = None
        if processes.count() > 1:
            together = Together(sharded=resolved.config.parallel == "sharded")
            agree(model, method)
        with stop_signals_deferred() as asked_to_stop, fast(model, resolved, prepared.problem.train) as replay:
            outcome = fit(**request(Surroundings(asked_to_stop, replay)), together=together)
    except BaseException as error:  # the run records it, and raises it again
        outcome = error
    return conclude(rest, outcome)


def conclude(running: Running, outcome: list[Epoch] | BaseException) -> RunRecord:
    """Return the record of a run whose training has ended, with its epochs or with an error, which is raised again."""
    try:
        if isinstance(outcome, BaseException):
            running.throw(outcome)
        else:
            running.send(outcome)
    except StopIteration as end:
        return end.value
    raise AssertionError("a run trains only once")


def running(prepared: Prepared, observers: Iterable[Observer] = (), *, place: int = 0) -> Running:
    """Make a prepared run, but for its training: that is requested once, to be answered with the epochs.

    ``place`` is the run's place among those that train together. Only the first shows a bar.
    """
    resolved, problem, record = prepared.resolved, prepared.problem, prepared.record
    earlier = None
    if resolved.config.resume == "auto":
        earlier = prepared.checkpoints.load(partial(check_resumable, resolved, problem))
    say_start(resolved, record)
    try:
        with (
            tracked(record, resolved, resuming=earlier is not None) as tracking,
            recorded(record, prepared.meter, resolved.results_dir),
        ):
            selected = yield from train_and_score(
                prepared, earlier=earlier, tracking=tracking, observers=observers, place=place
            )
            save_rows(selected, record, resolved, problem)
    except TrainingFailedError:  # from a checkpoint, whose weights may be NaN, it would only fail again
        prepared.checkpoints.clear()
        raise
    prepared.checkpoints.clear()
    say_end(resolved, record)
    return record


def train_and_score(
    prepared: Prepared, *, earlier: Snapshot | None, tracking: Tracking, observers: Iterable[Observer], place: int
) -> Generator[Request, list[Epoch], Result]:
    """Train, select the epoch by the protocol's rule, merge, and write the scores to the record.

    Yields the request to train. Returns the selected epoch's result.
    """
    resolved, problem, meter, record = prepared.resolved, prepared.problem, prepared.meter, prepared.record
    config, task, model = resolved.config, resolved.config.task, problem.model
    scored_later = problem.report is not None or prepared.forgetting is not None
    selecting = Selecting(problem)
    best = BestEpoch(
        partial(config.method.state, model),
        task.selects_by,
        keep_weights=scored_later or config.save_model or prepared.plain is not None,
        predictions=lambda: selecting.predicted,
        last_only=task.phases > 1,
    )
    record.scores = no_scores(task, problem)  # set early, so that an interrupted run keeps its scores so far
    if earlier is not None:
        continue_from(earlier, best=best, meter=meter, record=record)

    def arguments(within: Surroundings) -> dict[str, Any]:
        stopping = (CollapseStop(),) if config.stop_collapsed else ()
        saving = Checkpointing(
            prepared.checkpoints, best=best, meter=meter, asked_to_stop=within.asked_to_stop, in_step=within.in_step
        )
        alike = (OwnRandomness(config.seed, earlier),) if processes.count() > 1 else ()
        showing = (progress_bar(config, record, problem.train, place=place), best, Recording(record, tracking))
        return {
            "model": model,
            "method": config.method,
            "batches": problem.train,
            "recipe": recipe(config, len(problem.train)),
            "evaluate": partial(selecting.scores, within.replay, within.stand_in),
            "autocast": autocast(resolved.precision, resolved.device),
            "meter": meter,
            "replay": within.replay,
            "observers": (*alike, *showing, *stopping, *observers, saving),
            "start": None if earlier is None else earlier.part("training"),
        }

    history = yield arguments
    return score(prepared, best, history)


def score(prepared: Prepared, best: BestEpoch, history: list[Epoch]) -> Result:
    """Merge a trained model, write its scores to the record, and save what is to be saved.

    Returns the selected epoch's result.
    """
    resolved, problem, meter, record = prepared.resolved, prepared.problem, prepared.meter, prepared.record
    config, initial, plain = resolved.config, prepared.initial, prepared.plain
    if initial:
        with meter.phase("spectrum"):  # from the last epoch's weights, because the best epoch's are not always kept
            record.spectrum = convert(spectrum(initial, weights(problem.model, list(initial))), Spectrum)
    with meter.phase("evaluate"):
        final = final_results(resolved, problem, best, history, prepared.forgetting, plain=plain)
    if plain is not None and processes.is_first():
        save_adapter(resolved, problem, plain, final.factors)
    record.forgetting = final.forgetting
    if config.save_model and processes.is_first():
        remove_unfinished(resolved.saved_model)
        widen(problem.model)
        problem.save_model(resolved.saved_model, config.method.save)
        log.info("model saved in %s", resolved.saved_model)
    scores, whole = record.scores, problem.whole_run([epoch.scores for epoch in history])
    scores.selection_score = best.score
    scores.selected = RecordedResult({"epoch": best.number + 1, **final.selected.scores, **whole})
    scores.last = RecordedResult({"epoch": len(history), **final.last.scores, **whole})
    return final.selected


def no_scores(task: Task, problem: PreparedTask) -> Scores:
    """Return the scores of a run that has not trained yet: which metrics there will be, and which rows select."""
    return Scores(
        reported=task.score,
        lower_is_better=task.lower_is_better,
        selected_by=Criterion(**task.selects_by._asdict()),
        selected_on=problem.selected_on,
        signature=problem.signature,
    )


def continue_from(earlier: Snapshot, *, best: BestEpoch, meter: Meter, record: RunRecord) -> None:
    """Put the selection, the meter and the record back to where a checkpoint was written."""
    best.state, best.predicted = earlier.part("best"), earlier.part("predictions").tensors
    meter.resume_from(earlier.values["meter"])
    epochs = record.scores.epochs
    epochs += [EpochScores(**epoch) for epoch in earlier.values["training"]["history"]]
    log.info(
        "continuing from %s",
        f"candidate {len(epochs)}" if record.candidates else f"step {earlier.values['training']['step']}",
    )


def progress_bar(config: RunConfig, record: RunRecord, train: Batches, *, place: int) -> Observer:
    """Return the bar for a run's steps, or for its candidates if the method trains nothing.

    Lines of runs that train together begin with the learning rate, and only the first of them has a bar.
    """
    if record.candidates:
        return CandidateProgress(record.candidates)
    return TrainingProgress(
        epochs=config.epochs,
        steps_per_epoch=len(train),
        batch_size=train.batch_size,
        console=Console(force_terminal=False) if place else None,
        label=f"lr={config.lr:g}  " if record.packed else "",
    )


@contextmanager
def fast(model: PreTrainedModel, resolved: ResolvedRun, train: Batches) -> Iterator[Replay]:
    """Use the fastest exact kernels inside the block. Yields a function that makes steps replayable."""
    config, device = resolved.config, resolved.device
    saves_memory = config.gradient_checkpointing  # without it nothing is offloaded either
    several = processes.count() > 1
    shards, graphs = several and config.parallel == "sharded", config.cuda_graphs
    if not config.method.supports_graphs or saves_memory or shards or (several and graphs == "auto"):
        graphs = "never"  # several processes capture their exchanges only if they are told to
    if saves_memory and device.type == "cuda" and config.cuda_graphs != "never":
        log.info("gradient_checkpointing=true runs steps without CUDA graphs")
    forms = device.type == "cuda" and not saves_memory and not shards  # those of one pass would be gone in the next
    with (
        without_cudnn_attention(),
        sharded(model, device) if shards else nullcontext(),
        replaying(device, graphs, warm_ups=1 if config.compile == "none" else COMPILED_WARM_UPS) as replay,
        joined(model, next(calibration_batches(train, device), None) if forms else None) as joins,
        materialised(model, largest=LARGEST if forms else 0, joins=joins),
        offloaded(model, config.method, device) if config.offload else nullcontext(),
        compiled(model, config.compile),
        recomputed(model, config.gradient_checkpointing),  # of compiled blocks
    ):
        yield replay


def recipe(config: RunConfig, steps_per_epoch: int) -> Recipe:
    """Return the optimisation settings, with durations in steps."""
    optimizer, phases = config.optimizer, config.task.phases
    steps = config.epochs * steps_per_epoch // phases
    warmup_steps = optimizer.warmup(steps)
    if optimizer.warmup_steps is not None and 0 < steps <= warmup_steps:
        log.warning(
            "the warm-up of %d steps is as long as %s of %d, so the learning rate never reaches its peak; "
            "set optimizer.warmup_steps=null to use optimizer.warmup_fraction, or to a smaller number",
            warmup_steps, "the whole run" if phases == 1 else "a part", steps,
        )  # fmt: skip
    return Recipe(
        lr=config.lr,
        epochs=config.epochs,
        warmup_steps=warmup_steps,
        optimizer=optimizer,
        accumulate=config.accumulate,
        reset=config.protocol.optimizer_reset,
        phases=phases,
    )
