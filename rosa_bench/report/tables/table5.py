"""Table 5: ways to choose ROSA's singular vectors."""

from dataclasses import replace

from rosa_bench.report.cells.select import Group
from rosa_bench.report.published import load_published
from rosa_bench.report.tables.scores import belonging, score_table
from rosa_bench.report.tables.table import Table


def build(groups: list[Group]) -> Table:
    """The paper's rows and task alone, of the settings that have one of ROSA's.

    The column is CoLA's: that is what ours is, and what the paper's caption, text and figures say against its heading.
    """
    published = replace(load_published("table5"), columns={"cola": "CoLA"})
    return score_table("table5", belonging(groups, published), published)
