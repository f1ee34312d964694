"""Make the tables from the records: Markdown, LaTeX and CSV in results_dir/tables, and print them.

Usage: rosa-bench tables [KEY=VALUE ...] [--all]

Prints the first section of each table, unless --all is given. Settings restrict the tables to the runs that have one
of these values; such tables are printed whole, and not written.

Examples:
  rosa-bench tables
  rosa-bench tables task=cola model=minilm
  rosa-bench tables results_dir=outputs/quickstart write=false --all
"""

from dataclasses import dataclass

from rosa_bench.cli.options import FromRecords, options_and_filters
from rosa_bench.system.errors import UserError
from rosa_bench.system.resources.collector import collector_paused
from rosa_bench.system.setting import setting

FIRST = 1  # sections of each table that are printed without it


@dataclass
class Options(FromRecords):
    """Options of ``rosa-bench tables``."""

    write: bool = setting("write the files; false: print only", default=True)


@collector_paused()
def main(arguments: list[str]) -> None:
    """Make and print the tables."""
    options, others, everything = options_and_filters(Options, arguments)
    if others and options.write and any(argument.startswith("write=") for argument in arguments):
        raise UserError(f"write=true is for the tables of all runs; leave it out, or leave out {' '.join(others)}")
    from rosa_bench.report.filters import filters_of
    from rosa_bench.report.make_tables import make_tables

    first = None if others or everything else FIRST
    make_tables(options.folder, write=options.write and not others, wanted=filters_of(others), first=first)
