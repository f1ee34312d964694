"""List the runs of a results folder, one line each, the newest last.

Usage: rosa-bench ls [KEY=VALUE ...] [--all]

Settings restrict the list to the runs that have one of these values; status= does too (completed, failed, interrupted).
A run has a record, and is listed, once it has ended; one that was killed is not.
Only the newest runs are listed, unless --all is given.

Examples:
  rosa-bench ls
  rosa-bench ls task=cola method=lora,rosa lr=2e-3
  rosa-bench ls status=failed results_dir=outputs/quickstart --all
"""

from dataclasses import dataclass

from rosa_bench.cli.options import ALL, FromRecords, options_and_filters, split
from rosa_bench.system.errors import UserError, one_of
from rosa_bench.system.setting import setting

STATUS = "status"


@dataclass
class Options(FromRecords):
    """Options of ``rosa-bench ls``."""

    limit: int = setting("how many of the newest runs are listed", default=40, at_least=1)


def main(arguments: list[str]) -> None:
    """Print the list."""
    from rich import get_console
    from rich.text import Text

    from rosa_bench.records.find import by_start, elsewhere
    from rosa_bench.records.parts.types import STATUSES
    from rosa_bench.records.store import load_records
    from rosa_bench.report.filters import filters_of, matching
    from rosa_bench.report.show.run_lines import run_lines

    options, others, everything = options_and_filters(Options, arguments)
    statuses, about = split(others, lambda key: key == STATUS)
    wanted = filters_of(about)
    kinds = [kind for argument in statuses for kind in argument.partition("=")[2].split(",")]
    for kind in kinds:
        one_of(STATUS, kind, STATUSES)
    found = load_records(options.folder)
    if not found:
        other = elsewhere(options.folder)
        raise UserError(f"results_dir={options.results_dir} has no runs; run something first{other}")
    kept = [run for run in by_start(matching(found, wanted)) if not kinds or run.status in kinds]
    if not kept:
        raise UserError(f"no run has all of: {' '.join(others)}")
    shown = kept if everything else kept[-options.limit :]
    console = get_console()
    for line in run_lines(shown, [run.id for run in found], console.width):
        console.out(line, highlight=False)
    more = f", the newest; {ALL} lists all" if len(shown) < len(kept) else ""
    console.print()
    console.print(Text(f"{len(shown):,} of {len(kept):,} runs{more}; rosa-bench show RUN shows one"), soft_wrap=True)
    found.remind()
