"""Intervals of a mean, checked against tables, published examples and other SciPy functions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap, pearsonr, sem, t
from sklearn.metrics import matthews_corrcoef

from rosa_bench.metrics.base import FRACTIONS
from rosa_bench.report.cells.statistics import DEV_SET, RANGES, SEEDS, Interval, interval

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


def test_three_seeds_by_hand() -> None:
    """Mean 0.2, standard error 0.1 / sqrt(3); a t-table has 4.3027 at two degrees of freedom."""
    found = of_seeds([0.1, 0.3, 0.2])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (found.low, found.high, found.method) == (pytest.approx(0.2 - half), pytest.approx(0.2 + half), "Student")


@given(scores=SCORES)
@settings(max_examples=40, deadline=None)
def test_the_interval_over_seeds_is_students_and_contains_the_mean(scores: list[float]) -> None:
    if found := interval(scores, metric="pearson", dev_rows=200):
        mean = math.fsum(scores) / len(scores)
        assert found.low - 1e-9 <= mean <= found.high + 1e-9
        assert (found.of == DEV_SET) == (len(set(scores)) == 1)
        if found.of == SEEDS:
            expected = t.interval(0.95, len(scores) - 1, loc=mean, scale=sem(scores))
            assert (found.low, found.high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "ends", "shown"),
    [
        ("accuracy", (-0.2, 1.3), (0.0, 1.0)),
        ("matthews_correlation", (-0.2, 1.3), (-0.2, 1.0)),
        ("mse", (-0.2, 1.3), (0.0, 1.3)),
        ("a metric of a plugin", (-0.2, 1.3), (-0.2, 1.3)),
        ("accuracy", (0.3, 0.4), (0.3, 0.4)),
        ("accuracy", (6.0, 7.0), (1.0, 1.0)),  # of a damaged record: the ends stay in order
        ("accuracy", (-7.0, -6.0), (0.0, 0.0)),
    ],
)
def test_an_interval_is_shown_within_the_range_of_its_metric(
    metric: str, ends: tuple[float, float], shown: tuple[float, float]
) -> None:
    found = Interval(low=ends[0], high=ends[1], of=SEEDS, method="Student").within(metric)
    assert (found.low, found.high) == shown


def test_every_score_has_its_range() -> None:
    """A correlation may be negative and nothing else; only what is shown times 100 ends at 1."""
    assert {metric for metric, (_, most) in RANGES.items() if most == 1} == FRACTIONS - {"f1"}  # no metric of ours
    for metric in FRACTIONS - {"f1"}:
        least = -1 if metric in {"matthews_correlation", "pearson", "spearman"} else 0
        assert RANGES[metric] == (least, 1), metric
    for metric in ("mse", "loss", "perplexity", "bits_per_character", "nist"):
        assert RANGES[metric] == (0, math.inf), metric


def test_seeds_that_differ_in_one_row_have_a_spread() -> None:
    """One row of 40,430, the dev set of QQP."""
    assert of_seeds([0.5, 0.5 + 1 / 40_430]).high > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "seeds", [2, pytest.param(3, marks=pytest.mark.long), 5, pytest.param(13, marks=pytest.mark.long)]
)
def test_coverage_is_nominal_at_few_seeds(seeds: int) -> None:
    """Over 4,000 normal samples the standard error of the coverage is 0.35 %."""
    random = np.random.default_rng(1)
    found = [of_seeds(list(random.normal(0.5, 0.1, seeds))) for _ in range(4000)]
    assert 0.935 <= np.mean([one.low <= 0.5 <= one.high for one in found]) <= 0.965


@pytest.mark.slow
def test_the_percentile_bootstrap_covers_too_little_at_five_seeds() -> None:
    """This is why it is not used: 84 % instead of 95 %."""
    random = np.random.default_rng(1)
    samples = random.normal(0.5, 0.1, (4000, 5))
    ends = bootstrap(
        (samples,), np.mean, axis=1, n_resamples=999, method="percentile", rng=random, batch=100
    ).confidence_interval
    assert 0.82 <= np.mean((ends.low <= 0.5) & (ends.high >= 0.5)) <= 0.86


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


@given(rows=st.integers(1, 50_000), share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_wilsons_interval_equals_scipys(rows: int, share: float) -> None:
    right = round(share * rows)
    found = known(interval([right / rows], metric="accuracy", dev_rows=rows))
    expected = binomtest(right, rows).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_share_is_read_as_a_whole_number_of_rows_and_keeps_its_ends() -> None:
    """29 / 50 times 50 is 28.999... in binary. Rounding must not push an end past 0 or 1."""
    found, whole = (known(interval([score], metric="accuracy", dev_rows=50)) for score in (0.58, 29 / 50))
    expected = binomtest(29, 50).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == (whole.low, whole.high) == pytest.approx((expected.low, expected.high))
    for rows in range(1, 300):
        none, every = (known(interval([score], metric="accuracy", dev_rows=rows)) for score in (0.0, 1.0))
        assert (none.low, every.high) == (0, 1)


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


@pytest.mark.parametrize("rows", [1, 3])
def test_fishers_z_needs_four_rows(rows: int) -> None:
    assert interval([0.5], metric="pearson", dev_rows=rows) is None
    x, y = [1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 5.0]
    found, expected = pearsonr(x, y), pearsonr(x, y).confidence_interval(0.95)
    least = known(interval([found.statistic], metric="pearson", dev_rows=4))
    assert (least.low, least.high) == pytest.approx((expected.low, expected.high))
