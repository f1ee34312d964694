"""Tables 4 and 5: which runs they include."""

from collections.abc import Callable
from typing import Any

import pytest

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.tables.building.table import Section, Table
from rosa_bench.report.tables.paper import table2, table4, table5

OverSeeds = Callable[..., list[RunRecord]]
ROSA = {
    "svd_add": {"method.init": ["svd_add", "svd"], "method.resample_every": [0, 2.0]},
    "factorize": {"method.resample_every": [0, 2.0]},
    "resample": {"method.resample_every": [1, 2.0]},
    "top": {"method.select": ["top", "random"], "method.resample_every": [0, 2.0]},
    "bottom": {"method.select": ["bottom", "random"], "method.resample_every": [0, 2.0]},
}
TABLE4 = {
    "FT": ("method=ft", {}),
    "LoRA (r=8)": ("method=lora", {}),
    "ROSA SVD Init": ("method=rosa", ROSA["svd_add"]),
    "ROSA SVD Init + Factorize": ("method=rosa", ROSA["factorize"]),
    "ROSA SVD Init + Factorize + Resample": ("method=rosa", ROSA["resample"]),
}
TABLE5 = {
    "FT": ("method=ft", {}),
    "ROSA (Top)": ("method=rosa", ROSA["top"]),
    "ROSA (Bottom)": ("method=rosa", ROSA["bottom"]),
    "ROSA (Random)": ("method=rosa", ROSA["factorize"]),
}


@pytest.fixture
def others(over_seeds: OverSeeds) -> list[RunRecord]:
    """Runs in neither table: Table 2's, another rank, another selection, and another task."""
    return [
        *over_seeds([0.1], "method=rosa"),
        *over_seeds([0.1], "method=ia3"),
        *over_seeds([0.1], "method=lora", "rank=2"),
        *over_seeds([0.1], "method=rosa", "rank=2", deviations=ROSA["factorize"]),
        *over_seeds([0.1], "method=rosa", deviations={**ROSA["factorize"], "method.select": ["block", "random"]}),
        *over_seeds([0.1], "task=rte", "method=rosa", deviations=ROSA["factorize"]),
    ]


def made(over_seeds: OverSeeds, rows: dict[str, tuple[str, dict[str, Any]]]) -> list[RunRecord]:
    """One run per row, with scores 0.20, 0.21, ... in row order."""
    return [
        run
        for number, (method, deviations) in enumerate(rows.values())
        for run in over_seeds([0.2 + number / 100], "task=cola", method, "rank=8", deviations=deviations)
    ]


def only_section(table: Table) -> Section:
    (section,) = table.sections
    return section


@pytest.mark.parametrize(("build", "rows"), [(table4.build, TABLE4), (table5.build, TABLE5)])
def test_each_row_has_its_own_runs_and_no_others(
    over_seeds: OverSeeds, others: list[RunRecord], build: Callable[..., Table], rows: dict
) -> None:
    section = only_section(build(select([*made(over_seeds, rows), *others])))
    column = [one.title for one in section.columns].index("CoLA")
    assert {line.label: line.entries[column].mean for line in section.lines} == {
        label: f"{20 + number}.0" for number, label in enumerate(rows)
    }
    assert all(line.entries[column].paper for line in section.lines)


def test_table_4_has_the_papers_figures_and_both_tasks(over_seeds: OverSeeds) -> None:
    section = only_section(table4.build(select(over_seeds([0.9], "task=stsb", deviations=ROSA["resample"]))))
    assert [column.title for column in section.columns] == ["Trainable", "CoLA", "STS-B"]
    assert [line.entries[2].paper for line in section.lines] == ["90.69", "82.10", "89.19", "89.42", "90.11"]
    assert [line.entries[2].mean for line in section.lines] == [None, None, None, None, "90.0"]


def test_the_papers_row_names_are_explained_by_our_settings(over_seeds: OverSeeds) -> None:
    runs = over_seeds([0.6], deviations=ROSA["svd_add"])
    intro = " ".join(table4.build(select(runs)).intro)
    assert "ROSA SVD Init is method=rosa rank=8 method.init=svd_add method.resample_every=0;" in intro
    assert " is method=" not in " ".join(table2.build(select(runs)).intro)


def test_table_5_names_its_column_cola_and_notes_the_papers_heading(over_seeds: OverSeeds) -> None:
    table = table5.build(select(over_seeds([0.6], deviations=ROSA["top"])))
    assert [column.title for column in only_section(table).columns] == ["Trainable", "CoLA"]
    assert "headed MRPC" in " ".join(table.intro)
    assert "matthews correlation: CoLA" in only_section(table).header["Metric"]


@pytest.mark.parametrize("build", [table4.build, table5.build])
def test_runs_of_table_2_alone_give_no_other_table(
    over_seeds: OverSeeds, others: list[RunRecord], build: Callable[..., Table]
) -> None:
    runs = [*over_seeds([0.5], "method=ft"), *over_seeds([0.5], "method=lora"), *others]
    assert build(select(runs)).sections == []
    assert table2.build(select(runs)).sections


def test_a_setting_without_one_of_the_tables_own_rows_is_left_out(over_seeds: OverSeeds) -> None:
    short = {"epochs": [3, 10]}
    runs = [*made(over_seeds, TABLE4), *over_seeds([0.5], "method=lora", deviations=short)]
    assert only_section(table4.build(select(runs))).header["Changed"] == "nothing"


def test_rosas_rows_are_compared_with_lora(over_seeds: OverSeeds) -> None:
    runs = [
        *over_seeds([0.50, 0.51, 0.52], "method=lora"),
        *over_seeds([0.60, 0.61, 0.63], "method=rosa", deviations=ROSA["resample"]),
        *over_seeds([0.50, 0.52, 0.51], "method=rosa", deviations=ROSA["svd_add"]),
    ]
    contrasts = only_section(table4.build(select(runs))).contrasts
    assert [(one.label, one.difference, one.verdict) for one in contrasts] == [
        ("ROSA SVD Init", "+0.0 [-2.5, +2.5]", "within noise"),
        ("ROSA SVD Init + Factorize + Resample", "+10.3 [+8.9, +11.8]", "above LoRA"),
    ]
