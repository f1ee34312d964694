"""Table 4: what each part of ROSA adds."""

from rosa_bench.report.cells.select import Group
from rosa_bench.report.published import load_published
from rosa_bench.report.tables.scores import belonging, score_table
from rosa_bench.report.tables.table import Table


def build(groups: list[Group]) -> Table:
    """The paper's rows and tasks alone, of the settings that have one of ROSA's."""
    published = load_published("table4")
    return score_table("table4", belonging(groups, published), published)
