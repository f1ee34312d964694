"""A run before its training: data and model are loaded, and the method is attached."""

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from rosa_bench.adapters.lora import PlainWeights, check_called
from rosa_bench.data.batches import Batch, Batches, TensorBatches, to_device
from rosa_bench.layers.weights.fisher import single_rows
from rosa_bench.methods.base import RunLength
from rosa_bench.methods.size import saved_bytes
from rosa_bench.models.base_dtype import store_in
from rosa_bench.records.record import RunRecord
from rosa_bench.runs.inputs import fetch, inputs_of
from rosa_bench.runs.outcome.forgetting import Measurement, measured_before
from rosa_bench.runs.outcome.recording import begin
from rosa_bench.runs.resolve import ResolvedRun
from rosa_bench.system.resources.device import autocast
from rosa_bench.system.resources.meter import Meter
from rosa_bench.tasks.prepared import PreparedTask
from rosa_bench.training.checkpoint import Checkpoints
from rosa_bench.training.memory.offload import movable
from rosa_bench.training.spectrum import weights

log = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """A run with its data and model loaded and its method attached.

    initial     weights from before training, for the spectra of their updates
    plain       the linear layers from before training, for an adapter
    forgetting  measures models on another task's text
    """

    resolved: ResolvedRun
    problem: PreparedTask
    meter: Meter
    record: RunRecord
    checkpoints: Checkpoints
    initial: dict[str, Tensor]
    plain: PlainWeights | None
    forgetting: Measurement | None


def prepare(resolved: ResolvedRun) -> Prepared:
    """Load the data and the model of a run, and attach its method."""
    config, meter = resolved.config, Meter(resolved.device)
    with meter.phase("load"):
        checkpoints = Checkpoints(resolved.checkpoints, resolved.identity, every_s=config.checkpoint_s)
        pinned = checkpoints.inputs_of_newest() if config.resume == "auto" else {}
        problem = config.task.prepare(fetch(config, resolved.context, pinned=pinned))
        checkpoints.inputs = inputs_of(problem)
        record = begin(resolved, problem)
        store_in(config.base_dtype, problem.model, head=config.method.head)
        watched = config.method.watched_names(problem.model, config.model.attention) if config.record_spectrum else []
        initial = weights(problem.model, watched)
        plain = PlainWeights(problem.model) if config.save_adapter else None
        if config.save_model:
            config.method.check_saves(problem.model)
        problem.model.to(resolved.device)  # pyrefly: ignore[bad-argument-type]
        with meter.phase("forgetting") if config.forgetting_on else nullcontext():
            forgetting = measured_before(resolved, problem)
        meter.memory_bytes.pop("forgetting", None)  # or a resample would count it as memory that it may use
        buffers = list(problem.model.buffers())
        model = config.method.attach(problem.model, calibration_batches(problem.train, resolved.device))
        problem = replace(problem, model=model)  # pyrefly: ignore[bad-argument-type]
        config.method.before_training(model, RunLength(len(problem.train), config.epochs))
        if not config.method.trains:
            resolved, problem = without_training(resolved, problem, record)
        record.parameters.trainable = sum(p.numel() for p in problem.model.parameters() if p.requires_grad)
        record.parameters.saved_bytes = saved_bytes(config.method, model, buffers)
        if config.offload:
            movable(model, config.method)  # refused before anything is recorded
        if plain is not None:
            plain.adapted(config.method, model)  # likewise
            if config.method.trains:
                check_called(model, partial(row_loss, resolved, problem))
    return Prepared(resolved, problem, meter, record, checkpoints, initial, plain, forgetting)


def without_training(
    resolved: ResolvedRun, problem: PreparedTask, record: RunRecord
) -> tuple[ResolvedRun, PreparedTask]:
    """Return a run with an epoch without steps for each of the method's candidates, and name these in the record."""
    config = resolved.config
    if problem.drawn_head:
        log.warning(
            "method=%s trains nothing, and the task's head has random weights, so the scores are those of chance; give "
            "a model that was fine-tuned for this task and saved with save_model=true: model.path=FOLDER",
            config.method.name,
        )
    record.candidates = config.method.candidates(problem.model)
    nothing = TensorBatches(torch.empty(0), torch.empty(0), batch_size=config.batch_size)
    counted = replace(config, epochs=len(record.candidates))
    return replace(resolved, config=counted), replace(problem, train=nothing)


def row_loss(resolved: ResolvedRun, problem: PreparedTask) -> Tensor:
    """Return the loss of the first training row."""
    row = next(single_rows(calibration_batches(problem.train, resolved.device), 1))
    with autocast(resolved.precision, resolved.device)():
        return problem.model(**row).loss


def calibration_batches(train: Batches, device: torch.device) -> Iterator[Batch]:
    """Yield the training batches in the order of the first epoch. Each is made only when requested."""
    for batch in train.epoch():
        yield to_device(batch, device)
