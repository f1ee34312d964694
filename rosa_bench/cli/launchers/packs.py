"""The runs of a sweep that train together: the first of them that Hydra starts makes them all."""

import logging
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rosa_bench.cli.messages import explain, report, tracebacks_wanted

if TYPE_CHECKING:
    from rosa_bench.config.composing.compose import Overrides
    from rosa_bench.runs.planning.plan import Job

log = logging.getLogger(__name__)

LAUNCHERS = ("+launch=", "hydra/launcher")
_packs: "dict[Overrides, list[Job]]" = {}  # of this process's sweep: by job, the jobs of its pack
_made: "set[Overrides]" = set()


def starts_here(overrides: Sequence[str]) -> bool:
    """Return whether a sweep's runs are made by this process, and not by a launcher of others, perhaps elsewhere."""
    return not any(override.startswith(LAUNCHERS) for override in overrides)


def plan_packs(jobs: "Sequence[Job]") -> None:
    """Note which jobs of a sweep that this process makes go together."""
    from rosa_bench.runs.packing.packs import packs

    waiting = {job.resolved.id: job for job in jobs if job.resolved and job.will_run}
    for pack in packs([job.resolved for job in waiting.values() if job.resolved]):
        if len(pack) > 1:
            together = [waiting[run.id] for run in pack]
            _packs.update((job.overrides, together) for job in together)


def made_in_pack(overrides: "Overrides") -> bool:
    """Make the whole pack of a job, unless that was done before. Returns False for a job to be made by itself."""
    if (jobs := _packs.get(overrides)) is not None:
        for job in jobs:
            del _packs[job.overrides]
        _made.update(job.overrides for job in _make(jobs))
    return overrides in _made


def _make(jobs: "list[Job]") -> "list[Job]":
    """Make a pack, and report each run that ended with an error. Returns the jobs that were made.

    With ``packed=auto``, runs that turn out to have no packed form are not made.
    """
    from rosa_bench import api
    from rosa_bench.layers.packs.packed import UnpackableError

    runs = [job.resolved for job in jobs if job.resolved]
    rates = ", ".join(f"{run.config.lr:g}" for run in runs)
    log.info("%d runs in one pass, with lr=%s", len(runs), rates)
    try:
        outcomes = api.complete_together([job.overrides for job in jobs])
    except Exception as error:  # as of a job of a sweep: the others go on
        outcomes = [error] * len(runs)
    made = []
    for job, run, outcome in zip(jobs, runs, outcomes, strict=True):
        if isinstance(outcome, UnpackableError) and run.config.packed == "auto":
            log.info("%s is made alone: %s", run.id, outcome)
            continue
        made.append(job)
        if isinstance(outcome, Exception):
            if tracebacks_wanted():
                traceback.print_exception(outcome)
            else:
                report(explain(outcome))
    return made
