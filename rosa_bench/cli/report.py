"""Write one page with all tables, figures and runs: results_dir/report.html, which works without a network.

Usage: rosa-bench report [KEY=VALUE ...]

Examples:
  rosa-bench report
  rosa-bench report results_dir=outputs/quickstart
"""

from dataclasses import dataclass
from pathlib import Path

from rosa_bench.cli.options import parse_options
from rosa_bench.system.setting import Checked, setting


@dataclass
class Options(Checked):
    """Options of ``rosa-bench report``."""

    results_dir: str = setting("folder with the records in runs/", default="results")


def main(arguments: list[str]) -> None:
    """Write the page."""
    options = parse_options(Options, arguments)
    from rosa_bench.report.make_page import make_report

    make_report(Path(options.results_dir).expanduser())
