"""Methods side by side: which are compared, on which tasks, and how their scores are averaged."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import t

from rosa_bench.config.files.preset import swept
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.methods import MethodComparison, MethodRow
from rosa_bench.report.cells.selection.comparable import method_comparisons
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.cells.words.header import UNSETTLED
from rosa_bench.report.tables import methods as table

MakeRecord = Callable[..., RunRecord]
METHODS = ("lora", "ft", "ia3", "bitfit")
SCORES = {"cola": [0.5, 0.52, 0.57], "rte": [0.6, 0.7, 0.62]}


@pytest.fixture
def make_runs(make_record: MakeRecord) -> Callable[..., list[RunRecord]]:
    """``make_runs("lora", cola=[0.5, 0.6], memory=2**30)``: one run per task and score, with seeds 0, 1, ..."""

    def make(method: str, *overrides: str, memory: int | None = 2**30, changes: Any = None, **scores: Any) -> Any:
        return [
            make_record(
                f"task={task}", f"method={method}", f"seed={seed}", "protocol=fair", *overrides, dev=score,
                held_out=score, memory_bytes={} if memory is None else {"train": memory}, **(changes or {}),
            )
            for task, values in scores.items()
            for seed, score in enumerate(values)
        ]  # fmt: skip

    return make


def only(runs: list[RunRecord]) -> MethodComparison:
    [found] = method_comparisons(select(runs))
    return found


def row(found: MethodComparison, method: str) -> MethodRow:
    [one] = [row for row in found.rows if row.variant.method == method]
    return one


def test_the_score_is_the_mean_over_tasks_with_satterthwaites_interval(make_runs: Callable) -> None:
    found = only([run for method in METHODS for run in make_runs(method, **SCORES)])
    score = row(found, "ft").score
    terms = [np.var(values, ddof=1) / len(values) for values in SCORES.values()]
    error = math.sqrt(sum(terms)) / len(terms)
    df = sum(terms) ** 2 / sum(term**2 / 2 for term in terms)
    assert score.mean == pytest.approx(np.mean([np.mean(values) for values in SCORES.values()]))
    assert score.high == pytest.approx(score.mean + t.ppf(0.975, df) * error)
    assert found.tasks == ("cola", "rte")


def test_a_method_is_compared_with_lora_in_pairs_of_seeds(make_runs: Callable) -> None:
    better = {task: [score + 0.01 for score in values] for task, values in SCORES.items()}
    runs = [run for method in METHODS for run in make_runs(method, **(better if method == "ft" else SCORES))]
    found = only(runs)
    assert found.rows[0].variant.method == "ft"
    difference = row(found, "ft").against_lora
    assert difference is not None
    assert difference.mean == pytest.approx(0.01)
    assert difference.high == pytest.approx(0.01)  # all seeds agree, although the scores do not
    assert row(found, "lora").against_lora is None


def test_a_method_without_a_task_is_left_out_with_a_reason(make_runs: Callable) -> None:
    runs = [run for method in METHODS for run in make_runs(method, **SCORES)]
    found = only([*runs, *make_runs("head_only", cola=[0.1])])
    assert {one.variant.method for one in found.rows} == set(METHODS)
    assert found.left_out == {"Head only": "no run of RTE"}


def test_a_task_that_few_methods_have_is_not_compared(make_runs: Callable) -> None:
    runs = [run for method in METHODS for run in make_runs(method, **SCORES)]
    found = only([*runs, *make_runs("lora", mrpc=[0.8, 0.9])])
    assert found.tasks == ("cola", "rte")
    assert len(found.rows) == len(METHODS)
    assert found.left_out == {"MRPC": "most methods share one seed of it, or none"}


@pytest.mark.parametrize(("begun", "compared"), [(1, False), (2, True), (3, True)])
def test_a_task_that_a_sweep_has_begun_does_not_take_the_others_intervals(
    make_runs: Callable, begun: int, compared: bool
) -> None:
    runs = [run for method in (*METHODS, "head_only") for run in make_runs(method, **SCORES)]
    more = [run for method in METHODS for run in make_runs(method, mrpc=[0.8, 0.9, 0.7][:begun])]
    found = only([*runs, *more])
    assert found.tasks == (("cola", "mrpc", "rte") if compared else ("cola", "rte"))
    assert found.left_out == (
        {"Head only": "no run of MRPC"} if compared else {"MRPC": "most methods share one seed of it, or none"}
    )
    assert len(found.rows) == len(METHODS) + (not compared)
    assert found.rows[0].score.low is not None


def test_tasks_with_one_seed_are_compared_if_none_has_more(make_runs: Callable) -> None:
    found = only([run for method in METHODS for run in make_runs(method, cola=[0.5], rte=[0.6])])
    assert found.tasks == ("cola", "rte")
    assert found.left_out == {}


def test_seeds_that_most_methods_lack_are_compared_apart(make_runs: Callable) -> None:
    runs = [run for method in (*METHODS, "head_only") for run in make_runs(method, **SCORES)]
    more = [
        run
        for method, value in (("lora", 0.5), ("ft", 0.4))
        for run in make_runs(method, cola=[0] * 3 + [value, value + 0.1], rte=[0] * 3 + [value, value + 0.2])
        if run.settings.seed > 2
    ]
    found = only([*runs, *more])
    assert found.seeds == [0, 1, 2]
    assert [row.score.mean for row in found.rows] == [row.score.mean for row in only(runs).rows]
    others = found.others
    assert others is not None
    assert others.follows
    assert others.tasks == found.tasks
    assert others.seeds == [3, 4]
    assert [one.variant.method for one in others.rows] == ["lora", "ft"]
    assert [one.score.mean for one in others.rows] == pytest.approx([0.575, 0.475])
    difference = row(others, "ft").against_lora
    assert difference is not None
    assert difference.mean == pytest.approx(-0.1)
    assert found.spare_note == (
        "other seeds, which most methods lack, are compared apart in the table of methods; methods that have some: 2"
    )


@pytest.mark.parametrize(("rates", "seeds"), [(1, (0,)), (2, (0, 1)), (3, (0, 1))])
def test_a_sweep_that_stopped_within_a_seed_is_compared_on_the_seeds_before(
    make_runs: Callable, rates: int, seeds: tuple[int, ...]
) -> None:
    """Else each method would be compared at the one rate that has most seeds, which need not be its best."""
    scores = {"lr=6e-4": 0.5, "lr=2e-3": 0.4, "lr=2e-4": 0.6}
    runs = [
        run
        for method in METHODS
        for place, (lr, score) in enumerate(scores.items())
        for run in make_runs(method, lr, cola=[score, score + 0.01] if place < rates else [score])
    ]
    found = only(runs)
    assert tuple(found.seeds) == seeds
    best = {cell.lr for one in found.rows for cell in one.cells.values()}
    assert best == ({6e-4} if rates == 2 else {2e-4})
    [section] = table.build(select(runs)).sections
    unsettled = rates == 2  # the best rate has a seed less than those that are compared
    assert {UNSETTLED in line.entries[0].mark for line in section.lines} == {unsettled}
    assert any("LoRA 0.0002 on CoLA" in note for note in section.notes) is unsettled


@pytest.mark.parametrize("methods", [("ft",), ("lora", "ft")])
def test_other_seeds_without_an_interval_or_a_partner_are_left_out_and_named(
    make_runs: Callable, methods: tuple[str, ...]
) -> None:
    runs = [run for method in (*METHODS, "head_only") for run in make_runs(method, **SCORES)]
    count = 5 if len(methods) == 1 else 4
    more = [run for method in methods for run in make_runs(method, cola=[0.9] * count) if run.settings.seed > 2]
    found = only([*runs, *more])
    assert found.seeds == [0, 1, 2]
    assert found.others is None
    assert found.spare_note == (
        f"other seeds, which most methods lack, are left out; methods that have some: {len(methods)}"
    )


def test_methods_that_share_no_seed_are_compared_by_all(make_runs: Callable) -> None:
    pairs = enumerate(METHODS)
    runs = [run for n, method in pairs for run in make_runs(method, cola=[0.5] * 2 * (n + 1))]
    apart = [run for run in runs if run.settings.seed // 2 == METHODS.index(run.settings.method.name)]
    found = only(apart)
    assert len(found.rows) == len(METHODS)
    assert found.seeds == list(range(8))
    assert found.spare_note is None


def test_a_method_that_has_other_seeds_alone_is_left_out_with_a_reason(make_runs: Callable) -> None:
    runs = [run for method in METHODS for run in make_runs(method, **SCORES)]
    more = [run for run in make_runs("head_only", cola=[0.1] * 5, rte=[0.1] * 5) if run.settings.seed > 2]
    assert only([*runs, *more]).left_out == {"Head only": "no run of CoLA, RTE with these seeds"}


def test_one_variant_of_each_method_at_the_common_rank(make_runs: Callable) -> None:
    runs = [run for method in METHODS for run in make_runs(method, **SCORES)]
    lower = make_runs("lora", "rank=2", **SCORES)
    changed = make_runs("rosa", "method.resample_every=2", **SCORES)
    found = only([*runs, *lower, *changed, *make_runs("lora", "method.init=normal", cola=[0.9] * 3, rte=[0.9] * 3)])
    assert found.rank == 8
    assert {one.name for one in found.rows if one.variant.rank} == {"LoRA", "ROSA, every 2 epochs"}
    assert len(found.rows) == len(METHODS) + 1
    assert row(found, "lora").score.mean < 0.9


def test_a_method_that_has_another_rank_alone_is_not_compared(make_runs: Callable) -> None:
    runs = [run for method in METHODS for run in make_runs(method, **SCORES)]
    found = only([*runs, *make_runs("rosa", **SCORES), *make_runs("dora", "rank=2", **SCORES)])
    assert {one.variant.method for one in found.rows} == {*METHODS, "rosa"}


def test_of_two_ranks_that_equally_many_methods_have_the_larger_is_compared(make_runs: Callable) -> None:
    runs = [run for method in METHODS for run in make_runs(method, **SCORES)]
    assert only([*runs, *make_runs("lora", "rank=2", **SCORES)]).rank == 8


def test_of_two_changed_variants_the_one_with_more_runs_is_compared(make_runs: Callable) -> None:
    runs = [run for method in METHODS for run in make_runs(method, **SCORES)]
    often = make_runs("rosa", "method.resample_every=4", **SCORES)
    once = make_runs("rosa", "method.resample_every=2", cola=[0.5], rte=[0.5])
    assert row(only([*runs, *once, *often]), "rosa").name == "ROSA, every 4 epochs"


def test_a_seed_that_half_of_the_methods_have_is_compared(make_runs: Callable) -> None:
    runs = [run for method in METHODS[:2] for run in make_runs(method, cola=[0.5, 0.6, 0.7])]
    runs += [run for method in METHODS[2:] for run in make_runs(method, cola=[0.5, 0.6])]
    assert only(runs).seeds == [0, 1, 2]


def test_a_seed_with_half_of_the_rates_is_not_compared(make_runs: Callable) -> None:
    runs = [
        run
        for method in METHODS
        for place, lr in enumerate(("lr=1e-4", "lr=2e-4", "lr=3e-4", "lr=4e-4"))
        for run in make_runs(method, lr, cola=[0.5, 0.6] if place < 2 else [0.5])
    ]
    assert only(runs).seeds == [0]


def test_one_undefined_score_leaves_a_method_out(make_runs: Callable) -> None:
    runs = [run for method in METHODS for run in make_runs(method, **SCORES)]
    found = only([*runs, *make_runs("head_only", cola=[math.nan] * 3, rte=[0.5] * 3)])
    assert found.left_out == {"Head only": "an undefined score"}


def test_the_device_compared_is_that_of_most_runs_that_measured_memory(make_runs: Callable) -> None:
    other = {"device": {"type": "cuda", "name": "another card", "precision": "bfloat16"}}
    runs = [run for method in METHODS[:3] for run in make_runs(method, memory=None, changes=other, **SCORES)]
    assert row(only([*runs, *make_runs("bitfit", **SCORES)]), "bitfit").memory_bytes == 2**30


def test_memory_from_another_device_is_not_shown(make_runs: Callable) -> None:
    runs = [run for method in METHODS for run in make_runs(method, **SCORES)]
    other = {"device": {"type": "cuda", "name": "another card", "precision": "bfloat16"}}
    found = only([*runs, *make_runs("head_only", changes=other, **SCORES)])
    assert row(found, "head_only").memory_bytes is None
    assert row(found, "ft").memory_bytes == 2**30
    assert len(found.measured) == 6 * len(METHODS)


def test_few_seeds_are_known(make_runs: Callable) -> None:
    runs = [run for method in METHODS for run in make_runs(method, **SCORES)]
    found = only([*runs, *make_runs("head_only", cola=[0.1], rte=[0.5])])
    assert [one.variant.method for one in found.rows if found.few_seeds(one)] == ["head_only"]
    assert row(found, "head_only").score.low is None


def test_of_the_settings_of_a_model_the_one_with_most_cells_is_compared(
    make_runs: Callable, make_record: MakeRecord
) -> None:
    """Of ties the fair protocol, however many runs the other has; never one that was made for times."""

    def paper(tasks: tuple[str, ...], seeds: int) -> list[RunRecord]:
        return [
            make_record(f"task={task}", f"method={method}", f"seed={seed}", "protocol=paper", dev=0.5 + 0.01 * seed)
            for task in tasks
            for method in METHODS
            for seed in range(seeds)
        ]

    fair = [run for method in METHODS for run in make_runs(method, **SCORES)]
    assert only([*fair, *paper(("cola", "rte"), 5)]).group.setting.protocol == "fair"
    assert only([*fair, *paper(("cola", "mrpc", "rte"), 2)]).group.setting.protocol == "paper"
    padded = {"deviations": {"pad_to_max": [True, False]}}
    timed = [
        run
        for method in METHODS
        for run in make_runs(method, "pad_to_max=true", changes=padded, mrpc=[0.8, 0.9], **SCORES)
    ]
    assert only([*fair, *timed]).tasks == ("cola", "rte")
    assert method_comparisons(select(timed)) == []


def test_a_task_scored_by_an_error_is_not_in_the_mean(make_runs: Callable) -> None:
    runs = [run for method in METHODS for run in make_runs(method, mrpc=[0.8, 0.9, 0.7], **SCORES)]
    for run in runs:
        run.scores.lower_is_better = run.settings.task.name == "mrpc"
    assert only(runs).tasks == ("cola", "rte")


def test_less_than_four_methods_are_no_comparison(make_runs: Callable) -> None:
    assert method_comparisons(select([run for method in METHODS[:3] for run in make_runs(method, **SCORES)])) == []


def test_four_models_are_compared_and_those_with_most_cells_come_first(make_runs: Callable) -> None:
    def runs(model: str, *tasks: str) -> list[RunRecord]:
        scores = {task: [0.5, 0.6] for task in tasks}
        return [run for method in METHODS for run in make_runs(method, f"model={model}", **scores)]

    few, more, most = ("cola",), ("cola", "rte"), ("cola", "mrpc", "rte")
    tasks = {"minilm": few, "mpnet_base": more, "tiny_bert": most, "roberta_base": more, "roberta_large": more}
    found = method_comparisons(select([run for model, its in tasks.items() for run in runs(model, *its)]))
    assert found[0].group.setting.model == "tiny_bert"
    assert {one.group.setting.model for one in found} == tasks.keys() - {"minilm"}


@pytest.mark.parametrize("metric", ["loss", "perplexity"])
def test_by_a_loss_the_lowest_is_the_best(make_referenced: MakeRecord, metric: str) -> None:
    losses = dict(zip(METHODS, (1.25, 1.0, 1.5, 1.125), strict=True))
    runs = [
        make_referenced(loss, f"method={method}", f"lr={lr}", metric=metric, held_out=held_out)
        for method, loss in losses.items()
        for lr, held_out in (("1e-4", 2.0), ("1e-3", 2.5))
    ]
    found = only(runs)
    assert found.tasks == ("e2e_nlg",)
    assert [row.variant.method for row in found.rows] == sorted(losses, key=losses.__getitem__)
    assert {run.settings.lr for run in found.runs} == {1e-4}
    assert found.score_name == metric
    shown = math.exp if metric == "perplexity" else float
    difference = row(found, "ft").against_lora
    assert difference is not None
    assert difference.mean == pytest.approx(shown(1.0) - shown(1.25))


def test_a_loss_and_a_score_never_meet_in_one_comparison(
    make_runs: Callable, make_written: MakeRecord, make_referenced: MakeRecord
) -> None:
    runs = [run for method in METHODS for run in make_runs(method, **SCORES)]
    runs += [make_written([9.0], f"method={method}", "protocol=fair") for method in METHODS]
    runs += [make_referenced(1.5, f"method={method}") for method in METHODS]
    found = method_comparisons(select(runs))
    assert sorted((one.tasks, one.scale.lower_is_better, len(one.rows)) for one in found) == [
        (("cola", "rte"), False, 4), (("e2e_nlg",), False, 4), (("e2e_nlg",), True, 4)
    ]  # fmt: skip
    assert all(one.group.tasks.keys() == set(one.tasks) for one in found)


def test_errors_and_losses_without_references_are_not_compared_as_methods(
    make_synthetic: MakeRecord, make_continued: MakeRecord
) -> None:
    runs = [make_synthetic([[0.5, 0.25]], f"method={method}") for method in METHODS]
    runs += [make_continued(1.5, f"method={method}") for method in METHODS]
    assert method_comparisons(select(runs)) == []


def test_the_tasks_are_those_of_the_preset() -> None:
    assert set(swept("methods", "task")) == {"cola", "stsb", "mrpc", "rte"}


def test_the_untuned_score_is_that_at_the_methods_own_rate(make_runs: Callable) -> None:
    runs = [run for method in METHODS for run in make_runs(method, **SCORES)]
    better = make_runs("lora", "lr=1e-3", cola=[0.9] * 3, rte=[0.9] * 3)
    found = only([*runs, *better])
    assert row(found, "lora").score.mean == pytest.approx(0.9)
    assert row(found, "lora").untuned == pytest.approx(np.mean([np.mean(values) for values in SCORES.values()]))
    elsewhere = [run for run in found.tried if run.settings.method.name != "ft"]
    assert row(only([*elsewhere, *make_runs("ft", "lr=1e-3", **SCORES)]), "ft").untuned is None
