"""Make several runs in one pass (`rosa_bench.training.packed`), each with its own record and checkpoints."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from rosa_bench.layers.fused.stacked import materialised
from rosa_bench.methods.base import Method
from rosa_bench.models.attention import without_cudnn_attention
from rosa_bench.records.record import RunRecord
from rosa_bench.runs.checkpoints.checkpointing import InStep
from rosa_bench.runs.inputs import inputs_of
from rosa_bench.runs.outcome.recording import begin
from rosa_bench.runs.prepare import Prepared, prepare
from rosa_bench.runs.resolve import ResolvedRun
from rosa_bench.runs.run import Request, Running, Surroundings, conclude, running
from rosa_bench.system.errors import UserError
from rosa_bench.system.resources.device import autocast
from rosa_bench.system.resources.meter import Meter, release_unused
from rosa_bench.system.signals.stopping import stop_signals_deferred
from rosa_bench.training.checkpoint import Checkpoints
from rosa_bench.training.cuda_graphs import replaying
from rosa_bench.training.loop import steps
from rosa_bench.training.packed import SharedBatches, fit_together, own_copy
from rosa_bench.training.state import Epoch

Outcome = RunRecord | BaseException


def run_pack(runs: Sequence[ResolvedRun]) -> list[Outcome]:
    """Make runs of one pack (`packs`), and return the record of each or what ended it. All of them are recorded.

    Raises `StoppedError` if somebody asks to stop, once all have saved a checkpoint.
    """
    release_unused()
    first = prepare(runs[0])
    first = first._replace(problem=replace(first.problem, train=SharedBatches(first.problem.train)))
    members = [first, *(another_member(first, run) for run in runs[1:])]
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
    try:
        with stop_signals_deferred() as asked_to_stop, surroundings(first) as (replay, stand_in):
            within = Surroundings(asked_to_stop, replay, InStep(), stand_in)
            training = [steps(**requests[number](within)) for number in numbers]
            fit_together(training, ended, autocast=precision, replay=replay)
    except BaseException as error:  # of none of the runs: it ends those that have not ended
        for place, number in enumerate(numbers):
            if number not in outcomes:
                ended(place, error)
    for outcome in outcomes.values():
        if isinstance(outcome, KeyboardInterrupt):
            raise outcome
    return [outcomes[number] for number in range(len(runs))]


def another_member(first: Prepared, resolved: ResolvedRun) -> Prepared:
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
