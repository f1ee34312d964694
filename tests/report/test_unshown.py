"""Nothing is left out without a word: regressions have a table, and each command counts what it does not show."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rosa_bench.cli.commands.compare import main as compare_command
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import save_record
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.cells.words.unshown import not_shown, unshown
from rosa_bench.report.compare import compare, why_not
from rosa_bench.report.comparison import comparison
from rosa_bench.report.make_figures import draw_figures, why_not_drawn
from rosa_bench.report.make_tables import build_tables, counted, make_tables
from rosa_bench.report.tables import regression

MakeRecord = Callable[..., RunRecord]
PERIOD = {"method.resample_every": [5, 20]}


@pytest.fixture
def regressions(make_synthetic: MakeRecord) -> list[RunRecord]:
    """FT, LoRA and a ROSA whose period is not the recipe's, with bounds."""
    bounds = [[0.9, 0.8, 0.5, 0.4, 0.25]]
    return [
        make_synthetic([[0.5, 0.3]], "model=mlp1", "method=ft", bounds=bounds),
        make_synthetic([[0.6, 0.42]], "model=mlp1", "method=lora", "rank=2", bounds=bounds),
        make_synthetic(
            [[0.7, 0.36]], "model=mlp1", "method=rosa", "rank=2", "method.resample_every=5",
            bounds=bounds, deviations=PERIOD,
        ),
    ]  # fmt: skip


def test_errors_are_tabled_with_the_bound_of_their_rank(regressions: list[RunRecord]) -> None:
    [section] = regression.build(select(regressions)).sections
    assert [column.title for column in section.columns] == [
        "Trainable", "Synthetic regression, mse", "best of rank", "lr"
    ]  # fmt: skip
    shown = {line.label: [entry.mean for entry in line.entries[1:]] for line in section.lines}
    assert shown == {
        "FT": ["0.3", "0.25", "0.001"],
        "LoRA (r=2)": ["0.42", "0.5", "0.001"],
        "ROSA (r=2, resample_every=5)": ["0.36", "0.5", "0.001"],
    }


def test_errors_without_a_bound_or_undefined_say_so(make_synthetic: MakeRecord) -> None:
    runs = [
        make_synthetic([[0.5, 0.25]], "method=ft"),
        make_synthetic([[float("nan"), float("nan")]], "method=lora", "rank=2"),
    ]
    table = regression.build(select(runs))
    [section] = table.sections
    assert [[entry.mean for entry in line.entries[1:3]] for line in section.lines] == [
        ["0.25", None],
        ["undefined", None],
    ]
    assert any("LoRA (r=2)" in note and note.startswith("undefined: ") for note in section.notes)
    assert [(row["mean"], row["best_of_rank"]) for row in table.tidy] == [("0.25", ""), ("", "")]


def test_the_commands_show_regressions(
    regressions: list[RunRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in regressions:
        save_record(run, tmp_path)
    make_tables(tmp_path, write=True)
    assert "3 completed runs\n" in capsys.readouterr().out
    names = {path.stem for path in (tmp_path / "tables").iterdir()}
    assert names == {"regression", "runs", "train_loss"}
    compare_command(["method=rosa,lora", "method.resample_every=5,0", f"results_dir={tmp_path}"])
    printed = capsys.readouterr().out
    assert "-0.0600 (1)" in printed  # 0.36 minus 0.42, as it is, with the decimals that give 0.36 four digits
    assert "errors: a difference below 0 is better" in printed
    assert "not shown: 1 of 3 runs: 1 with other settings than those given" in printed
    [drawing] = [one for one in draw_figures(regressions) if one.name == "figure2"]
    assert (
        "| ROSA (r=2, resample\\_every=5) |" in drawing.caption or "| ROSA (r=2, resample_every=5) |" in drawing.caption
    )
    assert drawing.runs == {run.id for run in regressions}


def test_scores_and_errors_are_never_averaged(make_record: MakeRecord, make_synthetic: MakeRecord) -> None:
    runs = [
        make(*what, f"method={method}", "rank=2", "protocol=paper", **same)
        for method in ("rosa", "lora")
        for make, what, same in (
            (make_record, (), {"dev": 0.5, "model": {"source": "random"}}),
            (make_synthetic, ([[0.5, 0.25]],), {"model": {"source": "random"}}),
        )
    ]
    sections, shown, _ = compare(comparison(["method=rosa,lora"]), runs)
    assert [[column.title for column in section.columns] for section in sections] == [
        ["CoLA"],
        ["Synthetic regression"],
    ]
    assert shown == {run.id for run in runs}


def test_every_run_is_shown_or_counted(every_kind: list[RunRecord], make_record: MakeRecord) -> None:
    others = [
        make_record(id="a", status="failed"), make_record(id="b", status="interrupted"),
        make_record(id="c", status="running"), make_record("task=rte", "pad_to_max=true", id="d",
        deviations={"pad_to_max": [True, False]}),
    ]  # fmt: skip
    again = make_record(id="e", dev=0.1, started_at="2020-01-01T00:00:00+00:00")
    runs = [*every_kind, *others, again, make_record(id="f", dev=0.2)]
    assert {table.name for table in build_tables(runs)} >= {"table2", "table3", "regression"}
    said = counted(runs)
    for words in ("1 failed", "1 interrupted", "1 running", "with pad_to_max=true that", "1 repeated later"):
        assert words in said, words

    asked = comparison(["method=rosa,lora"])
    _, shown, _ = compare(asked, runs)
    drawn = {run for drawing in draw_figures(runs) for run in drawing.runs}
    for ids, reason in ((shown, lambda run: why_not(asked, run)), (drawn, why_not_drawn(runs))):
        left = unshown(runs, ids, reason)
        assert left.total() + len(ids) == len(runs)
        line = not_shown(left, len(runs))
        assert line.startswith(f"not shown: {left.total()} of {len(runs)} runs: ")
        assert "\n" not in line
        assert sum(map(int, re.findall(r"(?:: |, )(\d+) ", line.partition("runs")[2]))) == left.total()


def test_all_shown_needs_no_word() -> None:
    assert not_shown(unshown([], (), str), 0) == ""
