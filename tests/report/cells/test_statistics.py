"""Intervals and paired differences, checked against enumeration, published examples and other SciPy functions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, pearsonr, ttest_1samp
from sklearn.metrics import matthews_corrcoef

from rosa_bench.report.cells.statistics import DEV_SET, SEEDS, Interval, interval, paired

CORRELATIONS = ("matthews_correlation", "pearson")
SCORES = st.lists(st.integers(-1000, 1000).map(lambda value: value / 1000), min_size=1, max_size=6)


def known(found: Interval | None) -> Interval:
    assert found is not None
    return found


def of_seeds(scores: list[float]) -> Interval:
    found = known(interval(scores, metric="accuracy", dev_rows=100))
    assert found.of == SEEDS
    return found


# Over seeds


@pytest.mark.parametrize("scores", [[0.1, 0.2, 0.4, 0.3], [0.5, 0.51, 0.7, 0.4, 0.45], [0.1, 0.1, 0.1, 0.9]])
def test_the_bootstrap_is_close_to_the_enumeration_of_all_resamples(scores: list[float]) -> None:
    means = [math.fsum(draw) / len(draw) for draw in itertools.product(scores, repeat=len(scores))]
    expected = np.percentile(means, [2.5, 97.5])
    found = of_seeds(scores)
    assert [found.low, found.high] == pytest.approx(expected, abs=0.05 * np.ptp(scores))


def test_three_seeds_have_their_range_as_interval() -> None:
    """One resample in 27 has only the lowest score, which is more than the 2.5 % cut off."""
    found = of_seeds([0.4, 0.1, 0.2])
    assert (found.low, found.high) == pytest.approx((0.1, 0.4))


def test_the_bootstrap_is_deterministic() -> None:
    assert of_seeds([0.1, 0.2, 0.4, 0.3]) == of_seeds([0.1, 0.2, 0.4, 0.3])


@given(scores=SCORES)
@settings(max_examples=40, deadline=None)
def test_the_interval_contains_the_mean_and_stays_within_the_range_of_seeds(scores: list[float]) -> None:
    if found := interval(scores, metric="pearson", dev_rows=200):
        assert found.low - 1e-9 <= math.fsum(scores) / len(scores) <= found.high + 1e-9
        if found.of == SEEDS:
            assert min(scores) - 1e-9 <= found.low <= found.high <= max(scores) + 1e-9
        else:
            assert len(set(scores)) == 1


def test_coverage_is_close_to_nominal() -> None:
    """For 30 normal scores, coverage is slightly below 95 %; over 400 trials its standard error is 1.1 %."""
    random = np.random.default_rng(1)
    found = [of_seeds(list(random.normal(0.5, 0.1, 30))) for _ in range(400)]
    assert 0.90 <= np.mean([one.low <= 0.5 <= one.high for one in found]) <= 0.98


# Over the dev set


@pytest.mark.parametrize(
    ("right", "rows", "expected"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_a_single_accuracy_has_wilsons_interval(right: int, rows: int, expected: tuple[float, float]) -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    found = known(interval([right / rows], metric="accuracy", dev_rows=rows))
    assert found.of == DEV_SET
    assert (found.low, found.high) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("slope", [-2.0, 0.1, 1.0])
def test_a_single_correlation_has_the_interval_computed_from_its_data(slope: float) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=50)
    y = slope * x + random.normal(size=50)
    reference = pearsonr(x, y)
    found = known(interval([np.corrcoef(x, y)[0, 1]], metric="pearson", dev_rows=50))
    assert found.of == DEV_SET
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval(0.95)))


def test_matthews_is_treated_as_pearsons_of_two_binary_variables() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, 300)
    guess = np.where(random.random(300) < 0.8, truth, 1 - truth)
    found = known(interval([matthews_corrcoef(truth, guess)], metric="matthews_correlation", dev_rows=300))
    assert (found.low, found.high) == pytest.approx(tuple(pearsonr(truth, guess).confidence_interval(0.95)))


def test_fishers_z_by_hand() -> None:
    """At r = 0.5, n = 28: z = ln(3) / 2, its standard error 1 / 5."""
    found = known(interval([0.5], metric="pearson", dev_rows=28))
    ends = [math.log(3) / 2 + sign * 1.959964 / 5 for sign in (-1, 1)]
    assert (found.low, found.high) == pytest.approx([math.tanh(end) for end in ends], abs=1e-6)


@pytest.mark.parametrize("metric", [*CORRELATIONS, "accuracy"])
def test_identical_seeds_have_the_dev_set_interval(metric: str) -> None:
    assert interval([0.5, 0.5, 0.5], metric=metric, dev_rows=100) == interval([0.5], metric=metric, dev_rows=100)
    assert known(interval([0.3, 0.1 + 0.2], metric=metric, dev_rows=100)).of == DEV_SET  # equal up to rounding


@pytest.mark.parametrize("metric", CORRELATIONS)
def test_constant_predictions_have_no_interval(metric: str) -> None:
    assert interval([0.0, 0.0], metric=metric, dev_rows=100) is None
    assert known(interval([0.0, 0.01], metric=metric, dev_rows=100)).of == SEEDS


@pytest.mark.parametrize("metric", CORRELATIONS)
@pytest.mark.parametrize("score", [-1.0, 1.0])
def test_a_perfect_correlation_is_its_own_interval(metric: str, score: float) -> None:
    found = known(interval([score], metric=metric, dev_rows=100))
    assert (found.low, found.high) == (score, score)


def test_more_rows_narrow_the_interval() -> None:
    for metric in (*CORRELATIONS, "accuracy"):
        few, many = (known(interval([0.7], metric=metric, dev_rows=rows)) for rows in (100, 10_000))
        assert many.high - many.low < (few.high - few.low) / 5


@pytest.mark.parametrize("metric", ["mse", "spearman", "f1"])
def test_other_metrics_have_no_interval_for_one_seed(metric: str) -> None:
    assert interval([0.5], metric=metric, dev_rows=100) is None
    assert known(interval([0.5, 0.6], metric=metric, dev_rows=100)).of == SEEDS


@pytest.mark.parametrize("scores", [[math.nan], [0.5, math.nan], [math.inf, 0.1]])
def test_non_finite_scores_have_no_interval(scores: list[float]) -> None:
    assert interval(scores, metric="pearson", dev_rows=100) is None
    assert paired(dict(enumerate(scores)), dict.fromkeys(range(len(scores)), 0.5)) is None


@pytest.mark.parametrize("rows", [1, 3])
def test_fishers_z_needs_four_rows(rows: int) -> None:
    assert interval([0.5], metric="pearson", dev_rows=rows) is None


# Differences


def test_a_difference_by_hand() -> None:
    """Differences 0.1, 0.2, 0.3: mean 0.2, standard error 0.1 / sqrt(3), t = sqrt(12); critical t is 4.3027 at 2 df."""
    found = paired({0: 0.5, 1: 0.5, 2: 0.5}, {0: 0.4, 1: 0.3, 2: 0.2})
    assert found is not None
    assert found.seeds == 3
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert found.p == pytest.approx(1 - math.sqrt(6 / 7))  # at 2 df: p = 1 - t / sqrt(t^2 + 2), t^2 = 12
    assert found.within_noise


@given(pairs=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_paired_test_equals_a_one_sample_test_of_the_differences(pairs: list[tuple[int, int]]) -> None:
    ours, theirs = ({seed: pair[side] / 1000 for seed, pair in enumerate(pairs)} for side in (0, 1))
    found, turned = paired(ours, theirs), paired(theirs, ours)
    assert found is not None
    assert turned is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.mean <= found.high
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-found.mean, -found.high, -found.low))
    assert turned.within_noise == found.within_noise
    if len({one - other for one, other in pairs}) == 1:
        assert (found.p, found.within_noise) == (None, pairs[0][0] == pairs[0][1])
        return
    reference = ttest_1samp([(one - other) / 1000 for one, other in pairs], 0.0)
    p = reference.pvalue  # pyright: ignore[reportAttributeAccessIssue]
    assert found.p == pytest.approx(p)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval(0.95)))
    if abs(p - 0.05) > 1e-6:
        assert found.within_noise == (p > 0.05)


def test_only_shared_seeds_count() -> None:
    found = paired({0: 0.9, 1: 0.5, 2: 0.6, 7: 0.1}, {1: 0.4, 2: 0.3, 3: 0.0})
    assert found is not None
    assert (found.mean, found.seeds) == (pytest.approx(0.2), 2)


def test_pairing_removes_the_effect_of_the_seed() -> None:
    """Scores vary widely over seeds but differences do not: paired they are significant, unpaired they are not."""
    theirs = {0: 0.2, 1: 0.5, 2: 0.8}
    found = paired({0: 0.25, 1: 0.551, 2: 0.849}, theirs)
    assert found is not None
    assert not found.within_noise
    assert found.mean < 0.1 < np.std(list(theirs.values())) * norm.ppf(0.975)


def test_one_seed_is_always_within_noise() -> None:
    found = paired({0: 0.9}, {0: 0.1})
    assert found is not None
    assert (found.mean, found.low, found.high, found.p, found.seeds) == (pytest.approx(0.8), None, None, None, 1)
    assert found.within_noise


def test_no_shared_seed_gives_no_difference() -> None:
    assert paired({0: 0.9}, {1: 0.1}) is None
