"""Table 5: ways to choose ROSA's singular vectors."""

from dataclasses import replace

from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.published import load_published
from rosa_bench.report.tables.building.scores import belonging, score_table
from rosa_bench.report.tables.building.table import Table


def build(groups: list[Group]) -> Table:
    """Build the table with only the paper's rows and task, for settings that have at least one ROSA row.

    The column is CoLA: ours is, and the paper's caption, text and figures say so, although its heading does not.
    """
    published = replace(load_published("table5"), columns={"cola": "CoLA"})
    return score_table("table5", belonging(groups, published), published)
