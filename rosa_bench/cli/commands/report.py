"""Write one page with all tables, figures and runs: results_dir/report.html, which works without a network.

Usage: rosa-bench report [KEY=VALUE ...]

Examples:
  rosa-bench report
  rosa-bench report results_dir=outputs/quickstart
"""

from dataclasses import dataclass

from rosa_bench.cli.options import FromRecords, parse_options


@dataclass
class Options(FromRecords):
    """Options of ``rosa-bench report``."""


def main(arguments: list[str]) -> None:
    """Write the page."""
    options = parse_options(Options, arguments)
    from rosa_bench.report.make_page import make_report

    make_report(options.folder)
