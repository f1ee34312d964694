"""What the methods of a choice cost in time and memory, and which of them fit."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from rosa_bench.choose.budget import Budget
from rosa_bench.choose.candidates import Untried
from rosa_bench.choose.plan import Arm, Cost, Rows
from rosa_bench.runs.resolve import ResolvedRun
from rosa_bench.system.errors import UserError

if TYPE_CHECKING:
    from rosa_bench.choose.probe import Probe

log = logging.getLogger(__name__)

MEASURING = 0.15  # of the budget: once it is spent, no further method is measured


class Measured(NamedTuple):
    """Costs by kind of arm, the rows of the task, a note about the user's own data, and what does not fit."""

    costs: dict[str, Cost]
    rows: Rows
    about: str
    untried: list[Untried]


class UnfitError(Exception):
    """Why a method cannot be tried. ``needed_bytes`` is the memory that it needs, if that is why."""

    def __init__(self, why: str, *, needed_bytes: int | None = None):
        super().__init__(why)
        self.needed_bytes = needed_bytes


def measure(runs: Mapping[Arm, ResolvedRun], budget: Budget, *, memory_gb: float | None) -> Measured:
    """Measure every method by a few steps of the arm with its largest rank: ranks hardly differ.

    If that takes too long, the other methods are taken to cost as much as the costliest so far. ``memory_gb`` limits
    the memory of a run; by default what is free on the device. Raises `UserError` if no method fits, or if data or
    model are not sound.
    """
    from rosa_bench.system.resources.device import memory_limit_bytes

    limit = memory_limit_bytes(next(iter(runs.values())).device, memory_gb)
    costs: dict[str, Cost] = {}
    unfit: dict[str, UnfitError] = {}
    probe: Probe | None = None
    for method in dict.fromkeys(arm.method for arm in runs):
        arm = max((arm for arm in runs if arm.method == method), key=lambda arm: arm.rank or 0)
        if costs and budget.spent_s > MEASURING * budget.seconds:
            cost = max(costs.values(), key=lambda cost: cost.row_s)
        else:
            log.info("measuring %s", method)
            try:
                probe = probed(runs[arm], limit)
            except UnfitError as error:
                unfit[method] = error
                continue
            cost = probe.cost
        costs |= {one.kind: cost for one in runs if one.method == method}
    if probe is None:
        raise UserError(nothing_fits(unfit, memory_gb, limit))
    return Measured(costs, probe.rows, probe.about, [Untried(name, str(error)) for name, error in unfit.items()])


def probed(run: ResolvedRun, limit_bytes: int | None) -> "Probe":
    """Measure a run on few rows. Raises `UnfitError` if its method does not suit the model, or takes too much memory.

    Weights that are too large by themselves are not loaded.
    """
    import torch

    from rosa_bench.choose.probe import UnsuitedError, measured

    try:
        check_memory(least_bytes(run), limit_bytes)
        probe = measured(small(run))
    except UnsuitedError as error:
        raise UnfitError(str(error)) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UnfitError("memory: the device has too little for it") from error
    check_memory(probe.cost.memory_bytes, limit_bytes)
    return probe


def check_memory(needed_bytes: int, limit_bytes: int | None) -> None:
    """Raise `UnfitError` if a run needs more memory than it may use."""
    if limit_bytes is not None and needed_bytes > limit_bytes:
        raise UnfitError(f"memory: it needs {gibibytes(needed_bytes)} or more", needed_bytes=needed_bytes)


def least_bytes(run: ResolvedRun) -> int:
    """Return the memory of weights, gradients and optimizer state, without loading them; 0 if unknown."""
    from rosa_bench.methods.size import UnsizedError, size_of

    config = run.config
    model = config.task.shapes(config.model, run.source)
    if model is None:
        return 0
    weights = sum(parameter.numel() for parameter in model.parameters())
    try:
        size = size_of(config.method, model, config.optimizer)
    except UnsizedError:
        return 4 * weights
    except UserError as error:
        raise UnfitError(str(error)) from error
    return 4 * (size.total + size.trainable + size.optimizer_elements)  # float32


def small(run: ResolvedRun) -> ResolvedRun:
    """Return a run on few rows."""
    from rosa_bench.choose.probe import LIMIT_EVAL, LIMIT_TRAIN

    config = run.config
    limits: dict[str, Any] = {
        key: min(most, getattr(config, key) or most)
        for key, most in {"limit_train": LIMIT_TRAIN, "limit_eval": LIMIT_EVAL}.items()
        if key not in config.task.refused
    }
    return replace(run, config=replace(config, **limits))


def nothing_fits(unfit: Mapping[str, UnfitError], memory_gb: float | None, limit_bytes: int | None) -> str:
    """Say why no method can be tried, and what to do."""
    needed = {name: error.needed_bytes for name, error in unfit.items() if error.needed_bytes is not None}
    if len(needed) < len(unfit) or limit_bytes is None:
        return f"no method can be tried: {'; '.join(f'{name}: {error}' for name, error in unfit.items())}"
    least = min(needed, key=lambda name: needed[name])
    given = f"the free {gibibytes(limit_bytes)} are" if memory_gb is None else f"memory_gb={memory_gb:g} is"
    return (
        f"{given} too little for any method: {least} needs {gibibytes(needed[least])} or more; use a smaller "
        "batch_size, a larger accumulate, or gradient_checkpointing=true"
    )


def gibibytes(count: float) -> str:
    """Return a number of bytes as ``1.2 GiB``, the unit of memory_gb."""
    return f"{count / 2**30:.2g} GiB"
