"""Table 4: ablation of ROSA's components."""

from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.published import load_published
from rosa_bench.report.tables.building.scores import belonging, score_table
from rosa_bench.report.tables.building.table import Table


def build(groups: list[Group]) -> Table:
    """Build the table with only the paper's rows and tasks, for settings that have at least one ROSA row."""
    published = load_published("table4")
    return score_table("table4", belonging(groups, published), published)
