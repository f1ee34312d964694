import math
import random
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rosa_bench.records.parts.measured import Stopped
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.learning_rate import RULES
from rosa_bench.report.cells.selection.select import Cell, choose, open_ended, select

MakeRecord = Callable[..., RunRecord]
OverSeeds = Callable[..., list[RunRecord]]
SCORES = st.floats(-1, 1)


def only_cell(records: list[RunRecord]) -> Cell:
    (group,) = select(records)
    (cell,) = group.cells.values()
    return cell


def test_held_out_selection_takes_the_lr_with_the_best_held_out_median(over_seeds: OverSeeds) -> None:
    good = over_seeds([0.1, 0.1], "lr=1e-3", held_out=0.9)
    bad = over_seeds([0.8, 0.8], "lr=1e-4", held_out=0.7)
    cell = only_cell([*good, *bad])
    assert (cell.lr, cell.mean, cell.lrs) == (1e-3, pytest.approx(0.1), (1e-4, 1e-3))


def test_for_errors_the_lr_with_the_lowest_mean_is_chosen(make_synthetic: MakeRecord) -> None:
    by_dev = [make_synthetic([[loss]], f"lr={lr}", "protocol=paper") for lr, loss in ((1, 0.3), (2, 0.1), (3, 0.2))]
    assert only_cell(by_dev).lr == 2
    held_out = {1: (0.1, 0.3), 2: (0.3, 0.2), 3: (0.2, 0.1)}  # lr -> loss on dev, and on held-out rows
    by_held_out = [
        make_synthetic([[dev]], f"lr={lr}", "protocol=fair", held_out=other) for lr, (dev, other) in held_out.items()
    ]
    assert only_cell(by_held_out).lr == 3
    assert only_cell([*by_dev[:1], make_synthetic([[float("nan")]], "lr=4", "protocol=paper")]).lr == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(held_out=st.lists(SCORES, min_size=3, max_size=3), dev=st.lists(SCORES, min_size=6, max_size=6))
def test_held_out_selection_never_looks_at_dev(
    make_record: MakeRecord, held_out: list[float], dev: list[float]
) -> None:
    def chosen(dev_scores: list[float]) -> float:
        records = [
            make_record(f"lr={lr}", f"seed={seed}", dev=dev_scores[2 * number + seed], held_out=held_out[number])
            for number, lr in enumerate((1e-2, 1e-3, 1e-4))
            for seed in (0, 1)
        ]
        return only_cell(records).lr

    assert chosen(dev) == chosen([0.0] * 6)


def test_dev_selection_takes_the_lr_with_the_best_dev_median(over_seeds: OverSeeds) -> None:
    steady, lucky = over_seeds([0.6, 0.6], "lr=1e-3"), over_seeds([0.7, 0.1], "lr=1e-2")
    assert only_cell([*steady, *lucky]).lr == 1e-3


@pytest.mark.parametrize(("rule", "lr"), [("median", 1e-3), ("mean", 1e-4)])
def test_one_collapsed_seed_decides_nothing_by_the_median(over_seeds: OverSeeds, rule: str, lr: float) -> None:
    better_but_once = over_seeds([0.7, 0.7, 0.0, 0.7, 0.7], "lr=1e-3")
    assert choose([*better_but_once, *over_seeds([0.6] * 5, "lr=1e-4")], rule=rule).lr == lr


def test_each_seed_may_choose_by_its_own_held_out_score(make_record: MakeRecord) -> None:
    """(held out, dev) of seeds 0, 1, 2, 7 at two rates; dev would choose the other way. Seed 7 has one rate only."""
    tried = {1e-4: {0: (0.5, 0.9), 1: (0.6, 0.8), 2: (0.4, 0.4)}, 1e-3: {0: (0.6, 0.1), 1: (0.5, 0.2), 2: (0.4, 0.3)}}
    tried[1e-3][7] = (0.9, 0.9)
    runs = [
        make_record(f"lr={lr}", f"seed={seed}", held_out=held_out, dev=dev)
        for lr, seeds in tried.items()
        for seed, (held_out, dev) in seeds.items()
    ]
    cell = choose(runs, rule="seed")
    assert cell.by_seed == {0: 0.1, 1: 0.8, 2: 0.4}  # seed 2 has a tie, which the smaller rate wins
    assert (cell.lr, cell.lr_counts) == (1e-4, {1e-4: 2, 1e-3: 1})
    assert cell.at_an_end
    assert choose(runs, rule="median").lr_counts == {1e-4: 3}


def test_one_seed_at_an_end_is_an_end(make_record: MakeRecord) -> None:
    best = {0: 1e-3, 1: 1e-3, 2: 1e-2}  # by seed
    runs = [
        make_record(f"lr={lr}", f"seed={seed}", dev=0.9 if best[seed] == lr else 0.5)
        for lr in (1e-4, 1e-3, 1e-2)
        for seed in best
    ]
    cell = choose(runs, rule="seed")
    assert (cell.lr, cell.is_inside) == (1e-3, False)
    assert choose([run for run in runs if run.settings.seed < 2], rule="seed").is_inside


def test_the_smaller_lr_wins_ties_whenever_it_was_run(make_record: MakeRecord) -> None:
    def run(lr: float, seed: int, hour: int, dev: float = 0.5) -> RunRecord:
        return make_record(f"lr={lr}", f"seed={seed}", dev=dev, started_at=f"2026-01-01T{hour:02}:00:00+00:00")

    tied = [run(1e-2, 0, 1), run(1e-3, 0, 2), run(1e-4, 0, 3)]
    for rule in RULES:
        assert choose(tied, rule=rule).lr == 1e-4
    split = [run(1e-2, 0, 1, 0.9), run(1e-2, 1, 1), run(1e-3, 0, 2), run(1e-3, 1, 2, 0.9)]
    assert choose(split, rule="seed").lr == 1e-3  # each rate is the best of one seed


@pytest.mark.parametrize(("selected_on", "by_dev"), [
    ("held_out", False), ("validation_split", False), ("train", False), ("validation", True)
])  # fmt: skip
@pytest.mark.parametrize("lower", [False, True])
def test_the_rows_that_choose_the_epoch_choose_the_lr(
    make_record: MakeRecord, selected_on: str, by_dev: bool, lower: bool
) -> None:
    """In the direction of the metric that selects, whatever that of the reported one is."""
    runs = []
    for lr, dev, selecting in ((1e-3, 0.9, 0.1), (1e-2, 0.1, 0.9)):
        run = make_record(f"lr={lr}", dev=dev)
        run.scores.selected_on, run.scores.selection_score = selected_on, selecting
        run.scores.selected_by.lower_is_better = lower
        run.scores.lower_is_better = not lower
        runs.append(run)
    assert choose(runs).lr == (1e-3 if by_dev is not lower else 1e-2)


def test_one_undefined_seed_makes_a_rate_lose_by_every_rule_over_seeds(over_seeds: OverSeeds) -> None:
    runs = [*over_seeds([math.nan, 0.9, 0.9], "lr=1e-3"), *over_seeds([0.5] * 3, "lr=1e-2")]
    for rule in ("median", "mean"):
        assert choose(runs, rule=rule).lr == 1e-2


def test_each_seed_that_chose_for_itself_has_no_compared_runner_up(
    over_seeds: OverSeeds, make_record: MakeRecord
) -> None:
    """Later seeds of a rate that was compared say nothing about the choices of the others, but rates left out do."""
    later = [make_record("lr=1e-2", f"seed={seed}", dev=0.9) for seed in (7, 8, 9)]
    runs = [*over_seeds([0.5] * 3, "lr=1e-3"), *over_seeds([0.4] * 3, "lr=1e-2"), *later]
    assert (choose(runs, rule="seed").runner_up, choose(runs).runner_up) == (None, 1e-2)
    base = [*over_seeds([0.5] * 4, "lr=1e-3"), *over_seeds([0.4] * 4, "lr=1e-4")]
    for rule, runner_up in (("seed", 1e-2), ("median", 1e-2), ("mean", None)):
        cell = choose([*base, *over_seeds([0.0, 0.6, 0.6], "lr=1e-2")], rule=rule)
        assert (cell.lr, cell.runner_up) == (1e-3, runner_up)


def test_a_runner_up_is_ahead_on_shared_seeds_though_both_have_undefined_scores(
    over_seeds: OverSeeds, make_record: MakeRecord
) -> None:
    chosen = over_seeds([0.5, math.nan, 0.5], "lr=1e-3")
    for run in chosen:
        run.last["spread"] = 0.0
    left = [make_record("lr=1e-2", f"seed={seed}", dev=dev) for seed, dev in ((0, 0.6), (7, math.nan))]
    cell = choose([*chosen, *over_seeds([math.nan] * 3, "lr=1e-1"), *left])
    assert (cell.lr, cell.runner_up) == (1e-3, 1e-2)


def test_a_cell_of_some_seeds_keeps_the_rates_that_failed(over_seeds: OverSeeds, make_record: MakeRecord) -> None:
    failed = make_record("lr=1e-2", "seed=7", status="failed", scores={})
    some = only_cell([*over_seeds([0.5, 0.6, 0.7], "lr=1e-3"), failed]).of_seeds({0, 2})
    assert some is not None
    assert (some.by_seed, some.lrs_failed) == ({0: 0.5, 2: 0.7}, (1e-2,))
    assert some.of_seeds({7}) is None


def test_seeds_without_a_shared_one_choose_among_their_own_rates(make_record: MakeRecord) -> None:
    cell = choose([make_record("lr=1e-3", "seed=0", dev=0.1), make_record("lr=1e-2", "seed=1", dev=0.2)], rule="seed")
    assert cell.by_seed == {0: 0.1, 1: 0.2}


def test_an_undefined_score_is_never_a_seeds_choice(make_record: MakeRecord) -> None:
    runs = [make_record(f"lr={lr}", "task=cola", dev=dev) for lr, dev in ((1, math.nan), (2, -0.9))]
    assert choose(runs, rule="seed").lr == 2


def test_collapsed_runs_are_counted_if_recorded(over_seeds: OverSeeds) -> None:
    runs = over_seeds([0.5, 0.5, 0.5])
    assert choose(runs).collapsed is None
    for run, spread in zip(runs, (0.0, 0.9, 0.01), strict=True):
        run.last["spread"] = spread
    assert choose(runs).collapsed == 2
    assert choose(runs[1:2]).collapsed == 0
    runs[1].stopped = Stopped(epoch=2, reason="it predicted the same for all rows")
    assert choose(runs[1:2]).collapsed == 1


def test_an_lr_with_fewer_seeds_is_left_out_and_named(over_seeds: OverSeeds) -> None:
    cell = only_cell([*over_seeds([0.5, 0.5], "lr=1e-3"), *over_seeds([0.9], "lr=1e-2"), *over_seeds([0.9], "lr=1")])
    assert (cell.lr, cell.lrs, cell.lrs_left) == (1e-3, (1e-3,), (1e-2, 1.0))


def test_extra_seeds_of_one_lr_do_not_affect_the_choice(over_seeds: OverSeeds) -> None:
    """They are compared on the seeds that both have, here the first two, whatever the later scores of one are."""
    for later in (0.0, 1.0):
        good = over_seeds([0.6, 0.6, later, later], "lr=1e-3")
        cell = only_cell([*good, *over_seeds([0.5, 0.5], "lr=1e-2"), *over_seeds([0.9], "lr=1")])
        assert (cell.lr, cell.lrs, cell.lrs_left) == (1e-3, (1e-3, 1e-2), (1.0,))
        assert (cell.mean, cell.shared) == (pytest.approx((1.2 + 2 * later) / 4), (0, 1))
    worse = over_seeds([0.4, 0.4, 1.0, 1.0], "lr=1e-3")
    assert only_cell([*worse, *over_seeds([0.5, 0.5], "lr=1e-2")]).lr == 1e-2


@pytest.mark.parametrize(
    ("others", "runner_up"),
    [
        ({1e-2: [0.7]}, 1e-2),  # ahead on the shared seed, though not of the mean
        ({1e-2: [0.5]}, None),  # behind on it, though ahead of the mean
        ({1e-2: [0.7], 1e-4: [0.8]}, 1e-4),  # the one with the largest lead
        ({1e-2: [0.8], 1e-4: [0.8]}, 1e-4),  # the smaller wins a tie
        ({1e-2: [math.nan]}, None),
    ],
)
def test_the_runner_up_is_ahead_on_shared_seeds(
    over_seeds: OverSeeds, others: dict[float, list[float]], runner_up: float | None
) -> None:
    few = [run for lr, scores in others.items() for run in over_seeds(scores, f"lr={lr}")]
    cell = only_cell([*over_seeds([0.6, 0.0, 1.0], "lr=1e-3"), *over_seeds([0.1] * 3, "lr=1e-1"), *few])
    assert (cell.lr, cell.runner_up) == (1e-3, runner_up)


def test_a_runner_up_needs_a_shared_seed(make_record: MakeRecord, over_seeds: OverSeeds) -> None:
    elsewhere = make_record("lr=1e-2", "seed=7", dev=0.9)
    assert only_cell([*over_seeds([0.5, 0.5], "lr=1e-3"), elsewhere]).runner_up is None


@pytest.mark.parametrize(
    ("later", "theirs", "runner_up"),
    [
        ([0.0, 0.0, 0.0], [], 1e-2),  # later seeds put the chosen lr behind
        ([0.0], [], None),  # one alone does not
        ([], [0.9, 0.9, 0.9], 1e-2),  # or the other lr ahead
        ([], [0.9], None),
    ],
)
def test_a_compared_lr_is_the_runner_up_by_the_median_over_all_its_seeds(
    over_seeds: OverSeeds, make_record: MakeRecord, later: list[float], theirs: list[float], runner_up: float | None
) -> None:
    """Its later seeds differ from the chosen lr's, so the two share only the first two seeds."""
    chosen = over_seeds([0.6, 0.6, *later], "lr=1e-3")
    other = [
        *over_seeds([0.5, 0.5], "lr=1e-2"),
        *(make_record("lr=1e-2", f"seed={7 + number}", dev=score) for number, score in enumerate(theirs)),
    ]
    cell = only_cell([*chosen, *other])
    assert (cell.lr, cell.lrs, cell.runner_up) == (1e-3, (1e-3, 1e-2), runner_up)


@pytest.mark.parametrize(("collapsed", "runner_up"), [(True, 1e-4), (False, None)])
def test_if_the_chosen_lr_collapsed_all_its_seeds_count(
    over_seeds: OverSeeds, collapsed: bool, runner_up: float | None
) -> None:
    """It collapsed on seeds that the others lack, so shared seeds are not enough to decide."""
    chosen = over_seeds([0.8, 0.2, 0.2], "lr=1e-3")
    for run in chosen:
        run.last["spread"] = 0.0 if collapsed and run.settings.seed else 0.9
    others = [*over_seeds([0.7], "lr=1e-4"), *over_seeds([0.6], "lr=1e-5"), *over_seeds([0.1], "lr=1e-2")]
    cell = only_cell([*chosen, *others])
    assert (cell.lr, cell.runner_up) == (1e-3, runner_up)


@pytest.mark.parametrize(("best", "at_an_end"), [(1e-4, True), (1e-3, False), (1e-2, True)])
def test_a_chosen_lr_at_an_end_is_detected(over_seeds: OverSeeds, best: float, at_an_end: bool) -> None:
    runs = [run for lr in (1e-4, 1e-3, 1e-2) for run in over_seeds([0.9 if lr == best else 0.5], f"lr={lr}")]
    cell = only_cell(runs)
    assert (cell.lr, cell.at_an_end, list(cell.by_lr)) == (best, at_an_end, [1e-4, 1e-3, 1e-2])
    assert not only_cell(runs[:1]).at_an_end
    fewer_seeds = over_seeds([0.1], f"lr={10 * best}")
    assert only_cell([*over_seeds([0.9] * 2, f"lr={best}"), *fewer_seeds]).at_an_end


@pytest.mark.parametrize(("beyond", "runner_up"), [(0.1, None), (0.7, 1e-2)])
def test_one_seed_beyond_the_chosen_lr_makes_it_inside_or_a_runner_up(
    over_seeds: OverSeeds, beyond: float, runner_up: float | None
) -> None:
    below = [*over_seeds([0.5] * 2, "lr=1e-4"), *over_seeds([0.6] * 2, "lr=1e-3")]
    assert only_cell(below).at_an_end
    cell = only_cell([*below, *over_seeds([beyond], "lr=1e-2")])
    assert (cell.lr, cell.lrs_left, cell.at_an_end, cell.runner_up) == (1e-3, (1e-2,), False, runner_up)


def test_a_failed_lr_beyond_the_chosen_one_makes_it_inside(over_seeds: OverSeeds, make_record: MakeRecord) -> None:
    runs = [*over_seeds([0.5], "lr=1e-4"), *over_seeds([0.6], "lr=1e-3")]
    for status, at_an_end in (("failed", False), ("interrupted", True)):
        cell = only_cell([*runs, make_record("lr=1e-2", status=status, scores={})])
        assert (cell.lr, cell.at_an_end, cell.lrs_failed) == (1e-3, at_an_end, () if at_an_end else (1e-2,))
    another_seed = make_record("lr=1e-3", "seed=7", status="failed", scores={})
    assert only_cell([*runs, another_seed]).at_an_end


def test_every_run_is_counted_and_repeats_count_once(over_seeds: OverSeeds, make_record: MakeRecord) -> None:
    runs = [*over_seeds([0.5, 0.5, 0.5], "lr=1e-3"), *over_seeds([0.9], "lr=1e-2"), *over_seeds([0.4] * 3, "lr=1")]
    failed = make_record("lr=10", status="failed", scores={})
    assert len(only_cell([*runs, make_record("lr=1", dev=0.3, id="again"), failed]).tried) == 7


def test_the_interval_is_over_seeds_or_over_dev_rows(over_seeds: OverSeeds, make_record: MakeRecord) -> None:
    some = only_cell(over_seeds([0.4, 0.5, 0.7], "task=rte")).interval
    assert some is not None
    mean, half = 1.6 / 3, 4.302653 * math.sqrt(0.07 / 3 / 3)  # Student's t at two degrees of freedom; variance 0.07 / 3
    assert (some.low, some.high, some.of) == (pytest.approx(mean - half), pytest.approx(mean + half), "seeds")
    rows = {"train": 100, "held_out": 0, "validation": 263}
    one = only_cell([make_record("task=rte", dev=81 / 263, data={"rows": rows})]).interval
    assert one is not None  # Newcombe (1998): 81 of 263
    assert (one.low, one.high, one.of) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5), "dev set")


def test_an_interval_is_shown_within_the_range_and_computed_beyond_it(over_seeds: OverSeeds) -> None:
    cell = only_cell(over_seeds([0.9, 0.99], "task=rte"))
    assert cell.interval is not None
    assert cell.shown_interval is not None
    assert cell.interval.high > 1 == cell.shown_interval.high
    assert cell.interval.low == cell.shown_interval.low


def test_a_cell_with_one_rate_is_open_ended_where_others_had_a_choice(over_seeds: OverSeeds) -> None:
    one = choose(over_seeds([0.5], "lr=1e-3"))
    two = choose([*over_seeds([0.5], "lr=1e-3"), *over_seeds([0.6], "lr=1e-2")])
    three = choose([run for lr in (1, 2, 3) for run in over_seeds([0.9 if lr == 2 else 0.5], f"lr={lr}")])
    assert open_ended({"one": one}) == set()
    assert open_ended({"one": one, "two": two, "three": three}) == {"one", "two"}


def test_variants_are_in_the_order_of_their_ranks(make_record: MakeRecord) -> None:
    [group] = select([make_record(f"rank={rank}") for rank in (16, 2, 8)])
    assert [variant.rank for variant in group.variants] == [2, 8, 16]


def test_the_smaller_lr_wins_a_tie(over_seeds: OverSeeds) -> None:
    records = [record for lr in (1e-3, 1e-4, 1e-2) for record in over_seeds([0.25, 0.75], f"lr={lr}")]
    assert only_cell(records).lr == 1e-4


def test_an_undefined_score_loses(over_seeds: OverSeeds) -> None:
    assert only_cell([*over_seeds([float("nan")], "lr=1e-4"), *over_seeds([-0.5], "lr=1e-2")]).lr == 1e-2


@given(scores=st.lists(SCORES, min_size=2, max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_mean_and_sample_standard_deviation(over_seeds: OverSeeds, scores: list[float]) -> None:
    cell = only_cell(over_seeds(scores))
    assert cell.mean == pytest.approx(statistics.mean(scores))
    assert cell.std == pytest.approx(statistics.stdev(scores))
    assert len(cell.runs) == len(scores)


def test_one_seed_has_no_standard_deviation(make_record: MakeRecord) -> None:
    assert only_cell([make_record(dev=0.5)]).std is None


def test_the_last_epoch_has_its_own_mean(over_seeds: OverSeeds) -> None:
    cell = only_cell(over_seeds([0.5, 0.7], last=0.25))
    assert (cell.mean, cell.last_mean) == (pytest.approx(0.6), 0.25)


@pytest.mark.parametrize("status", ["failed", "interrupted", "running"])
def test_only_completed_runs_count(make_record: MakeRecord, status: str) -> None:
    assert select([make_record(status=status)]) == []
    broken = make_record("seed=1", dev=0.9, status=status, scores={})
    assert only_cell([make_record(dev=0.5), broken]).mean == 0.5


def test_a_repeated_seed_counts_once_and_the_last_started_run_wins(make_record: MakeRecord) -> None:
    times = {"2026-01-02T10:00:00+00:00": 0.2, "2026-01-02T12:00:00+00:00": 0.3, "2026-01-02T13:00:00+02:00": 0.4}
    records = [make_record(dev=dev, started_at=time, git={"commit": time}) for time, dev in times.items()]
    for order in (records, records[::-1]):
        cell = only_cell(order)
        assert (cell.mean, len(cell.runs)) == (0.3, 1)  # 13:00 two hours east of Greenwich is 11:00 there


def test_of_runs_that_started_together_the_order_of_files_decides_nothing(make_record: MakeRecord) -> None:
    records = [make_record(dev=dev, id=name) for name, dev in (("b", 0.2), ("a", 0.3))]
    assert only_cell(records).mean == only_cell(records[::-1]).mean == 0.2


def test_repeats_do_not_count_as_more_seeds(make_record: MakeRecord, over_seeds: OverSeeds) -> None:
    repeats = [make_record("lr=1e-2", dev=0.9, id=str(number)) for number in range(5)]
    assert only_cell([*over_seeds([0.5, 0.5], "lr=1e-3"), *repeats]).lr == 1e-3


def test_the_order_of_records_does_not_matter(over_seeds: OverSeeds) -> None:
    cells = [(lr, method) for lr in (1e-3, 1e-4) for method in ("lora", "rosa")]
    records = [run for lr, method in cells for run in over_seeds([0.5, 0.6], f"lr={lr}", f"method={method}")]
    shuffled = random.Random(0).sample(records, len(records))
    assert select(records)[0].cells == select(shuffled)[0].cells


@pytest.mark.parametrize(
    "other",
    [
        {"deviations": {"epochs": [3, 10]}},
        {"deviations": {"limit_train": [512, None]}},
        {"deviations": {"protocol.train_head": [True, False]}},
        {"device": {"type": "cpu", "name": "a CPU", "precision": "bfloat16"}},
        {"device": {"type": "cuda", "name": "NVIDIA H200", "precision": "float32"}},
        {"model": {"source": "path", "sha256": "0" * 64, "commit": None}},
        {"data": {"source": "files sha256:0", "fingerprint": "0"}},
        {"data": {"official": False}},
    ],
    ids=str,
)
def test_settings_are_never_mixed(make_record: MakeRecord, other: dict[str, Any]) -> None:
    groups = select([make_record("seed=0", dev=0.4), make_record("seed=1", dev=0.8, **other)])
    assert sorted(cell.mean for group in groups for cell in group.cells.values()) == [0.4, 0.8]
    assert len(groups) == 2


@pytest.mark.parametrize("override", ["protocol=fair", "model=mpnet_base"])
def test_protocols_and_models_are_never_mixed(make_record: MakeRecord, override: str) -> None:
    assert len(select([make_record("task=cola"), make_record("task=cola", override)])) == 2


@pytest.mark.parametrize(
    ("override", "deviations"),
    [("rank=2", {}), ("method=lora", {}), ("method.select=top", {"method.select": ["top", "random"]})],
)
def test_each_variant_has_its_own_cell_in_the_same_setting(
    make_record: MakeRecord, override: str, deviations: dict[str, list]
) -> None:
    (group,) = select([make_record(), make_record(override, deviations=deviations)])
    assert len(group.cells) == 2


def test_runs_on_another_device_name_or_commit_are_comparable(make_record: MakeRecord) -> None:
    other = {"type": "cuda", "name": "NVIDIA A100", "precision": "bfloat16"}
    assert len(select([make_record(), make_record("seed=1", device=other, git={"commit": "0"})])) == 1


def test_choose_needs_no_shared_seed(make_record: MakeRecord) -> None:
    cell = choose([make_record("seed=3", dev=0.1), make_record("seed=7", dev=0.3)])
    assert [run.settings.seed for run in cell.runs] == [3, 7]
