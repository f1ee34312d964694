"""Text tasks that are scored by a loss: log-perplexity of the test references, from which nothing is generated."""

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.cells.words.facts import POSITIVE, scores_references
from rosa_bench.report.cells.words.header import data_note
from rosa_bench.report.tables.building.arms import score, table_of_arms
from rosa_bench.report.tables.building.table import Table
from rosa_bench.report.writers.text import thousands

INTRO = [
    "Loss: nats per token of the test references given their prompts, of the selected epoch. Perplexity: its "
    "exponential. Lower is better. No output is scored here: Table 3 has the runs that report a score of their outputs."
]
MEASURES = (
    score("Loss", "loss", possible=lambda _: POSITIVE),
    score("Perplexity", "perplexity", possible=lambda _: POSITIVE),
)


def build(groups: list[Group]) -> Table:
    """Build the table: one section per setting and task."""
    return table_of_arms(
        groups, scores_references, MEASURES, _facts, name="references", title="Texts by the loss of their references",
        intro=INTRO,
    )  # fmt: skip


def _facts(run: RunRecord) -> dict[str, str]:
    train, note, test = thousands(run.data.rows.train), data_note(run), run.data.rows.test
    prompts = (run.data.prompts or {}).get("test")
    known = {"Train rows": f"{train} ({note})" if note else train}
    return (
        {**known, "References": f"{thousands(test)} for {thousands(prompts)} test prompts"}
        if test and prompts
        else known
    )
