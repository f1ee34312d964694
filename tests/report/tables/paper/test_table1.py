"""Table 1: times of runs that padded every batch to 512."""

from collections.abc import Callable
from typing import Any

import pytest

from rosa_bench.config.schema import RunConfig
from rosa_bench.methods.base import RunLength
from rosa_bench.methods.rosa import Rosa
from rosa_bench.records.record import RunRecord, from_values, to_values
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.tables.building.table import Entry, Line
from rosa_bench.report.tables.paper import table1, table2, table4

Compose = Callable[..., RunConfig]
MakeTimed = Callable[..., RunRecord]
A100 = {"type": "cuda", "name": "NVIDIA A100", "precision": "bfloat16"}


@pytest.fixture
def make_timed(make_record: Callable[..., RunRecord]) -> MakeTimed:
    """``make_timed("method=ft", train=30.0, resample=0.0)``: a run of 3 epochs with these times in seconds.

    padded  whether padded to 512; None as in a record older than the setting
    """

    def make(
        *overrides: str, train: float = 30.0, resample: float | None = None, padded: bool | None = True, **changes: Any
    ) -> RunRecord:
        times = {"load": 1.0, "train": train, "evaluate": 9.0}
        times |= {} if resample is None else {"resample": resample}
        changes["deviations"] = changes.get("deviations", {}) | ({"pad_to_max": [True, False]} if padded else {})
        padding = f"pad_to_max={str(bool(padded)).lower()}"
        record = make_record("task=cola", "epochs=3", padding, *overrides, time_s=times, **changes)
        if padded is None:
            values = to_values(record)
            del values["config"]["pad_to_max"]
            return from_values(values)
        return record

    return make


def rows(lines: list[Line]) -> dict[str, list[Entry]]:
    return {line.label: line.entries for line in lines}


def test_epoch_and_factorisation_times_are_next_to_the_papers(make_timed: MakeTimed) -> None:
    """ROSA: two factorisations in three epochs of 10 s, so an epoch with one takes 10.5 s."""
    every = {"method.resample_every": [1, 2.0]}
    runs = [
        make_timed("method=ft", train=36.0),
        make_timed("method=rosa", "method.resample_every=1", "seed=0", resample=1.0, deviations=every),
        make_timed("method=rosa", "method.resample_every=1", "seed=1", resample=2.0, deviations=every),
        make_timed("method=ia3", train=600.0),
    ]
    (section,) = table1.build(select(runs)).sections
    assert [column.title for column in section.columns] == ["Factorize Time (s)", "Epoch Time (s)"]
    assert rows(section.lines) == {
        "FT": [Entry(), Entry(mean="12.00", count=1, paper="157 ± 0.16")],
        "LoRA": [Entry(), Entry(paper="152 ± 0.56")],
        "ROSA (r=8, resample_every=1)": [
            Entry(mean="0.750", spread="0.354", count=2, paper="4.03 ± 3.67"),
            Entry(mean="10.75", spread="0.35", count=2, paper="153 ± 0.16"),
        ],
        "(IA)³": [Entry(), Entry(mean="200.0", count=1)],
    }


@pytest.mark.parametrize("every", [0, 0.5, 1, 1.5, 2, 3])
@pytest.mark.parametrize("epochs", [1, 2, 3, 10])
@pytest.mark.parametrize("unit", ["epochs", "steps"])
def test_factorisations_are_counted_by_rosas_period(
    make_record: Callable[..., RunRecord], compose: Compose, every: float, epochs: int, unit: str
) -> None:
    overrides = ("task=mrpc", f"epochs={epochs}", f"method.resample_every={every}", f"method.resample_unit={unit}")
    method = compose(*overrides).method
    assert isinstance(method, Rosa)
    steps = 115  # 3,668 rows in batches of 32
    made = sum(method.is_due(step, RunLength(steps, epochs)) for step in range(epochs * steps))
    assert table1.resamples(make_record(*overrides)) == made  # an older record
    assert table1.resamples(make_record(*overrides, resamples=made + 1)) == made + 1  # the recorded count wins


@pytest.mark.parametrize("method", ["ft", "lora", "ia3"])
def test_methods_without_a_factorisation_have_none(make_timed: MakeTimed, method: str) -> None:
    run = make_timed(f"method={method}")
    assert (table1.factorize_time_s(run), table1.epoch_time_s(run)) == (None, 10.0)


@pytest.mark.parametrize("other", [{"padded": None}, {"padded": False}])
def test_batches_padded_to_their_own_longest_are_not_timed(make_timed: MakeTimed, other: dict[str, Any]) -> None:
    assert table1.build(select([make_timed(**other)])).sections == []


@pytest.mark.parametrize("override", ["task=rte", "batch_size=16", "max_length=128"])
def test_other_tasks_and_shapes_are_not_timed(make_timed: MakeTimed, override: str) -> None:
    assert table1.build(select([make_timed(override)])).sections == []


def test_times_of_two_devices_are_never_mixed(make_timed: MakeTimed) -> None:
    runs = [make_timed("method=ft", "seed=0"), make_timed("method=ft", "seed=1", train=60.0, device=A100)]
    assert len(select(runs)) == 1  # scores of two devices may be mixed
    table = table1.build(select(runs))
    found = {section.header["Device"]: rows(section.lines)["FT"][1].mean for section in table.sections}
    assert found == {"NVIDIA H200, bfloat16": "10.00", "NVIDIA A100, bfloat16": "20.00"}
    assert len({row["device"] for row in table.tidy}) == len(table.tidy) == 2


def test_there_is_one_tidy_row_per_run(make_timed: MakeTimed) -> None:
    table = table1.build(select([make_timed("method=rosa", resample=0.5), make_timed("method=ft")]))
    assert {(row["method"], row["factorize_time_s"], row["epoch_time_s"]) for row in table.tidy} == {
        ("rosa", "0.5000", "10.5000"),
        ("ft", "", "10.0000"),
    }


def test_a_timed_run_is_in_no_table_of_scores(make_timed: MakeTimed) -> None:
    every = {"method.resample_every": [1, 2.0]}
    scored = [make_timed(padded=False), make_timed("method.resample_every=1", padded=False, deviations=every)]
    timed = [make_timed("seed=1", resample=1.0), make_timed("method.resample_every=1", resample=1.0, deviations=every)]
    for table in (table2, table4):
        alone, both = (table.build(select(runs)) for runs in (scored, [*scored, *timed]))
        assert alone.sections
        assert (both.sections, both.tidy) == (alone.sections, alone.tidy)
        assert any("pad_to_max=true" in line for line in both.intro)
        assert not any("pad_to_max" in line for line in alone.intro)
        assert table.build(select(timed)).sections == []
    assert len(table1.build(select([*scored, *timed])).sections) == 1


def test_times_on_custom_rows_have_no_paper_figures(make_timed: MakeTimed) -> None:
    (section,) = table1.build(select([make_timed("method=ft", data={"official": False})])).sections
    assert "Paper" not in section.header
    assert [line.label for line in section.lines] == ["FT"]
    assert all(entry.paper is None for line in section.lines for entry in line.entries)


def test_an_epoch_of_a_run_that_was_stopped_is_one_of_those_it_made(make_timed: MakeTimed) -> None:
    run = make_timed("method=ft", train=36.0, stopped={"epoch": 2, "reason": "alike"})
    assert table1.epoch_time_s(run) == 18


def test_a_gpu_that_was_shared_is_said(make_timed: MakeTimed) -> None:
    runs = [make_timed("method=ft", f"seed={seed}") for seed in range(3)]
    runs[0].device.shared_by = 1
    assert table1.build(select(runs)).sections[0].notes == []
    runs[1].device.shared_by = 2
    assert table1.build(select(runs)).sections[0].notes == ["the GPU was shared in 1 of 3 runs, so times are too long"]
