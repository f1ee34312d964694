from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import binom, pearsonr
from sklearn.metrics import matthews_corrcoef

from rosa_bench.records.predictions import RowPredictions
from rosa_bench.report.cells.rows import SCORES, mcnemar, rows_interval
from rosa_bench.system.errors import UserError

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 300).tolist()


def predicting(predictions: Sequence[float], labels: Sequence[float] = LABELS, rows: str = "a") -> RowPredictions:
    return RowPredictions(
        run="run", epoch=1, rows=rows * 64, labels=list(map(float, labels)), predictions=list(map(float, predictions))
    )


def right_with(probability: float, seed: int) -> RowPredictions:
    """Predictions that are right with this probability."""
    right = np.random.default_rng(seed).random(len(LABELS)) < probability
    return predicting([label if one else 1 - label for label, one in zip(LABELS, right, strict=True)])


OURS, THEIRS = right_with(0.9, 1), right_with(0.8, 2)


def test_mcnemar_is_the_exact_binomial_test_of_the_rows_that_one_has_right() -> None:
    left, right = [1] * 14 + [0] * 3, [1] * 5 + [0] * 9 + [1] * 2 + [0]
    found = mcnemar(predicting(left, [1] * 17), predicting(right, [1] * 17))
    assert (found.only_ours, found.only_theirs) == (9, 2)
    assert found.p == pytest.approx(2 * binom.cdf(2, 11, 0.5))


def test_models_that_are_right_on_the_same_rows_do_not_differ() -> None:
    found = mcnemar(OURS, OURS)
    assert (found.only_ours, found.only_theirs, found.p) == (0, 0, 1.0)
    interval = rows_interval([OURS], [OURS], metric="accuracy")
    assert interval
    assert (interval.difference, interval.low, interval.high) == (0, 0, 0)


def test_the_interval_of_accuracy_agrees_with_one_from_the_counts() -> None:
    found, counts = rows_interval([OURS], [THEIRS], metric="accuracy"), mcnemar(OURS, THEIRS)
    assert found
    rows, b, c = len(LABELS), counts.only_ours, counts.only_theirs
    difference = (b - c) / rows
    half = 1.959964 * np.sqrt((b + c - (b - c) ** 2 / rows) / (rows * (rows - 1)))
    assert (found.difference, found.rows) == (pytest.approx(difference), rows)
    assert (found.low, found.high) == pytest.approx((difference - half, difference + half))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_matthews_correlation_is_scikit_learns(classes: int) -> None:
    labels = RNG.integers(0, classes, (4, 50)).astype(float)
    predicted = np.where(RNG.random((4, 50)) < 0.6, labels, RNG.integers(0, classes, (4, 50)))
    expected = [matthews_corrcoef(*pair) for pair in zip(labels, predicted, strict=True)]
    assert SCORES["matthews_correlation"](labels, predicted) == pytest.approx(expected)


def test_pearsons_correlation_is_scipys() -> None:
    labels, predicted = RNG.normal(size=(2, 4, 50)) + 100
    expected = [pearsonr(*pair).statistic for pair in zip(labels, predicted, strict=True)]  # pyright: ignore[reportAttributeAccessIssue]
    assert SCORES["pearson"](labels, predicted) == pytest.approx(expected)


@pytest.mark.parametrize("metric", SCORES)
@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, 1 / 3])
def test_constant_predictions_score_0_as_in_the_metrics(metric: str, constant: float) -> None:
    labels = np.array([LABELS], dtype=float)
    assert SCORES[metric](labels, np.full_like(labels, constant)).tolist() == [0.0]


@pytest.mark.parametrize("metric", ["accuracy", *SCORES])
def test_the_interval_agrees_with_a_bootstrap_by_hand(metric: str) -> None:
    found = rows_interval([OURS], [THEIRS], metric=metric)
    assert found
    labels, left, right = (np.array(one) for one in (LABELS, OURS.predictions, THEIRS.predictions))

    def score(rows: np.ndarray, predicted: np.ndarray) -> float:
        if metric == "accuracy":
            return float(np.mean(predicted[rows] == labels[rows]))
        return float(np.corrcoef(predicted[rows], labels[rows])[0, 1])  # for two classes, Matthews' too

    draws = np.random.default_rng(7).integers(0, len(labels), (4000, len(labels)))
    drawn = [score(rows, left) - score(rows, right) for rows in draws]
    everything = np.arange(len(labels))
    assert found.difference == pytest.approx(score(everything, left) - score(everything, right))
    assert (found.low, found.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.008)


@pytest.mark.parametrize("metric", ["accuracy", "matthews_correlation"])
def test_pairing_makes_the_interval_of_similar_models_narrower(metric: str) -> None:
    almost = [1 - value for value in OURS.predictions[:3]] + OURS.predictions[3:]
    near, far = (rows_interval([OURS], [other], metric=metric) for other in (predicting(almost), right_with(0.9, 5)))
    assert near
    assert far
    assert near.high - near.low < 0.5 * (far.high - far.low)


@pytest.mark.parametrize("metric", ["accuracy", "matthews_correlation"])
def test_several_seeds_are_averaged_and_the_sides_can_be_swapped(metric: str) -> None:
    ours, theirs = [right_with(0.9, 11), right_with(0.85, 12)], [right_with(0.8, 13)]
    found, swapped = rows_interval(ours, theirs, metric=metric), rows_interval(theirs, ours, metric=metric)
    singles = [rows_interval([one], theirs, metric=metric) for one in ours]
    assert found
    assert swapped
    assert found.difference == pytest.approx(np.mean([one.difference for one in singles if one]))
    assert (swapped.difference, swapped.low, swapped.high) == pytest.approx(
        (-found.difference, -found.high, -found.low), abs=1e-9
    )
    assert found == rows_interval(ours, theirs, metric=metric)  # the same every time


def test_runs_on_other_rows_cannot_be_paired() -> None:
    for theirs in (predicting(LABELS, rows="b"), predicting(LABELS, [1 - label for label in LABELS])):
        with pytest.raises(UserError, match="scored on different rows"):
            mcnemar(OURS, theirs)
        with pytest.raises(UserError, match="scored on different rows"):
            rows_interval([OURS], [OURS, theirs], metric="accuracy")


def test_an_unknown_metric_has_no_interval() -> None:
    assert rows_interval([OURS], [THEIRS], metric="nist") is None
