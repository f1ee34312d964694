"""What is memorised: exact recall and the bits stored per trained parameter, for every arm and amount of data."""

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.facts import (
    RECALL,
    fact,
    is_memorised,
    per_parameter,
    storable,
    storable_per_parameter,
)
from rosa_bench.report.cells.select import Group
from rosa_bench.report.tables.arms import Measure, table_of_arms
from rosa_bench.report.tables.table import Table
from rosa_bench.report.writers.text import rows

INTRO = [
    "Recall: the fraction of names whose whole number is right, times 100. Stored: the information in all numbers less "
    "the loss over their digits, in thousands of bits, and in bits per trained parameter. Data: the information in all "
    "numbers, in bits per trained parameter; an arm that stores as much has learnt everything. Scored on the rows that "
    "were learnt."
]
MEASURES = (
    Measure(
        title="Recall",
        key="recall",
        value=lambda run: run.selected.get("recall"),
        form="{:.1f}",
        times=100,
        possible=lambda _: RECALL,
    ),
    Measure(
        title="Stored, kbit",
        key="bits_stored",
        value=lambda run: run.selected.get("bits_stored"),
        form="{:.4g}",
        times=1e-3,
        possible=storable,
    ),
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
    pairs, digits, bits = (fact(run, name) for name in ("pairs", "digits", "bits"))
    said = [
        *([f"{rows(int(pairs))} names"] if pairs else []),
        *([f"{digits:g} digits each"] if digits else []),
        *([f"{rows(round(bits))} bits"] if bits else []),
    ]
    return {"Data": ", ".join(said)}
