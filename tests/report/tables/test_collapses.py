from collections.abc import Callable
from typing import Any

import pytest

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.tables.collapses import build

MakeRecord = Callable[..., RunRecord]
Spreading = Callable[..., RunRecord]


@pytest.fixture
def spreading(make_record: MakeRecord) -> Spreading:
    """``spreading(0.9, "task=cola")``: a run with this final spread of predictions; None if not recorded."""

    def make(spread: float | None, *overrides: str, **changes: Any) -> RunRecord:
        record = make_record(*overrides, **changes)
        record.selected["spread"] = 0.9
        if spread is not None:
            record.last["spread"] = spread
        return record

    return make


@pytest.mark.parametrize(
    ("spread", "collapsed"),
    [(0.0, True), (0.049, True), (0.05, False), (1.2, False), (float("nan"), None), (None, None)],
)
def test_a_run_collapsed_if_its_last_predictions_are_constant(
    spreading: Spreading, spread: float | None, collapsed: bool | None
) -> None:
    assert spreading(spread).has_collapsed is collapsed


def test_collapses_are_counted_by_method_learning_rate_and_task(spreading: Spreading) -> None:
    lora = [
        spreading(spread, "task=cola", "method=lora", f"lr={lr}", f"seed={seed}", dev=0.1 if spread else 0.0)
        for lr, spreads in {2e-3: (0.9, 0.8), 6e-3: (0.0, 0.8)}.items()
        for seed, spread in enumerate(spreads)
    ]
    other = spreading(0.0, "task=rte", "method=lora", "lr=2e-3")
    table = build(select([*lora, other, spreading(None, "task=mrpc", "method=ft")]))
    [section] = table.sections
    assert [column.title for column in section.columns] == ["CoLA", "RTE"]
    assert {line.label: [entry.mean for entry in line.entries] for line in section.lines} == {
        "LoRA (r=8), lr 0.002": ["0 of 2", "1 of 1"],
        "LoRA (r=8), lr 0.006": ["1 of 2", None],
    }
    assert [(row["task"], row["lr"], row["runs"], row["collapsed"]) for row in table.tidy] == [
        ("cola", "0.002", "2", "0"), ("rte", "0.002", "1", "1"), ("cola", "0.006", "2", "1")
    ]  # fmt: skip


def test_runs_without_recorded_spread_give_no_table(spreading: Spreading) -> None:
    assert build(select([spreading(None)])).sections == []
