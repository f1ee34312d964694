"""The answer at the top of the page, against differences worked out by hand."""

from collections.abc import Callable

import pytest

from rosa_bench.records.record import RunRecord
from rosa_bench.report.page.answer import best_variants, tally, verdicts

MakeRecord = Callable[..., RunRecord]
OverSeeds = Callable[..., list[RunRecord]]


@pytest.mark.parametrize(
    ("rosa", "verdict", "difference"),
    [
        ([0.62, 0.63, 0.67], "is ahead of", "+10.7 [+6.9, +14.5] (3)"),  # 11, 9 and 12 points
        ([0.51, 0.54, 0.52], "is level with", "-1.0 [-5.3, +3.3] (3)"),  # 0, 0 and -3
        ([0.41, 0.43, 0.44], "is behind", "-10.7 [-12.1, -9.2] (3)"),  # -10, -11 and -11
    ],
)
def test_a_verdict_is_the_paired_difference_with_its_interval(
    over_seeds: OverSeeds, rosa: list[float], verdict: str, difference: str
) -> None:
    [found] = verdicts(over_seeds(rosa) + over_seeds([0.51, 0.54, 0.55], "method=lora"))
    assert (found.verdict, found.difference) == (verdict, difference)
    assert (found.period, found.where) == ("resampled every 2 epochs", "CoLA: RoBERTa-base, protocol paper, rank 8")


def test_every_period_of_resampling_has_its_own_verdict(over_seeds: OverSeeds) -> None:
    changed = {"deviations": {"method.resample_every": [0.0, 2.0]}}
    runs = over_seeds([0.6, 0.7]) + over_seeds([0.5, 0.5], "method=lora")
    runs += over_seeds([0.4, 0.3], "method.resample_every=0", **changed)
    found = {one.period: one.difference.split()[0] for one in verdicts(runs)}
    assert found == {"resampled every 2 epochs": "+15.0", "never resampled": "-15.0"}


def test_no_verdict_is_left_out_and_all_are_counted(over_seeds: OverSeeds) -> None:
    runs = over_seeds([0.5, 0.5], "method=lora")
    for place, scores in enumerate([[0.4, 0.6]] * 6 + [[0.6, 0.6], [0.3, 0.3]]):
        runs += over_seeds(scores, f"method.resample_every={place + 3}")
    found = verdicts(runs)
    assert [one.verdict.split()[1] for one in found] == ["level"] * 6 + ["ahead", "behind"]
    assert tally(found) == "8 comparisons, most seeds first: ROSA is ahead of LoRA in 1, level in 6, behind in 1"
    assert tally(found[:1]) == "1 comparison: ROSA is ahead of LoRA in 0, level in 1, behind in 0"


def test_a_task_with_few_seeds_has_no_part_in_the_mean(over_seeds: OverSeeds) -> None:
    runs = over_seeds([0.6, 0.7, 0.6, 0.7, 0.6]) + over_seeds([0.5] * 5, "method=lora")
    runs += over_seeds([0.1], "task=rte") + over_seeds([0.9], "task=rte", "method=lora")
    [found] = verdicts(runs)
    assert (found.difference.split()[0], found.where.split(":")[0]) == ("+14.0", "CoLA")


def test_of_an_error_less_is_ahead(make_synthetic: MakeRecord) -> None:
    runs = [
        make_synthetic([[loss + 0.01 * seed]], f"method={method}", "rank=2", f"seed={seed}")
        for method, loss in (("rosa", 0.1), ("lora", 0.5))
        for seed in (0, 1)
    ]
    [found] = verdicts(runs)
    assert (found.verdict, found.difference[:4]) == ("is ahead of", "-0.4")


def test_a_verdict_is_the_mean_over_tasks(over_seeds: OverSeeds) -> None:
    runs = over_seeds([0.6, 0.7]) + over_seeds([0.5, 0.5], "method=lora")  # 15 on the mean
    runs += over_seeds([0.6, 0.5], "task=rte") + over_seeds([0.5, 0.5], "task=rte", "method=lora")  # 5
    [found] = verdicts(runs)
    assert found.difference.startswith("+10.0 [")
    assert found.where.startswith("CoLA, RTE: ")


def test_one_seed_gives_no_verdict(over_seeds: OverSeeds) -> None:
    assert verdicts(over_seeds([0.6]) + over_seeds([0.5], "method=lora")) == []
    assert verdicts([]) == []


def test_the_best_variant_of_a_task_and_its_difference_to_lora(over_seeds: OverSeeds) -> None:
    runs = over_seeds([0.62, 0.64]) + over_seeds([0.51, 0.53], "method=lora") + over_seeds([0.7, 0.7], "method=ft")
    runs += over_seeds([0.1], "task=rte")  # alone on its task
    [best] = best_variants(runs)
    assert (best.task, best.label, best.among) == ("CoLA", "FT", 3)
    assert best.score.startswith("70.0") and best.score.endswith(" (2)")
    assert best.minus == "+18.0 [+5.3, +30.7] (2)"  # FT has no rank, so LoRA's best: 19 and 17 points
    [second] = best_variants(runs[:4])
    assert (second.label, second.minus) == ("ROSA (r=8)", "+11.0 [+11.0, +11.0] (2)")
    [lora] = best_variants(over_seeds([0.1, 0.2]) + over_seeds([0.5, 0.5], "method=lora"))
    assert (lora.label, lora.minus) == ("LoRA (r=8)", "–")
