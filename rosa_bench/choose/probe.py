"""Measure what a run costs by a few of its steps, and how many rows there are. Nothing is recorded."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import NamedTuple

import torch

from rosa_bench.choose.plan import Cost, Rows
from rosa_bench.methods.base import RunLength
from rosa_bench.models.base_dtype import store_in
from rosa_bench.runs.inputs import fetch
from rosa_bench.runs.prepare import calibration_batches
from rosa_bench.runs.resolve import ResolvedRun
from rosa_bench.runs.run import fast, recipe
from rosa_bench.system.errors import UserError
from rosa_bench.system.resources.device import autocast
from rosa_bench.system.resources.meter import Meter, release_unused
from rosa_bench.tasks.prepared import PreparedTask
from rosa_bench.training.loop import fit
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.state import Training

LIMIT_TRAIN, LIMIT_EVAL = 1000, 200  # rows that are read for it
WARM_UP = {"cuda": 8}  # steps that capture graphs or choose kernels; elsewhere one
MOST_STEPS, ENOUGH_S = 40, 2.0
MARGIN = 1.1  # of memory: other batches are longer


class _EnoughError(Exception):
    """Ends the steps of a measurement."""


class UnsuitedError(UserError):
    """The method does not suit the model, though the data and the model are sound."""


class Timing(Observer):
    """Measures the mean time of a step after the first few, and ends the training."""

    def __init__(self, device: torch.device, steps: int):
        self.device, self.steps = device, min(steps, MOST_STEPS)
        self.warm_up = min(WARM_UP.get(device.type, 1), steps - 1)
        self.step_s = float("nan")
        self._started = 0.0

    def on_train_start(self, training: Training) -> None:  # noqa: ARG002 - a hook point
        self._started = self._now()

    def on_step_end(self, training: Training) -> None:
        if training.step == self.warm_up:
            self._started = self._now()
        elif training.step > self.warm_up:
            enough = time.perf_counter() - self._started > ENOUGH_S
            if enough or training.step >= self.steps:
                self.step_s = (self._now() - self._started) / (training.step - self.warm_up)
                raise _EnoughError

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Probe(NamedTuple):
    """What a run was found to cost, the rows of its task, and a note about the user's own data."""

    cost: Cost
    rows: Rows
    about: str


def measured(resolved: ResolvedRun) -> Probe:
    """Measure a run by a few steps. Raises `UserError` if the data, the model or the method do not go together.

    Raises `torch.OutOfMemoryError` or `MemoryError` if the device has too little memory. Runs with data limits of
    `LIMIT_TRAIN` and `LIMIT_EVAL` are measured; the numbers of all rows are those before the limits.
    """
    release_unused()
    config, meter = resolved.config, Meter(resolved.device)
    with quiet():
        started = time.perf_counter()
        with meter.phase("load"):
            problem = config.task.prepare(fetch(config, resolved.context, pinned={}))
            check_selection(resolved, problem)
            store_in(config.base_dtype, problem.model, head=config.method.head)
            problem.model.to(resolved.device)  # pyrefly: ignore[bad-argument-type]
            try:
                model = config.method.attach(problem.model, calibration_batches(problem.train, resolved.device))
            except UserError as error:
                raise UnsuitedError(str(error)) from error
        config.method.before_training(model, RunLength(len(problem.train), config.epochs))
        start_s = time.perf_counter() - started
        problem = replace(problem, model=model)  # pyrefly: ignore[bad-argument-type]
        step_s, selected_s, reported_s = timed(resolved, problem, meter)
    used = problem.info.rows
    peak = max(meter.memory_bytes["train"], meter.memory_bytes["resample"])
    cost = Cost(
        start_s=start_s,
        row_s=step_s / config.batch_size,
        selected_s=selected_s / max(1, used["held_out"] or used["validation"]),
        reported_s=reported_s / max(1, used.get("test") or used["validation"]),
        memory_bytes=int(peak * MARGIN),
    )
    return Probe(cost, rows_of(resolved, problem), problem.facts.get("note", ""))


def timed(resolved: ResolvedRun, problem: PreparedTask, meter: Meter) -> tuple[float, float, float]:
    """Return the seconds of a step, of scoring the rows that select, and of scoring those that are reported."""
    config, timing = resolved.config, Timing(resolved.device, len(problem.train))
    with fast(problem.model, resolved, problem.train) as replay:
        with suppress(_EnoughError):
            fit(
                problem.model,
                config.method,
                problem.train,
                recipe=recipe(config, len(problem.train)),
                evaluate=lambda: problem.select(problem.model, replay).scores,
                autocast=autocast(resolved.precision, resolved.device),
                meter=meter,
                replay=replay,
                observers=[timing],
            )
        selected_s = _seconds(lambda: problem.select(problem.model, replay))
        report = problem.report
        reported_s = 0.0 if report is None else _seconds(lambda: report(problem.model))
    return timing.step_s, selected_s, reported_s


def check_selection(resolved: ResolvedRun, problem: PreparedTask) -> None:
    """Raise `UserError` if the rows that select are those that are reported: the best of many would score too high."""
    if problem.report is None and problem.selected_on == "validation":
        raise UserError(
            f"protocol={resolved.config.protocol.name} selects on the rows that it reports, so the score of the best "
            "of many runs would be too high; use protocol=fair"
        )


def rows_of(resolved: ResolvedRun, problem: PreparedTask) -> Rows:
    """Return how many rows a task has before any limit of the measurement."""
    protocol, task, info = resolved.config.protocol, resolved.config.task, problem.info
    used, known = info.rows, {**info.official_rows, **info.available}
    train = known.get(task.train) or used["train"] + used["held_out"]
    selected = None if used["held_out"] else used["validation"]
    reported = max([used.get("test") or used["validation"], *(known[split] for split in known if split != task.train)])
    return Rows(train, reported, protocol.held_out_rows, protocol.held_out_max, selected)


def _seconds(evaluate: Callable[[], object]) -> float:
    started = time.perf_counter()
    evaluate()
    return time.perf_counter() - started


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the log lines of a measurement to errors: its limits and its warm-up are none of the user's concern."""
    log = logging.getLogger("rosa_bench")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
