"""Table 2: methods and ranks on GLUE and SuperGLUE."""

from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.cells.words.facts import scored_on_test
from rosa_bench.report.published import load_published
from rosa_bench.report.tables.building.scores import of_tasks, score_table
from rosa_bench.report.tables.building.table import Table


def build(groups: list[Group]) -> Table:
    """Build the table: the paper's rows and tasks, then every other variant and understanding task with runs."""
    understanding = of_tasks(groups, lambda run: not scored_on_test(run))
    return score_table("table2", understanding, load_published("table2"))
