from collections.abc import Callable
from typing import Any

import pytest

from rosa_bench.records.parts.measured import EpochScores
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.tables.building.table import Entry
from rosa_bench.report.tables.train_loss import build
from rosa_bench.report.writers.text import UNDEFINED

MakeRecord = Callable[..., RunRecord]
Ending = Callable[..., RunRecord]


@pytest.fixture
def ending(make_record: MakeRecord) -> Ending:
    """``ending(0.3, "task=cola")``: a run with this training loss in its last epoch, and 9 in the others."""

    def make(loss: float, *overrides: str, spread: float | None = 0.9, **changes: Any) -> RunRecord:
        record = make_record(*overrides, **changes)
        record.scores.epochs = [EpochScores(train_loss=each, scores={}) for each in (9.0, loss)]
        if spread is not None:
            record.selected["spread"] = record.last["spread"] = spread
        return record

    return make


def entries(records: list[RunRecord]) -> dict[str, list[Entry]]:
    [section] = build(select(records)).sections
    return {line.label: line.entries for line in section.lines}


def test_last_epoch_loss_over_seeds_at_every_learning_rate(ending: Ending) -> None:
    best = [ending(loss, "method=ft", "lr=2e-5", f"seed={seed}") for seed, loss in enumerate((0.1, 0.3))]
    other = ending(0.5, "method=ft", "lr=6e-5", dev=0.01)
    assert entries([*best, other]) == {
        "FT, lr 2e-05": [Entry(mean="0.200", spread="0.141", count=2)],
        "FT, lr 6e-05": [Entry(mean="0.500", count=1)],
    }


def test_collapsed_runs_are_excluded_from_means(ending: Ending) -> None:
    mixed = [ending(0.1, "method=ft"), ending(0.7, "method=ft", "seed=1", spread=0.0)]
    lost = ending(0.7, "method=bitfit", "lr=2e-3", spread=0.0)
    untold = ending(0.4, "method=lora", spread=None)
    assert entries([*mixed, lost, untold]) == {
        "FT, lr 6e-05": [Entry(mean="0.100", count=1)],
        "BitFit, lr 0.002": [Entry(mean="collapsed")],
        "LoRA (r=8), lr 6e-05": [Entry(mean="0.400", count=1)],
    }


def test_the_csv_file_has_every_run(ending: Ending) -> None:
    runs = [ending(0.1, "method=ft"), ending(1 / 3, "method=ft", "seed=1", spread=0.0)]
    untold = ending(0.4, "method=lora", spread=None)
    assert [
        (row["variant"], row["task"], row["seed"], float(row["train_loss"]), row["collapsed"])
        for row in build(select([*runs, untold])).tidy
    ] == [("FT", "cola", "0", 0.1, "0"), ("FT", "cola", "1", 1 / 3, "1"), ("LoRA (r=8)", "cola", "0", 0.4, "")]


def test_losses_of_runs_scored_by_a_loss_have_the_decimals_of_the_smallest(
    ending: Ending, make_referenced: MakeRecord
) -> None:
    """A column of scores keeps three decimals, and is not changed by the others."""
    scored = [ending(0.0123, "method=ft"), ending(0.5, "method=lora")]
    losses = {"method=ft": (0.01234, 0.01236), "method=lora": (1.25, None), "method=ia3": (2.0,)}
    referenced = [
        make_referenced(1.5, method, "lr=1e-3", f"seed={seed}")
        for method, some in losses.items()
        for seed in range(len(some))
    ]
    for run, loss in zip(referenced, [loss for some in losses.values() for loss in some], strict=True):
        run.scores.epochs[-1].train_loss = loss
    table = build(select([*scored, *referenced]))
    assert table.sections[0] == build(select(scored)).sections[0]
    assert [[entry.mean for entry in line.entries] for line in table.sections[0].lines] == [["0.012"], ["0.500"]]
    assert {line.label: line.entries for line in table.sections[1].lines} == {
        "(IA)³, lr 0.001": [Entry(mean="2.00000", count=1)],
        "FT, lr 0.001": [Entry(mean="0.01235", spread="0.00001", count=2)],
        "LoRA (r=8), lr 0.001": [Entry(mean=UNDEFINED)],
    }


def test_runs_without_epochs_give_no_table(make_record: MakeRecord) -> None:
    assert build(select([make_record()])).sections == []
