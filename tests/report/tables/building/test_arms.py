"""Tables of memorisation and of language modelling: one row per arm, and no such runs in any other table."""

import csv
import io
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy.stats import t

from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import save_record
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.cells.words.header import UNSETTLED
from rosa_bench.report.make_tables import build_tables, make_tables
from rosa_bench.report.tables import language, memorisation
from rosa_bench.report.tables.building.table import Section
from rosa_bench.report.writers.tidy_csv import tidy_csv

MakeRecord = Callable[..., RunRecord]


def row(section: Section, label: str) -> dict[str, str | None]:
    [line] = [line for line in section.lines if line.label == label]
    return {column.title: entry.mean for column, entry in zip(section.columns, line.entries, strict=True)}


def test_a_row_of_memorisation_has_the_records_numbers(make_memorised: MakeRecord) -> None:
    runs = [
        make_memorised(
            recall, "method=lora", f"seed={seed}", bits=30_000.0 + 1000 * seed, trainable=10_000, memory=2**29,
            resamples=7,
        )
        for seed, recall in enumerate((0.5, 0.51))
    ]  # fmt: skip
    table = memorisation.build(select(runs))
    [section] = table.sections
    half = t.ppf(0.975, 1) * math.sqrt(0.00005 / 2)
    stored = t.ppf(0.975, 1) * 0.05
    assert row(section, "LoRA r=8") == {
        "Trainable": "10.0 k",
        "Recall": f"50.5 [{50.5 - 100 * half:.1f}, {50.5 + 100 * half:.1f}]",
        "Stored, kbit": f"30.5 [{30.5 - 10 * stored:.4g}, {30.5 + 10 * stored:.4g}]",
        "Stored, bits per parameter": f"3.05 [{3.05 - stored:.3g}, {3.05 + stored:.3g}]",
        "Data, bits per parameter": "10.9",
        "Peak memory": "512",
        "Resamples": "7",
        "lr": "0.002",
        "Seeds": "2",
    }
    assert section.header["Data"] == "4,096 names, 8 digits each, 108,853 bits"
    [tidy] = csv.DictReader(io.StringIO(tidy_csv(table.tidy)))
    assert float(tidy["recall"]) == pytest.approx(0.505)
    assert float(tidy["recall_low"]) == pytest.approx(0.505 - half, rel=1e-5)
    assert float(tidy["bits_per_parameter"]) == pytest.approx(3.05)
    assert (tidy["trainable_parameters"], tidy["peak_memory_bytes"], tidy["seeds"]) == ("10000", str(2**29), "2")
    assert tidy["runs"].split() == [run.id for run in runs]


def test_peak_memory_that_differs_between_runs_is_a_range(make_memorised: MakeRecord) -> None:
    runs = [
        make_memorised(0.5, f"method={method}", f"seed={seed}", memory=int(mib * 2**20))
        for method, memories in (("lora", (1000, 1049)), ("ft", (1000, 1051)))
        for seed, mib in enumerate(memories)
    ]
    [section] = memorisation.build(select(runs)).sections
    assert [row(section, label)["Peak memory"] for label in ("LoRA r=8", "FT")] == ["1,024", "1,000 to 1,051"]


def test_a_rate_with_fewer_seeds_that_may_be_better_is_marked_and_named(make_memorised: MakeRecord) -> None:
    runs = [make_memorised(0.5, "method=lora", "lr=2e-3", f"seed={seed}") for seed in (0, 1)]
    runs.append(make_memorised(0.9, "method=lora", "lr=6e-3", "seed=0"))
    [section] = memorisation.build(select(runs)).sections
    [entry] = [entry for entry in section.lines[0].entries if entry.mean == "0.002"]
    assert UNSETTLED in entry.mark
    assert any(note.startswith(UNSETTLED) and note.endswith("LoRA r=8 0.006") for note in section.notes)


def test_intervals_end_where_values_end(make_memorised: MakeRecord) -> None:
    runs = [
        make_memorised(recall, "method=lora", f"rank={rank}", f"seed={seed}", trainable=10_000)
        for rank, recalls in ((1, (0.0, 0.4)), (2, (0.6, 1.0)))
        for seed, recall in enumerate(recalls)
    ]
    table = memorisation.build(select(runs))
    [section] = table.sections
    whole = 4096 * 8 * math.log2(10)
    low, high = row(section, "LoRA r=1"), row(section, "LoRA r=2")
    assert low["Recall"] == "20.0 [0.0, 100.0]"
    assert high["Stored, kbit"] == f"{0.8 * whole / 1e3:.4g} [0, {whole / 1e3:.4g}]"
    assert high["Stored, bits per parameter"] == f"{0.8 * whole / 1e4:.3g} [0, {whole / 1e4:.3g}]"
    for line in csv.DictReader(io.StringIO(tidy_csv(table.tidy))):
        assert (float(line["recall_low"]), float(line["recall_high"])) == (0, 1)
    assert any("cut to the possible values" in text for text in table.intro)


def test_arms_are_sorted_by_form_and_then_by_period_from_long_to_short(make_memorised: MakeRecord) -> None:
    runs = [
        make_memorised(0.5, "method=rosa", "rank=2", f"method.resample_every={every}", "method.resample_unit=steps",
                       deviations={
            "method.resample_every": [every, 1.0],
            "method.resample_unit": ["steps", "epochs"],
            **({"method.rewarm_steps": [10 if every < 100 else 20, 0]} if every else {}),
            **({"method.init": ["balanced", "svd"]} if balanced else {}),
        })
        for every in (25, 100, 0, 50, 200)
        for balanced in (True, False)
    ]  # fmt: skip
    [section] = memorisation.build(select(runs)).sections
    found = [line.label for line in section.lines]
    order = ["", "every 200 steps", "every 100 steps", "every 50 steps", "every 25 steps"]
    assert ["".join(re.findall("every [0-9]+ steps", label)) for label in found] == 2 * order
    assert ["init=balanced" in label for label in found] == 5 * [False] + 5 * [True]


def test_amounts_of_data_have_sections_of_their_own_from_few_to_many(make_memorised: MakeRecord) -> None:
    runs = [make_memorised(0.5, "method=ft", pairs=pairs) for pairs in (16384, 1024, 4096)]
    headings = [section.header["Data"].split(" ")[0] for section in memorisation.build(select(runs)).sections]
    assert headings == ["1,024", "4,096", "16,384"]


def test_a_row_of_language_modelling_has_loss_floor_and_forgetting(make_continued: MakeRecord) -> None:
    runs = [make_continued(1.5, "method=lora", forgotten=0.25), make_continued(1.75, "method=ft")]
    table = language.build(select(runs))
    [section] = table.sections
    lora, ft = row(section, "LoRA r=8"), row(section, "FT")
    assert (lora["Loss"], lora["Bits per character"], lora["Forgetting"]) == ("1.500", "2.250", "+0.250")
    assert (ft["Loss"], ft["Forgetting"]) == ("1.750", None)
    assert section.header["Floor"] == "1.25 nats per token"
    assert [line["forgetting"] for line in table.tidy] == ["", "0.25"]


def test_the_learning_rate_is_chosen_by_held_out_rows_and_marked_at_an_end(make_continued: MakeRecord) -> None:
    runs = [
        make_continued(loss, "method=lora", f"lr={lr}", held_out=held_out)
        for lr, loss, held_out in (("1e-4", 1.0, 3.0), ("1e-3", 2.0, 2.0), ("1e-2", 1.5, 2.5))
    ]
    [section] = language.build(select(runs)).sections
    assert (row(section, "LoRA r=8")["Loss"], row(section, "LoRA r=8")["lr"]) == ("2.000", "0.001")
    assert [entry.mark for entry in section.lines[0].entries if entry.mark] == []
    [section] = language.build(select(runs[:2])).sections
    assert [entry.mark for entry in section.lines[0].entries if entry.mark] == ["‡"]
    assert section.notes[0].startswith("‡")


def test_these_runs_are_in_no_other_table_and_others_not_in_these(
    every_kind: list[RunRecord], make_memorised: MakeRecord, make_continued: MakeRecord
) -> None:
    others = [run for run in every_kind if run.setting("task.name") not in {"phonebook", "new_language"}]
    ours = [make_memorised(0.5, "method=lora"), make_continued(1.5, "method=lora")]
    assert [table.name for table in build_tables(ours)] == ["memorisation", "language"]
    before, after = build_tables(others), build_tables([*others, *ours])
    assert after[: len(before)] == before
    assert [table.name for table in after[len(before) :]] == ["memorisation", "language"]


def test_files_say_how_many_runs_each_table_is_of(
    make_memorised: MakeRecord, make_record: MakeRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in (make_memorised(0.5, "method=lora"), make_memorised(0.5, "method=ft"), make_record("task=cola")):
        save_record(run, tmp_path)
    make_tables(tmp_path, write=True)
    texts = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "tables").iterdir()}
    assert {"memorisation.md", "memorisation.csv", "memorisation.tex", "table2.md"} <= texts.keys()
    assert "2 completed runs" in texts["memorisation.md"]
    assert "1 completed run" in texts["table2.md"]
    assert "Phone book" not in texts["table2.md"]
    assert "Memorisation" in capsys.readouterr().out


def test_a_gpu_that_was_shared_is_said(make_memorised: MakeRecord) -> None:
    run = make_memorised(0.5, "method=lora")
    run.device.shared_by = 2
    table = memorisation.build(select([run]))
    assert "GPU shared by up to 2 processes in 1 of 1 runs" in table.sections[0].notes[-1]
    assert table.tidy[0]["runs_per_gpu"] == "2"
