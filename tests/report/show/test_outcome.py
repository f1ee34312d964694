import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.show.curve import BAR, MOST, bars, chosen
from rosa_bench.report.show.lines import table_lines
from rosa_bench.report.show.one_run import blocks
from rosa_bench.report.show.outcome import outcome_lines

OverSeeds = Callable[..., list[RunRecord]]


def test_a_sweep_comes_to_the_best_rate_of_each_method_with_its_interval(over_seeds: OverSeeds) -> None:
    runs = [
        *over_seeds([0.5, 0.6], "task=cola", "method=lora", "lr=1e-3"),
        *over_seeds([0.7, 0.8], "task=cola", "method=lora", "lr=2e-3"),
        *over_seeds([0.9], "task=cola", "method=ft", "lr=1e-5"),
        *over_seeds([0.9], "task=cola", "method=ia3", "lr=1e-5", status="failed"),
    ]
    lines = outcome_lines(runs, 80)
    assert "all: task=cola model=roberta_base protocol=paper" in lines
    [cell] = [cell for group in select(runs) for (variant, _), cell in group.cells.items() if variant.method == "lora"]
    assert cell.interval is not None
    brackets = f"75.0 [{100 * cell.interval.low:.1f}, 100.0]"  # Student's goes further
    [line] = [line for line in lines if line.startswith("lora")]
    assert line.split()[:4] == ["lora", "r=8", "0.002", "2"]
    assert brackets in line
    assert not any(line.startswith("ia3") for line in lines)
    assert "lr: the best of those tried, chosen as in the tables" in lines
    assert max(map(cell_len, lines)) <= 80
    assert outcome_lines([run for run in runs if run.status == "failed"], 80) == []


def test_methods_come_in_the_order_of_the_sweep_and_no_interval_leaves_the_range(over_seeds: OverSeeds) -> None:
    order = ["rosa", "ft", "lora"]
    runs = [run for method in order for run in over_seeds([0.97, 1.0], "task=rte", f"method={method}")]
    lines = outcome_lines(runs, 80)
    shown = [line.split() for line in lines if line.startswith(tuple(order))]
    assert [words[0] for words in shown] == order
    brackets = re.findall(r"\[([\d.]+), ([\d.]+)\]", "\n".join(lines))
    assert [high for _, high in brackets] == ["100.0"] * 3
    assert all(float(low) < 97 for low, _ in brackets)
    assert lines[-1] == "intervals end at the lowest and the highest possible score"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_table_fits_its_width_and_keeps_its_figures(width: int) -> None:
    columns = {"run": ["1a2b3c4d5e", "x"], "started": ["11-28 09:50"] * 2, "method": ["rosa " * 30, "漢字" * 30],
               "score": ["81.2", "7.0"]}  # fmt: skip
    head, rule, *lines = table_lines(columns, width)
    assert max(map(cell_len, [head, rule, *lines])) <= width
    assert [(line.split()[0], line.split()[-1]) for line in lines] == [("1a2b3c4d5e", "81.2"), ("x", "7.0")]
    assert ("started" in head) is (width >= 200)


@pytest.mark.parametrize("count", [1, 2, MOST, MOST + 1, 500])
@pytest.mark.parametrize("selected", [None, 1, 13, 500])
def test_of_a_long_run_some_epochs_are_shown_always_the_first_the_selected_and_the_last(
    count: int, selected: int | None
) -> None:
    found = chosen(count, selected)
    assert found == sorted(set(found))
    assert len(found) <= MOST
    assert {0, count - 1} <= set(found)
    assert selected is None or min(selected, count) - 1 in found


def test_bars_grow_with_the_score_and_errors_over_many_orders_with_its_logarithm() -> None:
    assert bars([1e-12, 1e-8, 1.0], logarithmic=True)[0] == [1, round(1 + (BAR - 1) / 3), BAR]
    assert "logarithmic" in bars([1e-12, 1.0], logarithmic=True)[1]
    assert bars([0.2, 0.2, float("nan"), None])[0] == [BAR, BAR, 0, 0]
    assert bars([None])[0] == [0]


def test_runs_that_trained_in_one_pass_have_no_costs_of_their_own(over_seeds: OverSeeds) -> None:
    runs = over_seeds([0.5, 0.6], time_s={"total": 12.3}, memory_bytes={"train": 700 << 20})
    assert "12.3 s" in (text := "\n".join(outcome_lines(runs, 200))) and "700" in text
    runs[0].packed, runs[0].memory_bytes["train"], runs[0].time_s["total"] = 3, 2100 << 20, 36.9
    assert "\n".join(outcome_lines(runs, 200)) == text
    [said] = [dict(block.lines).get("packed") for block in blocks(runs[0], Path("x.json")) if block.title == "Cost"]
    assert said == "3 runs in one pass; time and peak are of all of them"
