"""Confidence intervals of a mean, and differences paired over seeds. All scores are fractions.

SciPy does the computation. This module only chooses the method for each question.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.stats import binomtest, bootstrap, norm, ttest_rel

LEVEL = 0.95
DRAWS = 9999
ROUNDING = 1e-9  # scores closer than this count as equal
SEEDS, DEV_SET = "seeds", "dev set"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95 % interval of a score. ``of`` is the source of the variation: ``seeds`` or ``dev set``."""

    low: float
    high: float
    of: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One score minus another, paired over the seeds that both have.

    low, high  95 % interval of the mean difference; None for one seed
    p          two-sided p of the paired t-test; None for one seed, or if all seeds have the same difference
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    seeds: int

    @property
    def within_noise(self) -> bool:
        """Whether the interval contains 0, or there is no interval."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high


def interval(scores: Sequence[float], *, metric: str, dev_rows: int) -> Interval | None:
    """Return the interval of the mean of ``scores``, one per seed; None if any score is not finite.

    Over seeds it is the percentile bootstrap (Efron and Tibshirani, 1993, chapter 13) with a fixed random state. BCa is
    not used: its correction is estimated from the scores, of which there are few, and it may exclude the mean. For two
    or three seeds the interval is their range, and covers less than 95 %.

    A single seed, or seeds that all agree, show no spread. Then the interval is over the dev set, for the metrics in
    `DEV_INTERVALS`. This measures something else: how the score of the same model would vary with other dev rows. It
    ignores that an epoch or a learning rate was chosen on the same rows.
    """
    if not np.isfinite(scores).all():
        return None
    if np.ptp(scores) > ROUNDING:
        drawn = bootstrap(
            (scores,), np.mean, confidence_level=LEVEL, n_resamples=DRAWS, method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
        return Interval(low=float(drawn.low), high=float(drawn.high), of=SEEDS)
    return DEV_INTERVALS[metric](scores[0], dev_rows) if metric in DEV_INTERVALS else None


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Return ours minus theirs, both by seed; None if they share no seed or a score is not finite.

    The interval and p come from Student's t on the differences. There is no correction for multiple comparisons.
    """
    common = sorted(ours.keys() & theirs.keys())
    left, right = [ours[seed] for seed in common], [theirs[seed] for seed in common]
    if not common or not np.isfinite([*left, *right]).all():
        return None
    differences = np.subtract(left, right)
    mean = float(differences.mean())
    if len(common) == 1:
        return Difference(mean=mean, low=None, high=None, p=None, seeds=1)
    if np.ptp(differences) <= ROUNDING:  # zero variance: the test would divide by zero
        mean = 0.0 if abs(mean) <= ROUNDING else mean
        return Difference(mean=mean, low=mean, high=mean, p=None, seeds=len(common))
    test = ttest_rel(left, right)
    low, high = test.confidence_interval(LEVEL)
    return Difference(mean=mean, low=float(low), high=float(high), p=float(test.pvalue), seeds=len(common))


def paired_over_tasks(pairs: Sequence[tuple[Mapping[int, float], Mapping[int, float]]]) -> Difference | None:
    """Like `paired`, for means over tasks. A seed counts once, and only if every task has it on both sides."""
    seeds = set.intersection(*(ours.keys() & theirs.keys() for ours, theirs in pairs))
    means = ({seed: fmean(side[seed] for side in sides) for seed in seeds} for sides in zip(*pairs, strict=True))
    return paired(*means)


def _wilson(accuracy: float, rows: int) -> Interval:
    """Interval of a proportion of rows (Wilson, 1927)."""
    found = binomtest(round(accuracy * rows), rows).proportion_ci(LEVEL, method="wilson")
    return Interval(low=float(found.low), high=float(found.high), of=DEV_SET)


def _fisher(correlation: float, rows: int) -> Interval | None:
    """Interval of a correlation by Fisher's z (1921), as in `scipy.stats.pearsonr`, but without the data.

    Matthews' correlation is Pearson's for two binary variables. These are not normal, so the interval is approximate. A
    score of exactly 0 has no interval: by convention it is the score of constant predictions.
    """
    if rows <= 3 or correlation == 0:
        return None
    with np.errstate(divide="ignore"):  # at 1 and -1, which are their own intervals
        z = np.arctanh(correlation)
    half = norm.ppf((1 + LEVEL) / 2) / np.sqrt(rows - 3)
    return Interval(low=float(np.tanh(z - half)), high=float(np.tanh(z + half)), of=DEV_SET)


# Keyed by ``scores.reported``.
DEV_INTERVALS: dict[str, Callable[[float, int], Interval | None]] = {
    "accuracy": _wilson,
    "matthews_correlation": _fisher,
    "pearson": _fisher,
}
