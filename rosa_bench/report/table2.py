"""Table 2: methods and ranks on GLUE and SuperGLUE."""

from rosa_bench.report.published import load_published
from rosa_bench.report.scores import score_table
from rosa_bench.report.select import Group
from rosa_bench.report.table import Table


def build(groups: list[Group]) -> Table:
    """The paper's rows and tasks, and every other variant and task that has runs."""
    return score_table("table2", groups, load_published("table2"))
