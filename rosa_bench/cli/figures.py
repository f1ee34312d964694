"""Draw the figures from the records: SVG, PNG and Markdown in results_dir/figures.

Usage: rosa-bench figures [KEY=VALUE ...]

Examples:
  rosa-bench figures
  rosa-bench figures results_dir=outputs/quickstart
"""

from dataclasses import dataclass
from pathlib import Path

from rosa_bench.cli.options import parse_options
from rosa_bench.system.setting import Checked, setting


@dataclass
class Options(Checked):
    """Options of ``rosa-bench figures``."""

    results_dir: str = setting("folder with the records in runs/", default="results")


def main(arguments: list[str]) -> None:
    """Draw the figures."""
    options = parse_options(Options, arguments)
    from rosa_bench.report.make_figures import make_figures

    make_figures(Path(options.results_dir).expanduser())
