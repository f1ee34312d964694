"""How far chance may have moved a figure: intervals of a mean, and differences paired over seeds. Fractions throughout.

SciPy does the work; what is chosen here is which of its methods answers which question.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.stats import binomtest, bootstrap, norm, ttest_rel

LEVEL = 0.95
DRAWS = 9999
ROUNDING = 1e-9  # scores nearer to each other than this are equal
SEEDS, DEV_SET = "seeds", "dev set"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95 % interval of a score. ``of``: drawn anew, what would move it: ``seeds`` or ``dev set``."""

    low: float
    high: float
    of: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A score less another's, paired over the seeds that both have.

    low, high  the 95 % interval of the mean difference; none for one seed
    p          of the paired t-test, two-sided; none for one seed, and where every seed differs by the same
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    seeds: int

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds 0, or there is none."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high


def interval(scores: Sequence[float], *, metric: str, dev_rows: int) -> Interval | None:
    """The interval of the mean of ``scores``, one a seed; none for a score that is no number.

    Of the seeds: the percentile bootstrap (Efron and Tibshirani, 1993, chapter 13), with a fixed random state. BCa is
    not taken: its correction is estimated from the scores, which are few here, and it may leave the mean out. Of two or
    three seeds it is their range, and narrower than 95 % in truth.

    One seed, and seeds that all agree, show no spread: the interval is then the dev set's, for the metrics of
    `DEV_INTERVALS`. It measures another thing: how the score would move with other dev rows, the model staying as it
    is. It does not know that an epoch or a learning rate was chosen by the same rows.
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
    """Ours less theirs, both by seed; none without a seed in common, or for a score that is no number.

    Interval and p by Student's t of the differences. No correction for how many differences are looked at.
    """
    common = sorted(ours.keys() & theirs.keys())
    left, right = [ours[seed] for seed in common], [theirs[seed] for seed in common]
    if not common or not np.isfinite([*left, *right]).all():
        return None
    differences = np.subtract(left, right)
    mean = float(differences.mean())
    if len(common) == 1:
        return Difference(mean=mean, low=None, high=None, p=None, seeds=1)
    if np.ptp(differences) <= ROUNDING:  # no noise at all: the test would divide by it
        mean = 0.0 if abs(mean) <= ROUNDING else mean
        return Difference(mean=mean, low=mean, high=mean, p=None, seeds=len(common))
    test = ttest_rel(left, right)
    low, high = test.confidence_interval(LEVEL)
    return Difference(mean=mean, low=float(low), high=float(high), p=float(test.pvalue), seeds=len(common))


def paired_over_tasks(pairs: Sequence[tuple[Mapping[int, float], Mapping[int, float]]]) -> Difference | None:
    """As `paired`, of means over tasks: each seed counts once, and only if every task has it on both sides."""
    seeds = set.intersection(*(ours.keys() & theirs.keys() for ours, theirs in pairs))
    means = ({seed: fmean(side[seed] for side in sides) for seed in seeds} for sides in zip(*pairs, strict=True))
    return paired(*means)


def _wilson(accuracy: float, rows: int) -> Interval:
    """Of a share of rows (Wilson, 1927)."""
    found = binomtest(round(accuracy * rows), rows).proportion_ci(LEVEL, method="wilson")
    return Interval(low=float(found.low), high=float(found.high), of=DEV_SET)


def _fisher(correlation: float, rows: int) -> Interval | None:
    """Of a correlation, by Fisher's z (1921), as `scipy.stats.pearsonr` has it for data that we have not.

    Matthews' is Pearson's of two binary variables, which are not normal: for it this is an approximation. Exactly 0 is
    what predictions that are all alike get by convention: it has no interval.
    """
    if rows <= 3 or correlation == 0:
        return None
    with np.errstate(divide="ignore"):  # of 1 and -1, whose interval is themselves
        z = np.arctanh(correlation)
    half = norm.ppf((1 + LEVEL) / 2) / np.sqrt(rows - 3)
    return Interval(low=float(np.tanh(z - half)), high=float(np.tanh(z + half)), of=DEV_SET)


# By ``scores.reported``.
DEV_INTERVALS: dict[str, Callable[[float, int], Interval | None]] = {
    "accuracy": _wilson,
    "matthews_correlation": _fisher,
    "pearson": _fisher,
}
