"""Show what a sweep would run, what is completed, what failed before and how long the rest takes; run nothing.

Usage: rosa-bench plan KEY=VALUE,... ...

Takes the settings of `rosa-bench run` (see rosa-bench run --help). Exits with status 1 if a job cannot be run.
Damaged records of the plan's own tasks and models are named; rosa-bench ls names all.

Examples:
  rosa-bench plan method=lora,rosa lr=2e-3,2e-4 seed=0,1,2
  rosa-bench plan +experiment=table2
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rosa_bench.cli.messages import explain, report, report_at_once
from rosa_bench.cli.options import MULTIRUN, separate
from rosa_bench.system.errors import UserError
from rosa_bench.system.resources.collector import collector_paused

if TYPE_CHECKING:
    from rosa_bench.runs.planning.plan import Job

SHOWN = 10  # jobs of a sweep whose mistakes are listed


@collector_paused()
def main(arguments: list[str]) -> None:
    """Print the plan of a sweep."""
    report_at_once("planning", arguments)
    from rich import get_console

    from rosa_bench.config.files.preset import at_given_rate
    from rosa_bench.config.overrides.grammar import spelled
    from rosa_bench.config.overrides.mistakes import check_overrides
    from rosa_bench.runs.planning.plan import plan, show

    flags, overrides = separate(arguments)
    if odd := [flag for flag in flags if flag not in MULTIRUN]:
        raise UserError(f"{odd[0]} does not go with rosa-bench plan, which takes KEY=VALUE arguments only")
    overrides = at_given_rate(spelled(overrides, sweep=True))
    check_overrides(overrides)
    jobs = plan(overrides, explain)
    if not _share_a_mistake(jobs):
        show(jobs, get_console())
    refuse_invalid(jobs)


def refuse_invalid(jobs: "Sequence[Job]", consequence: str = "") -> None:
    """Raise `UserError` if some jobs of a sweep cannot be run, after a line about each of the first of them.

    A mistake that all jobs share is reported once.
    """
    if not (wrong := [job for job in jobs if job.kind == "invalid"]):
        return
    if _share_a_mistake(jobs):
        raise UserError(wrong[0].reason)
    for job in wrong[:SHOWN]:
        report(f"{' '.join(job.overrides)}: {job.reason}")
    raise UserError(f"{len(wrong)} of {len(jobs)} jobs cannot be run{consequence}")


def _share_a_mistake(jobs: "Sequence[Job]") -> bool:
    return len({job.reason for job in jobs}) == 1 and all(job.kind == "invalid" for job in jobs)
