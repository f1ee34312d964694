"""Whether an intact checkpoint can be one of a run. One that cannot is skipped, never partly restored.

A digest shows damage. This finds what a digest cannot: a state that another program, another version or a person wrote.
"""

import random
from collections.abc import Mapping
from typing import Annotated

import msgspec
import numpy as np
import torch
from msgspec import Meta, Struct
from torch import Tensor

from rosa_bench.methods.base import Groups
from rosa_bench.optim.projected import moment_shapes
from rosa_bench.runs.outcome.predicted import LABELS, OUTPUTS, keeps_predictions
from rosa_bench.runs.resolve import ResolvedRun
from rosa_bench.tasks.prepared import PreparedTask
from rosa_bench.training.checkpoint import MisfitError, Snapshot, check_tensors

Count = Annotated[int, Meta(ge=0)]


class EpochValues(Struct, forbid_unknown_fields=True):
    """Fields of `rosa_bench.training.state.Epoch`."""

    train_loss: float
    scores: dict[str, float]
    time_s: float


class Generators(Struct):
    """States of random generators (`rosa_bench.training.checkpoint.random_state`)."""

    python: tuple[int, list[int], float | None]
    numpy: tuple[str, list[int], int, int, float]


class TrainingValues(Struct):
    """Values of `rosa_bench.training.state.Training.state`."""

    step: Count
    history: list[EpochValues]
    elapsed_s: float
    frozen: list[str]
    random: Generators
    resamples: Count
    stopped: str | None


class BestValues(Struct):
    """Values of `rosa_bench.training.observers.selection.BestEpoch.state`."""

    number: Annotated[int, Meta(ge=-1)]
    score: float
    selectable: bool


class Totals(Struct):
    """Totals of `rosa_bench.system.resources.meter.Meter`."""

    time_s: dict[str, float]
    memory_bytes: dict[str, Count]


class Values(Struct):
    """Values of a run's checkpoint."""

    training: TrainingValues
    best: BestValues
    meter: Totals


def check_resumable(resolved: ResolvedRun, problem: PreparedTask, state: Snapshot) -> None:
    """Raise `MisfitError` if an intact checkpoint cannot be one of this run, whose model is in ``problem``."""
    try:
        values = msgspec.convert(state.values, Values)
    except msgspec.ValidationError as error:
        raise MisfitError(f"its values are not those of a run: {error}") from error
    check_progress(values, epochs=resolved.config.epochs, steps_per_epoch=len(problem.train))
    own, parameters = resolved.config.method.state(problem.model), dict(problem.model.named_parameters())
    training, best = state.part("training"), state.part("best").tensors
    check_tensors(own, training.part("model").tensors)
    if best:
        check_tensors(own, best)
    check_predictions(state.part("predictions").tensors, problem)
    losses = {name: tensor for name, tensor in training.tensors.items() if name == "losses"}
    check_tensors({"losses": torch.empty(len(problem.train))}, losses)
    groups = resolved.config.method.parameter_groups(problem.model)
    check_optimizer(training.part("optimizer").tensors, parameters, groups)
    if unknown := set(values.training.frozen) - parameters.keys():
        raise MisfitError(f"{min(unknown)} is frozen in it, and is not a parameter of the model")
    check_generators(training.part("random"), resolved.device)


def check_progress(values: Values, *, epochs: int, steps_per_epoch: int) -> None:
    """Raise `MisfitError` unless step, history and best epoch go together."""
    step, done = values.training.step, len(values.training.history)
    if step > epochs * steps_per_epoch:
        raise MisfitError(f"its step is {step}, and the run has {epochs * steps_per_epoch}")
    if not 0 <= step - done * steps_per_epoch <= steps_per_epoch:
        raise MisfitError(f"it has {done} epochs after step {step} of {steps_per_epoch} per epoch")
    if not (0 <= values.best.number < done or values.best.number == -1 == done - 1):
        raise MisfitError(f"its best epoch is number {values.best.number} of {done}, counted from 0")


def check_predictions(tensors: Mapping[str, Tensor], problem: PreparedTask) -> None:
    """Raise `MisfitError` unless the best epoch's predictions are for the reported rows. There may be none."""
    if not tensors:
        return
    if not keeps_predictions(problem) or tensors.keys() != {OUTPUTS, LABELS}:
        raise MisfitError("it has predictions that are not those of this run")
    outputs, labels, rows = tensors[OUTPUTS], tensors[LABELS], problem.info.rows["validation"]
    check_tensors({OUTPUTS: torch.empty(rows, problem.model.config.num_labels or 1)}, {OUTPUTS: outputs})
    if labels.shape != (rows,):
        raise MisfitError(f"its predictions are for {len(labels)} rows, and the run has {rows}")


def check_optimizer(tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor], groups: Groups) -> None:
    """Raise `MisfitError` unless each kind of optimizer state has one tensor for each of the same parameters.

    A kind is as large as its parameters' moments, or one number for each weight, as a count of steps is. Weights whose
    moments are projected may have kinds of their own.
    """
    kinds: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, parameter = name.partition(".")
        kinds.setdefault(kind, {})[parameter] = tensor
        if parameter not in parameters:
            raise MisfitError(f"its optimizer state {kind} is of {parameter}, which is not a parameter of the model")
    smaller, names = moment_shapes(groups), {parameter: name for name, parameter in parameters.items()}
    projected = {names[weight]: shape for weight, shape in smaller.items()}
    others = {name: parameter.shape for name, parameter in parameters.items() if name not in projected}
    for shapes in (projected, others):
        own = {kind: {name: it for name, it in held.items() if name in shapes} for kind, held in kinds.items()}
        for kind, held in own.items():
            if held and (absent := set().union(*own.values()) - held.keys()):
                raise MisfitError(f"its optimizer state {kind} is missing for {min(absent)}")
            if not all(it.shape in {(), parameters[name].shape[:-2]} for name, it in held.items()):
                check_tensors({name: parameters[name].new_empty(shapes[name], device="meta") for name in held}, held)


def check_generators(state: Snapshot, device: torch.device) -> None:
    """Raise `MisfitError` unless every random generator accepts its state. The generators stay as they are."""
    try:
        version, internal, gauss = state.values["python"]
        random.Random().setstate((version, tuple(internal), gauss))
        np.random.RandomState().set_state(tuple(state.values["numpy"]))
        torch.Generator().set_state(state.tensors["torch"])
        if device.type == "cuda":
            torch.Generator(device).set_state(state.tensors["cuda"])
    except (LookupError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise MisfitError(f"a random generator does not accept its state: {error}") from error
