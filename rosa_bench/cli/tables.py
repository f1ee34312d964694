"""Make the tables from the records: Markdown, LaTeX and CSV in results_dir/tables, and print them.

Usage: rosa-bench tables [KEY=VALUE ...]

Examples:
  rosa-bench tables
  rosa-bench tables results_dir=outputs/quickstart write=false
"""

from dataclasses import dataclass

from rosa_bench.cli.options import FromRecords, parse_options
from rosa_bench.system.setting import setting


@dataclass
class Options(FromRecords):
    """Options of ``rosa-bench tables``."""

    write: bool = setting("write the files; false: print only", default=True)


def main(arguments: list[str]) -> None:
    """Make and print the tables."""
    options = parse_options(Options, arguments)
    from rosa_bench.report.make_tables import make_tables

    make_tables(options.folder, write=options.write)
