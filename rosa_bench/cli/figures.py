"""Draw the figures from the records: SVG, PNG and Markdown in results_dir/figures.

Usage: rosa-bench figures [KEY=VALUE ...]

Examples:
  rosa-bench figures
  rosa-bench figures results_dir=outputs/quickstart
"""

from dataclasses import dataclass

from rosa_bench.cli.options import FromRecords, parse_options


@dataclass
class Options(FromRecords):
    """Options of ``rosa-bench figures``."""


def main(arguments: list[str]) -> None:
    """Draw the figures."""
    options = parse_options(Options, arguments)
    from rosa_bench.report.make_figures import make_figures

    make_figures(options.folder)
