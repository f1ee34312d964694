"""Compare runs row by row: how much of a difference in score is due to the choice of the dev rows alone.

The runs must have been scored on the same rows. The models are taken as they are: how a score would vary with other
seeds is another question (`rosa_bench.report.cells.statistics`), and usually the larger part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rosa_bench.records.predictions import RowPredictions
from rosa_bench.report.cells.statistics import CONFIDENCE
from rosa_bench.system.errors import UserError

Array = NDArray[np.float64]
DRAWS = 9999  # of a bootstrap over rows
BATCH = 100  # resamples at a time, so that memory does not grow with their number


@dataclass(frozen=True, kw_only=True)
class RowsInterval:
    """One score minus another on the same rows, as a fraction, with its 95 % interval over the rows."""

    difference: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True, kw_only=True)
class Discordant:
    """The rows that exactly one of two models has right, and McNemar's exact two-sided p. It is 1 if there are none."""

    only_ours: int
    only_theirs: int
    p: float


def mcnemar(ours: RowPredictions, theirs: RowPredictions) -> Discordant:
    """Test whether two classifiers are equally often right: the exact binomial test on the rows that one has right.

    Source: McNemar (1947). Raises `UserError` if the runs were scored on different rows.
    """
    labels, (left,), (right,) = _aligned([ours], [theirs])
    only_ours = int(np.sum((left == labels) & (right != labels)))
    only_theirs = int(np.sum((left != labels) & (right == labels)))
    both = only_ours + only_theirs
    from scipy.stats import binomtest

    p = float(binomtest(only_ours, both).pvalue) if both else 1.0
    return Discordant(only_ours=only_ours, only_theirs=only_theirs, p=p)


def rows_interval(
    ours: Sequence[RowPredictions], theirs: Sequence[RowPredictions], *, metric: str
) -> RowsInterval | None:
    """Return the mean score of ``ours`` minus that of ``theirs``, one run per seed; None for another metric.

    The interval is that of a mean over rows for ``accuracy``: normal, with the variance of the row-wise differences.
    For ``matthews_correlation`` and ``pearson`` it is the percentile bootstrap over rows, paired: all runs get the same
    resampled rows (Efron and Tibshirani, 1993, chapter 13), with a fixed random state.

    Raises `UserError` if the runs were scored on different rows.
    """
    labels, left, right = _aligned(ours, theirs)
    if metric == "accuracy":
        return _mean_over_rows((left == labels).mean(0) - (right == labels).mean(0))
    return _bootstrapped(labels, left, right, SCORES[metric]) if metric in SCORES else None


def _aligned(ours: Sequence[RowPredictions], theirs: Sequence[RowPredictions]) -> tuple[Array, Array, Array]:
    """Return the labels, (rows), and the predictions of both sides, (runs, rows)."""
    first, *others = runs = [*ours, *theirs]
    for other in others:
        if (other.rows, other.labels) != (first.rows, first.labels):
            raise UserError(f"{first.run} and {other.run} were scored on different rows, so they cannot be paired")
    labels, *predicted = (np.asarray(column, dtype=float) for column in (first.labels, *(r.predictions for r in runs)))
    return labels, np.stack(predicted[: len(ours)]), np.stack(predicted[len(ours) :])


def _mean_over_rows(differences: Array) -> RowsInterval:
    rows, mean = len(differences), float(differences.mean())
    from scipy.stats import norm

    half = norm.ppf((1 + CONFIDENCE) / 2) * differences.std(ddof=1) / np.sqrt(rows) if rows > 1 else 0.0
    return RowsInterval(difference=mean, low=float(mean - half), high=float(mean + half), rows=rows)


def _bootstrapped(labels: Array, left: Array, right: Array, score: Callable[[Array, Array], Array]) -> RowsInterval:
    def difference(labels: Array, *predicted: Array, axis: int) -> Array:  # noqa: ARG001 - always the last
        scores = [score(labels, one) for one in predicted]
        return np.mean(scores[: len(left)], axis=0) - np.mean(scores[len(left) :], axis=0)

    from scipy.stats import bootstrap

    drawn = bootstrap(
        (labels, *left, *right), difference, paired=True, vectorized=True, n_resamples=DRAWS, batch=BATCH,
        confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    observed = float(difference(labels, *left, *right, axis=-1))
    return RowsInterval(difference=observed, low=float(drawn.low), high=float(drawn.high), rows=len(labels))


def _covariance(one: Array, other: Array) -> Array:
    return (_centred(one) * _centred(other)).mean(-1)


def _centred(values: Array) -> Array:
    """Subtract the mean over the last axis. Constant values become exactly 0, which subtracting the mean may not do."""
    shifted = values - values[..., :1]
    return shifted - shifted.mean(-1, keepdims=True)


def _correlation(covariance: Array, one: Array, other: Array) -> Array:
    """Return a correlation; 0 if either variance is 0, as for constant predictions."""
    scale = np.sqrt(one * other)
    return np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)


def _pearson(labels: Array, predicted: Array) -> Array:
    """Pearson's correlation over the last axis."""
    return _correlation(
        *(_covariance(*pair) for pair in ((labels, predicted), (labels, labels), (predicted, predicted)))
    )


def _matthews(labels: Array, predicted: Array) -> Array:
    """Matthews' correlation over the last axis, for any number of classes (Gorodkin, 2004)."""
    classes = np.union1d(labels, predicted)
    indicators = [((labels == k).astype(float), (predicted == k).astype(float)) for k in classes]
    pairs = ([(t, p) for t, p in indicators], [(t, t) for t, _ in indicators], [(p, p) for _, p in indicators])
    return _correlation(*(sum((_covariance(*pair) for pair in some), np.zeros(())) for some in pairs))


SCORES: dict[str, Callable[[Array, Array], Array]] = {"matthews_correlation": _matthews, "pearson": _pearson}
