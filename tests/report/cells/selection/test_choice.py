"""The recommendation, from records with known scores and intervals."""

import math
from collections.abc import Callable, Sequence

import pytest
from scipy import stats

from rosa_bench.records.parts.mappings import PeakBytes
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.choice import Finalist, costs_less, recommend, verdict
from rosa_bench.report.cells.words.shown import SCORES, Scale

MakeRecord = Callable[..., RunRecord]
GB = 2**30


@pytest.fixture
def finalist(make_record: MakeRecord) -> Callable[..., Finalist]:
    """``finalist("lora", [0.5, 0.6], held_out=[0.5, 0.6], gb=2)``: runs of the seeds 0, 1, ... with these scores."""

    def make(
        method: str, dev: Sequence[float], held_out: Sequence[float] | None = None, *, gb: float = 1, saved: int = 1000
    ) -> Finalist:
        runs = {}
        for seed, (reported, selected) in enumerate(zip(dev, held_out or dev, strict=True)):
            run = make_record("task=cola", f"method={method}", f"seed={seed}", dev=reported, held_out=selected)
            run.scores.selection_score = selected
            run.memory_bytes = PeakBytes({"train": int(gb * GB)})
            run.parameters.saved_bytes = saved
            runs[seed] = run
        return Finalist(method, runs)

    return make


def test_the_best_on_held_out_rows_is_recommended_though_another_is_better_on_dev(
    finalist: Callable[..., Finalist],
) -> None:
    lora = finalist("lora", [0.50, 0.51, 0.52], held_out=[0.70, 0.71, 0.72])
    ft = finalist("ft", [0.60, 0.61, 0.62], held_out=[0.60, 0.61, 0.62], gb=9)
    found = recommend([ft, lora], margin=0.01)
    assert (found.chosen, found.best) == (lora, lora)
    assert found.against["ft"].mean == pytest.approx(-0.1)
    assert verdict(found.against["ft"], found.chosen.scale) == "worse"


def test_a_cheaper_one_that_is_level_is_recommended_with_students_intervals(finalist: Callable[..., Finalist]) -> None:
    ft, lora = [0.60, 0.66, 0.63], [0.61, 0.62, 0.65]
    found = recommend([finalist("ft", ft, gb=4), finalist("lora", lora, gb=1)], margin=0.01)
    assert (found.chosen.name, found.best.name) == ("lora", "ft")
    test = stats.ttest_rel(lora, ft).confidence_interval(0.95)
    difference = found.against["ft"]
    assert (difference.low, difference.high) == (pytest.approx(test.low), pytest.approx(test.high))
    assert verdict(difference, SCORES) == "level"
    own = stats.ttest_1samp(lora, 0).confidence_interval(0.95)
    shown = found.chosen.scale.text(found.chosen.score, found.chosen.interval)
    assert shown == f"62.7 [{100 * own.low:.1f}, {100 * own.high:.1f}]"
    assert SCORES.signed(difference.mean, difference) == f"-0.3 [{100 * test.low:.1f}, +{100 * test.high:.1f}]"


@pytest.mark.parametrize(("dev", "gb", "why"), [
    ([0.55, 0.60, 0.50], 1, "5 points behind, although that is within noise"),
    ([0.602, 0.570, 0.593], 1, "a point and a half behind, although that is within noise"),
    ([0.595, 0.605, 0.595], 1, "half a point behind with every seed, and so not level"),
    ([0.595, 0.606, 0.596], 5, "as good, and costs more"),
    ([0.593, 0.604, 0.593], 3.9, "as much memory and as much to store"),
])  # fmt: skip
def test_the_best_stays_if_another_is(finalist: Callable[..., Finalist], dev: list[float], gb: float, why: str) -> None:
    best = finalist("ft", [0.60, 0.61, 0.60], gb=4)
    assert recommend([best, finalist("lora", dev, gb=gb)], margin=0.01).chosen is best, why


def test_the_margin_of_an_error_is_a_share_of_the_best(finalist: Callable[..., Finalist]) -> None:
    def with_errors(method: str, errors: Sequence[float], gb: float) -> Finalist:
        found = finalist(method, errors, gb=gb)
        for run in found.runs.values():
            run.scores.lower_is_better = run.scores.selected_by.lower_is_better = True
        return found

    best = with_errors("ft", [0.50, 0.52, 0.48], gb=4)
    between = with_errors("lora", [0.50, 0.54, 0.4815], gb=1)  # 0.0072 behind: within 2 %, and not 1 %
    assert recommend([best, between], margin=0.01).chosen is best
    assert recommend([best, between], margin=0.02).chosen is between
    near, far = with_errors("lora", [0.49, 0.53, 0.489], gb=1), with_errors("lora", [0.52, 0.55, 0.49], gb=1)
    assert recommend([best, near], margin=0.01).chosen is near
    assert recommend([best, far], margin=0.01).chosen is best  # within noise, but 4 % behind
    assert recommend([best, far], margin=0.05).chosen is far


def test_with_as_much_memory_the_one_with_less_to_store_is_preferred(finalist: Callable[..., Finalist]) -> None:
    best = finalist("ft", [0.60, 0.62, 0.61], gb=4.0)
    lora = finalist("lora", [0.61, 0.60, 0.61], gb=4.1, saved=10)
    assert recommend([best, lora], margin=0.01).chosen is lora


@pytest.mark.parametrize(("gb", "preferred"), [(4.19, True), (4.22, False), (3.81, True)])
def test_memory_within_5_percent_is_as_much(finalist: Callable[..., Finalist], gb: float, preferred: bool) -> None:
    best, lora = finalist("ft", [0.60, 0.62, 0.61], gb=4.0), finalist("lora", [0.61, 0.60, 0.61], gb=gb, saved=10)
    assert costs_less(lora, best) is preferred
    assert costs_less(best, finalist("lora", [0.6], gb=3.81)) is False


def test_of_several_that_are_level_the_cheapest_is_recommended(finalist: Callable[..., Finalist]) -> None:
    costs = {"ft": 4, "bitfit": 1, "lora": 2}
    level = [finalist(name, [0.60, 0.62 - 0.001 * gb, 0.61 + 0.001 * gb], gb=gb) for name, gb in costs.items()]
    assert recommend(level, margin=0.05).chosen.name == "bitfit"


def test_one_seed_has_the_interval_over_the_reported_rows_within_the_range(finalist: Callable[..., Finalist]) -> None:
    one = finalist("lora", [0.6])
    rows = one.runs[0].data.rows.reported
    low, high = (math.tanh(math.atanh(0.6) + sign * 1.959964 / math.sqrt(rows - 3)) for sign in (-1, 1))
    assert one.interval is not None
    assert (one.interval.low, one.interval.high) == pytest.approx((low, high), abs=1e-6)
    two = finalist("lora", [0.9, 0.99]).interval
    assert two is not None
    assert two.high == 1


def test_one_seed_shows_nothing_to_be_level(finalist: Callable[..., Finalist]) -> None:
    best, lora = finalist("ft", [0.60], gb=4), finalist("lora", [0.60], held_out=[0.59], gb=1)
    found = recommend([best, lora], margin=0.01)
    assert found.chosen is best
    assert verdict(found.against["lora"], SCORES) == "not known, with one seed"


def test_only_shared_seeds_rank_finalists(finalist: Callable[..., Finalist]) -> None:
    ahead = finalist("lora", [0.5, 0.6], gb=1)
    behind = finalist("ft", [0.4, 0.5, 0.9], gb=1)  # the third seed would put it first
    assert recommend([behind, ahead], margin=0.0).best is ahead


@pytest.mark.parametrize(("mean", "lower", "said"), [
    ([0.5, 0.51, 0.5], True, "worse"), ([0.5, 0.51, 0.5], False, "better"), ([0.01, -0.01, 0.0], True, "level"),
])  # fmt: skip
def test_a_higher_error_is_worse(finalist: Callable[..., Finalist], mean: list[float], lower: bool, said: str) -> None:
    found = recommend([finalist("lora", mean), finalist("ft", [0.0, 0.0, 0.0], held_out=[-9, -9, -9])], margin=0)
    assert verdict(found.against["ft"], Scale(lower)) == said


def test_a_finalist_whose_selection_score_is_undefined_is_not_the_best(finalist: Callable[..., Finalist]) -> None:
    lora, undefined = finalist("lora", [0.5, 0.6]), finalist("ft", [0.9, 0.9], held_out=[math.nan, 0.9])
    for finalists in ([undefined, lora], [lora, undefined]):
        assert recommend(finalists, margin=0).best is lora


def test_there_must_be_a_finalist() -> None:
    with pytest.raises(ValueError, match="no finalist"):
        recommend([], margin=0.01)
