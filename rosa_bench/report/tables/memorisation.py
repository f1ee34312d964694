"""What is memorised: exact recall and the bits stored per trained parameter, for every arm and amount of data."""

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.cells.words.facts import (
    CHANGE,
    RECALL,
    fact,
    is_memorised,
    per_parameter,
    storable,
    storable_per_parameter,
)
from rosa_bench.report.tables.building.arms import Measure, score, table_of_arms
from rosa_bench.report.tables.building.table import Table
from rosa_bench.report.writers.text import thousands

INTRO = [
    "Recall: the fraction of names whose whole number is right, times 100. Stored: the information in all numbers less "
    "the loss over their digits, in thousands of bits, and in bits per trained parameter. Data: the information in all "
    "numbers, in bits per trained parameter; an arm that stores as much has learned everything. Scored on the rows "
    "that were learned.",
    "If the names were learned in parts, one after another: Recall is that of all parts at the end, and When learned "
    "that of each part at the end of its own steps, as a mean over the parts. Forgetting is how much lower a part's "
    "recall is at the end than when it was learned, as a mean over the parts but the last.",
]
MEASURES = (
    score("Recall", "recall", possible=lambda _: RECALL, form="{:.1f}", times=100),
    score("When learned", "recall_when_learned", possible=lambda _: RECALL, form="{:.1f}", times=100),
    score("Forgetting", "forgetting", possible=lambda _: CHANGE, form="{:.1f}", times=100),
    score("Stored, kbit", "bits_stored", possible=storable, form="{:.4g}", times=1e-3),
    Measure(
        title="Stored, bits per parameter",
        key="bits_per_parameter",
        value=lambda run: run.bits_per_parameter,
        possible=storable_per_parameter,
    ),
    Measure(title="Data, bits per parameter", key="data_bits_per_parameter", value=per_parameter),
)


def build(groups: list[Group]) -> Table:
    """Build the table: one section per setting, with the number of names among its settings, from few to many."""
    ordered = sorted(groups, key=lambda group: max((fact(run, "bits") or 0 for run in group.runs), default=0))
    return table_of_arms(
        ordered, is_memorised, MEASURES, _facts, name="memorisation", title="Memorisation", intro=INTRO
    )  # fmt: skip


def _facts(run: RunRecord) -> dict[str, str]:
    pairs, digits, bits, parts = (fact(run, name) for name in ("pairs", "digits", "bits", "parts"))
    said = [
        *([f"{thousands(int(pairs))} names"] if pairs else []),
        *([f"{digits:g} digits each"] if digits else []),
        *([f"{thousands(round(bits))} bits"] if bits else []),
        *([f"learned in {parts:g} parts, one after another"] if parts else []),
    ]
    return {"Data": ", ".join(said)}
