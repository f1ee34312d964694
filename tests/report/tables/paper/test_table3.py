"""Runs of a generation task in tables and figures: Table 3, and their absence from the other tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rosa_bench.records.record import RunRecord, from_values, to_values
from rosa_bench.records.store import save_record
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.cells.words.header import data_note
from rosa_bench.report.figures.paper import figure4, figure6
from rosa_bench.report.figures.studies import lr_sensitivity
from rosa_bench.report.make_figures import make_figures
from rosa_bench.report.make_tables import make_tables
from rosa_bench.report.tables.building.table import Entry, Section, Table
from rosa_bench.report.tables.paper import table2, table3, table4, table5

MakeRecord = Callable[..., RunRecord]
PAPER_ROWS = ["FT", "(IA)³", "LoRA (r=4)", "ROSA (r=4)", "LoRA (r=8)", "ROSA (r=8)"]
PAPER = ["68", "65", "64", "68", "67", "67"]
COUNTS = {"train": 42_061, "validation": 4_672, "test": 4_693}


def table_of(records: list[RunRecord]) -> Table:
    return table3.build(select(records))


def section_of(records: list[RunRecord]) -> Section:
    (section,) = table_of(records).sections
    return section


def entry(section: Section, row: str, column: str) -> Entry:
    (line,) = (line for line in section.lines if line.label == row)
    return line.entries[[one.title for one in section.columns].index(column)]


# Runs and scores


def test_the_papers_rows_have_its_figures(make_written: MakeRecord) -> None:
    section = section_of([make_written([9.0], "method=ft"), make_written([9.0], "method=lora", "rank=2")])
    assert [line.label for line in section.lines] == [*PAPER_ROWS, "LoRA (r=2)"]
    assert [entry(section, row, "E2E, BLEU").paper for row in PAPER_ROWS] == PAPER
    assert [entry(section, row, "Trainable").paper for row in PAPER_ROWS] == [
        "355 M", "0.2 M", "0.9 M", "0.9 M", "1.7 M", "1.7 M",
    ]  # fmt: skip


def test_our_scores_are_next_to_the_papers_with_further_metrics_of_the_same_texts(make_written: MakeRecord) -> None:
    runs = [
        make_written([9.0], "method=lora", f"seed={seed}", bleu=bleu, bleu_cased=bleu - 0.1, nist=nist, perplexity=nist)
        for seed, (bleu, nist) in enumerate([(0.61, 7.0), (0.63, 8.0)])
    ]
    section = section_of([*runs, make_written([9.0], "method=ft")])
    assert [column.title for column in section.columns] == [
        "Trainable", "E2E, BLEU", "BLEU, cased", "NIST", "perplexity",
    ]  # fmt: skip
    assert entry(section, "LoRA (r=8)", "E2E, BLEU") == Entry(mean="62.0", spread="1.4", count=2, paper="67")
    assert entry(section, "LoRA (r=8)", "BLEU, cased") == Entry(mean="52.0")
    assert entry(section, "LoRA (r=8)", "NIST") == Entry(mean="7.50")  # unscaled
    assert entry(section, "LoRA (r=8)", "perplexity") == Entry(mean="7.50")
    assert entry(section, "FT", "NIST") == Entry(mean="7.25")
    assert [entry(section, "ROSA (r=8)", column.title).mean for column in section.columns] == [None] * 5


def test_metrics_that_the_records_lack_have_no_column(make_written: MakeRecord) -> None:
    run = make_written([9.0])
    del run.selected["nist"]
    assert [column.title for column in section_of([run]).columns][2:] == ["BLEU, cased", "perplexity"]


def test_generation_and_understanding_have_separate_tables(make_written: MakeRecord, make_record: MakeRecord) -> None:
    runs = [make_written([9.0], "method=lora"), make_record("task=cola", "method=lora", dev=0.4)]
    groups = select(runs)
    assert [row["task"] for row in table2.build(groups).tidy] == ["cola"]
    assert [row["task"] for row in table3.build(groups).tidy] == ["e2e_nlg"]
    alone = select(runs[:1])
    assert [build(alone).sections for build in (table2.build, table4.build, table5.build)] == [[], [], []]
    assert table3.build(select(runs[1:])).sections == []


def test_generation_and_understanding_are_separate_within_one_setting(
    make_written: MakeRecord, make_record: MakeRecord
) -> None:
    """With the same model, protocol and device."""
    both = [make_written([9.0] * 5), make_record("task=cola", dev=0.4)]
    values = to_values(both[1])
    values["config"]["model"] = both[0].config["model"]
    both[1] = from_values({**values, "model": both[0].model})
    (group,) = select(both)
    assert set(group.tasks) == {"cola", "e2e_nlg"}
    for build, task in ((table2.build, "cola"), (table3.build, "e2e_nlg")):
        assert {row["task"] for row in build([group]).tidy} == {task}


def test_the_synthetic_stand_in_has_no_paper_figures(make_written: MakeRecord) -> None:
    run = make_written([9.0], "task=restaurants", "method=ft", data={"synthetic": True})
    section = section_of([run])
    assert [line.label for line in section.lines] == ["FT"]
    assert section.columns[1].title == "Restaurants (synthetic)"
    assert not any(one.paper for line in section.lines for one in line.entries)
    assert section.notes == ["1 Restaurants (synthetic): synthetic, made by a program"]


# The learning rate


def test_the_learning_rate_has_the_lowest_dev_perplexity(make_written: MakeRecord) -> None:
    """Neither BLEU nor perplexity on test decides."""
    runs = [
        make_written([30.0, 9.0], "method=lora", "lr=1e-2", bleu=0.9, perplexity=2.0),
        make_written([30.0, 8.0], "method=lora", "lr=1e-3", bleu=0.5, perplexity=6.0),
        make_written([8.5, 40.0], "method=lora", "lr=1e-4", bleu=0.7, perplexity=4.0),
    ]
    for order in (runs, runs[::-1]):
        section = section_of(order)
        assert entry(section, "LoRA (r=8)", "E2E, BLEU").mean == "50.0"
        assert entry(section, "LoRA (r=8)", "perplexity").mean == "6.00"
    assert [row["lr"] for row in table_of(runs).tidy] == ["0.001"]
    assert section_of(runs).header["Selection"] == (
        "epoch and the best of 3 learning rates by perplexity on the validation split; test is scored once, at the end"
    )


@pytest.mark.parametrize("undefined", [float("nan"), float("inf")])
def test_a_non_finite_perplexity_never_wins(make_written: MakeRecord, undefined: float) -> None:
    runs = [make_written([undefined], "lr=1e-2", bleu=0.9), make_written([500.0], "lr=1e-3", bleu=0.1)]
    assert [row["lr"] for row in table_of(runs).tidy] == ["0.001"]


# Text


def test_the_header_counts_the_rows_of_all_three_splits(make_written: MakeRecord) -> None:
    section = section_of([make_written([9.0])])
    assert section.header["Rows"] == "train / dev / test, hub: E2E, BLEU 42,061 / 4,672 / 4,693"
    assert section.header["Metric"] == "bleu: E2E, BLEU"
    assert section.header["Paper"] == "arXiv 2407.07802, Table 3: GPT-2 medium, single runs"
    assert section.notes == []


def test_the_intro_says_that_test_is_scored(make_written: MakeRecord) -> None:
    table = table_of([make_written([9.0])])
    assert table.title.startswith("Table 3: ")
    assert "test scores times 100" in table.intro[0]
    assert "{" not in "".join(table.intro)


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, None),
    ({"test": 60}, "a subset, 60 of 4,693 official test rows"),
    ({"train": 2000, "validation": 300, "test": 60},
     "a subset, 2,000 of 42,061 official train rows, 300 of 4,672 official dev rows, 60 of 4,693 official test rows"),
])  # fmt: skip
def test_subsets_of_every_split_are_noted(
    make_written: MakeRecord, changes: dict[str, int], expected: str | None
) -> None:
    rows = {"held_out": 0, **COUNTS, **changes}
    run = make_written([9.0], data={"rows": rows, "subset": bool(changes)})
    assert data_note(run) == expected
    assert section_of([run]).notes == ([f"1 E2E, BLEU: {expected}"] if expected else [])


def test_tidy_rows_have_row_counts_and_the_selection(make_written: MakeRecord) -> None:
    [row] = table_of([make_written([9.0], "method=lora", bleu=0.612, last=0.4)]).tidy
    assert {split: row[f"{split}_rows"] for split in COUNTS} == {split: str(count) for split, count in COUNTS.items()}
    assert (row["metric"], row["selected_on"], row["paper_x100"]) == ("bleu", "validation_split", "67")
    assert (row["mean_x100"], row["last_epoch_mean_x100"]) == ("61.2000", "40.0000")


def test_the_table_is_printed_and_written(
    make_written: MakeRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_record(make_written([9.0], "method=ft", bleu=0.643, nist=8.25), tmp_path)
    make_tables(tmp_path, write=True)
    files = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "tables").iterdir()}
    assert set(files) - {"runs.csv"} == {
        f"{name}.{kind}" for name in ("table3", "train_loss") for kind in ("csv", "md", "tex")
    }
    assert all("64.3" in text for name, text in files.items() if name.startswith("table3"))
    assert "8.25" in files["table3.md"] and "8.25" in files["table3.tex"]
    assert "64.3" in capsys.readouterr().out


# Figures


@pytest.fixture
def sweep(make_written: MakeRecord) -> list[RunRecord]:
    """FT, LoRA and ROSA with two ranks, learning rates and seeds. Perplexity prefers 1e-3, BLEU 1e-2."""
    methods = [("method=ft",), *((f"method={name}", f"rank={rank}") for name in ("lora", "rosa") for rank in (4, 8))]
    return [
        make_written(
            [20.0 + place, (9.0 if lr == "1e-3" else 11.0) + place + seed], *method, f"lr={lr}", f"seed={seed}",
            bleu=0.5 + 0.02 * place + 0.01 * seed + (0.1 if lr == "1e-2" else 0),
            memory_bytes={"train": 10**8},
        )
        for place, method in enumerate(methods)
        for lr in ("1e-2", "1e-3")
        for seed in (0, 1)
    ]  # fmt: skip


def ys(ax: Any, label: str) -> list[float]:
    (line,) = (line for line in ax.lines if line.get_label() == label)
    return np.asarray(line.get_ydata()).tolist()


def test_figure_6_shows_the_perplexity_of_every_epoch_unscaled(sweep: list[RunRecord]) -> None:
    drawing = figure6.draw(select(sweep))
    assert drawing is not None
    left, right = drawing.figure.axes
    assert right.get_ylabel() == "Perplexity (lower is better),\non dev"
    assert ys(right, "FT") == [20.0, 9.5]  # mean of two seeds at the chosen learning rate
    assert ys(right, "ROSA (r=8)") == [24.0, 13.5]
    assert ys(left, "FT") == [5.0, 4.0]


def test_figure_4_shows_perplexity_by_rank(sweep: list[RunRecord]) -> None:
    drawing = figure4.draw(select(sweep))
    assert drawing is not None
    left, right = drawing.figure.axes
    assert left.get_ylabel() == "Perplexity (lower is better),\non dev"
    assert ys(left, "ROSA (r=4)") == [23.0, 12.5]
    assert ys(right, "LoRA (r=8)") == [22.0, 11.5]


def test_sensitivity_shows_test_scores_and_marks_the_choice_by_dev(sweep: list[RunRecord]) -> None:
    drawing = lr_sensitivity.draw(sweep)
    assert drawing is not None
    [ax] = drawing.figure.axes
    assert ax.get_ylabel() == "BLEU × 100, on test"
    assert ys(ax, "FT") == pytest.approx([50.5, 60.5])
    marked = [line for line in ax.lines if line.get_markersize() == lr_sensitivity.CHOSEN_SIZE]
    assert [np.asarray(line.get_xdata()).tolist() for line in marked] == [[1e-3]] * 5
    assert np.asarray(marked[0].get_ydata()).tolist() == pytest.approx([50.5])


def test_captions_distinguish_dev_from_test(sweep: list[RunRecord], make_record: MakeRecord) -> None:
    drawing, other = lr_sensitivity.draw(sweep), lr_sensitivity.draw([make_record(f"lr={lr}") for lr in (1e-3, 1e-4)])
    assert drawing is not None and other is not None
    assert "4,672 dev and 4,693 test rows" in drawing.caption
    assert "the score is that on test, and perplexity on dev chooses" in drawing.caption
    assert "test" not in other.caption


def test_generation_runs_alone_give_figures(sweep: list[RunRecord], tmp_path: Path) -> None:
    for record in sweep:
        save_record(record, tmp_path)
    make_figures(tmp_path)
    made = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert made == {"figure3", "figure4", "figure6", "lr_sensitivity"}
