"""Several runs in one pass: which runs of a sweep go together, and making them."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from rosa_bench.layers.stacked import materialised
from rosa_bench.methods.base import Method
from rosa_bench.models.attention import without_cudnn_attention
from rosa_bench.records.record import RunRecord
from rosa_bench.runs.checkpointing import InStep
from rosa_bench.runs.inputs import inputs_of
from rosa_bench.runs.recording import begin
from rosa_bench.runs.resolve import ResolvedRun
from rosa_bench.runs.run import Prepared, Request, Running, Surroundings, conclude, prepare, running
from rosa_bench.system.device import autocast
from rosa_bench.system.errors import UserError
from rosa_bench.system.meter import Meter, release_unused
from rosa_bench.system.stopping import stop_signals_deferred
from rosa_bench.training.checkpoint import Checkpoints
from rosa_bench.training.cuda_graphs import replaying
from rosa_bench.training.loop import steps
from rosa_bench.training.packed import SharedBatches, fit_together, own_copy
from rosa_bench.training.state import Epoch

log = logging.getLogger(__name__)

AUTO_ON_GPU = 8  # runs; more gain little (docs/performance.md)
Outcome = RunRecord | BaseException


def size_of(resolved: ResolvedRun) -> int:
    """Return how many runs like this one may train in one pass."""
    config = resolved.config
    if config.packed != "auto":
        return int(config.packed)
    return AUTO_ON_GPU if resolved.device.type == "cuda" and config.unpackable is None else 1


def packs(runs: Sequence[ResolvedRun]) -> list[list[ResolvedRun]]:
    """Group runs that differ in the learning rate alone, and are equally far, into packs; the others are alone."""
    cells: dict[str, list[ResolvedRun]] = {}
    for run in runs:
        key = repr((replace(run.config, lr=1.0), run.source, run.device, run.precision, progress(run)))
        cells.setdefault(key, []).append(run)
    return [
        cell[start : start + size]
        for cell in cells.values()
        for size in [size_of(cell[0])]
        for start in range(0, len(cell), size)
    ]


def progress(run: ResolvedRun) -> str:
    """Return the name of a run's newest checkpoint, which says how far it is; nothing if it starts from the beginning."""
    names = [path.name for path in run.checkpoints.glob("step-*")] if run.config.resume == "auto" else []
    return max(names, default="")


def run_pack(runs: Sequence[ResolvedRun]) -> list[Outcome]:
    """Make runs of one pack (`packs`), and return the record of each or what ended it. All of them are recorded.

    Raises `StoppedError` if somebody asks to stop, once all have saved a checkpoint.
    """
    release_unused()
    first = prepare(runs[0])
    first = first._replace(problem=replace(first.problem, train=SharedBatches(first.problem.train)))
    members = [first, *(joined(first, run) for run in runs[1:])]
    outcomes: dict[int, Outcome] = {}
    rests: dict[int, Running] = {}
    requests: dict[int, Request] = {}
    for number, member in enumerate(members):
        member.record.packed = len(runs)
        rests[number] = running(member, place=number)
        try:
            requests[number] = next(rests[number])
        except UserError as error:  # such as a checkpoint of other rows
            outcomes[number] = error
    numbers = list(requests)

    def ended(place: int, outcome: list[Epoch] | BaseException) -> None:
        number = numbers[place]
        try:
            outcomes[number] = conclude(rests[number], outcome)
        except BaseException as error:  # an outcome too: the other runs go on
            outcomes[number] = error

    precision = autocast(first.resolved.precision, first.resolved.device)
    with stop_signals_deferred() as asked_to_stop, surroundings(first) as (replay, stand_in):
        within = Surroundings(asked_to_stop, replay, InStep(), stand_in)
        training = [steps(**requests[number](within)) for number in numbers]
        fit_together(training, ended, autocast=precision, replay=replay)
    for outcome in outcomes.values():
        if isinstance(outcome, KeyboardInterrupt):
            raise outcome
    return [outcomes[number] for number in range(len(runs))]


def joined(first: Prepared, resolved: ResolvedRun) -> Prepared:
    """Return another run of a pack, with a model of its own that shares all frozen tensors with the first run's."""
    config, problem = resolved.config, first.problem
    model: PreTrainedModel = own_copy(problem.model, config.method)
    own = replace(problem, model=model)
    meter = Meter(resolved.device)
    meter.time_s.update(first.meter.time_s)
    meter.memory_bytes = first.meter.memory_bytes  # peaks are those of the whole pack
    checkpoints = Checkpoints(resolved.checkpoints, resolved.identity, every_s=config.checkpoint_s)
    checkpoints.inputs = inputs_of(own)
    record = begin(resolved, own)
    record.parameters = first.record.parameters
    return first._replace(resolved=resolved, problem=own, meter=meter, record=record, checkpoints=checkpoints)


class StandIn:
    """A model that is evaluated in place of each run's, so that all runs share the captured graphs of evaluations."""

    def __init__(self, model: PreTrainedModel, method: Method):
        self.model: PreTrainedModel = own_copy(model, method)
        self.method = method

    @torch.no_grad()
    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model with the weights of ``model``."""
        given = self.method.state(model)
        for name, tensor in self.method.state(self.model).items():
            tensor.copy_(given[name])
        return self.model


@contextmanager
def surroundings(first: Prepared) -> Iterator[tuple]:
    """Yield a function that makes steps replayable, and one that returns the model to evaluate in place of another."""
    resolved, config, model = first.resolved, first.resolved.config, first.problem.model
    on_gpu = resolved.device.type == "cuda"
    stand_in = StandIn(model, config.method) if on_gpu else None
    graphs = config.cuda_graphs if config.method.supports_graphs else "never"
    with (
        without_cudnn_attention(),
        replaying(resolved.device, graphs) as replay,
        materialised(stand_in.model) if stand_in else nullcontext(),
    ):
        yield replay, stand_in or (lambda model: model)
