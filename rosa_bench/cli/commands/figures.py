"""Draw the figures from the records: SVG, with captions in Markdown, in results_dir/figures.

Usage: rosa-bench figures [KEY=VALUE ...]

Examples:
  rosa-bench figures
  rosa-bench figures results_dir=outputs/quickstart
  rosa-bench figures format=pdf                       # PDF too, for an article
"""

from dataclasses import dataclass

from rosa_bench.cli.options import FromRecords, parse_options
from rosa_bench.system.setting import setting


@dataclass
class Options(FromRecords):
    """Options of ``rosa-bench figures``."""

    format: str = setting("kind of picture; SVG is always written", default="svg", choices=("svg", "png", "pdf"))


def main(arguments: list[str]) -> None:
    """Draw the figures."""
    options = parse_options(Options, arguments)
    from rosa_bench.report.make_figures import make_figures

    make_figures(options.folder, kind=options.format)
