"""The library: compose a run's settings, run it, and load records.

The command line, the scripts and the tests use these functions too.
"""

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rosa_bench.config.composing.compose import composing
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.identity.deviations import deviations_of
from rosa_bench.config.overrides.grammar import spelled
from rosa_bench.config.overrides.mistakes import check_overrides, composition_errors
from rosa_bench.config.schema import RunConfig
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import Records
from rosa_bench.records.store import load_records as load_from_folder
from rosa_bench.system import processes
from rosa_bench.system.errors import UserError
from rosa_bench.system.resources.collector import collector_paused

if TYPE_CHECKING:
    from rosa_bench.runs.resolve import ResolvedRun
    from rosa_bench.training.observers.base import Observer

log = logging.getLogger(__name__)


def compose(overrides: Sequence[str] = ()) -> RunConfig:
    """Return the checked settings of a run, from overrides as on the command line.

    Raises `UserError`, which names the key, for a setting, choice or value that is not allowed.

    >>> config = compose(["task=synthetic", "model=mlp1", "method=rosa", "rank=2", "epochs=3"])
    >>> config.method.name, config.method.rank, config.epochs
    ('rosa', 2, 3)
    >>> compose(["task=clao"])
    Traceback (most recent call last):
    rosa_bench.system.errors.UserError: task=clao is not known; did you mean cola? Choose one of: ..., cola, ...
    """
    return _composed(overrides)[0]


def run(config: RunConfig | Sequence[str], observers: "Iterable[Observer]" = ()) -> RunRecord:
    """Run what ``config`` describes, and return its record, which is also written to its ``results_dir``.

    ``config`` holds settings from `compose`, or overrides as on the command line. ``observers`` are called at the hook
    points of the training loop (`rosa_bench.training.observers.base`). A completed run is not run again: its record is
    returned, unless ``resume=never``. Raises `UserError` if the run is not possible or another process is
    running it, and whatever error stops it.

    >>> record = run(["task=synthetic", "model=mlp1", "epochs=1", "task.replicates=1", "task.train_rows=64",
    ...               "task.validation_rows=16", "device=cpu"])
    >>> record.status, record.config["method"]["name"]
    ('completed', 'rosa')
    >>> run(compose(["task=synthetic", "model=mlp1", "epochs=1", "task.replicates=1", "task.train_rows=64",
    ...              "task.validation_rows=16", "device=cpu"])).id == record.id
    True
    >>> [run.id for run in load_records("results")] == [record.id]
    True
    """
    if isinstance(config, RunConfig):
        with composing():
            return complete(config, deviations_of(config), observers)
    return complete(*_composed(config), observers)


def load_records(path: str | Path = "results") -> Records:
    """Return all run records in a results folder, in the order of their file names.

    Files that are not records are skipped and named in the log.

    >>> load_records("a_folder_without_records")
    []
    """
    return load_from_folder(Path(path).expanduser())


def resolve(config: RunConfig) -> "ResolvedRun":
    """Find the data, the weights and the device of a run, and its id, without running it.

    Raises `UserError` if any of them is missing.
    """
    from rosa_bench.runs import resolve as resolving

    with composing():
        return resolving.resolve(config, deviations_of(config))


def complete(config: RunConfig, differing: Mapping[str, list[Any]], observers: "Iterable[Observer]" = ()) -> RunRecord:
    """Return the record of a completed run, running it first if needed.

    ``differing`` are its deviations from the protocol. Raises `UserError` if the run failed before and neither
    ``retry_failed`` nor ``resume=never`` is set.
    """
    with collector_paused():  # torch is imported
        from rosa_bench.runs import resolve as resolving

        resolved = resolving.resolve(config, dict(differing), own_gpu=True)
    return complete_resolved(resolved, observers)


def complete_resolved(resolved: "ResolvedRun", observers: "Iterable[Observer]" = ()) -> RunRecord:
    """Return the record of a completed run that is already resolved, running it first if needed; as `complete`.

    Processes that a launcher started together share the run. The first of them holds the lock and writes.
    """
    from rosa_bench.runs.lock import locked
    from rosa_bench.runs.status import agreed_status

    config = resolved.config
    with (
        processes.joined(resolved.device) if processes.launched() > 1 else nullcontext(),
        locked(resolved.lock, resolved.id) if processes.is_first() else nullcontext(),
    ):
        kind, record = agreed_status(resolved)
        if record is not None and kind == "completed" and config.resume == "auto":
            if processes.is_first():
                shutil.rmtree(resolved.checkpoints, ignore_errors=True)  # left by a process that was killed
            log.info("%s is completed already; resume=never runs it again", resolved.id)
            return record
        if kind == "failed" and config.resume == "auto" and not config.retry_failed:
            reason = record.error if record else ""
            raise UserError(f"{resolved.id} failed before ({reason}); retry_failed=true runs it again")
        with collector_paused():
            from rosa_bench.runs import run as running
        return running.run(resolved, observers)


def complete_together(jobs: Sequence[Sequence[str]]) -> "list[RunRecord | BaseException]":
    """Run what each job's overrides describe in one pass. They differ in lr alone (`rosa_bench.runs.packing.packs`).

    Returns the record of each run, or the error that ended it. Raises an error that concerns all of them.
    """
    from rosa_bench.runs import resolve as resolving
    from rosa_bench.runs.lock import locked

    runs = [resolving.resolve(*_composed(overrides), own_gpu=True) for overrides in jobs]
    with ExitStack() as locks:
        for resolved in runs:
            locks.enter_context(locked(resolved.lock, resolved.id))
        from rosa_bench.runs.packing.pack import run_pack

        return run_pack(runs)


def _composed(overrides: Sequence[str]) -> tuple[RunConfig, dict[str, list[Any]]]:
    """Return the settings that overrides compose to, and their deviations from the protocol."""
    if isinstance(overrides, str):
        raise UserError(f"{overrides!r} is one string; pass a list of overrides, such as ['task=cola', 'rank=8']")
    overrides = spelled(overrides)
    check_overrides(overrides)
    with composing() as composer, composition_errors():
        config = parse(composer.compose(tuple(overrides)))
        return config, deviations_of(config)
