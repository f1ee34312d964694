"""Confidence intervals of a mean score. All scores are fractions.

The distributions are SciPy's, from `scipy.special`: `scipy.stats` takes longer to import than a table to make. Both are
imported by the functions that need them, because that takes longer than to list a thousand runs.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rosa_bench.records.record import RunRecord

CONFIDENCE = 0.95
ROUNDING = 1e-9  # scores closer than this count as equal
SEEDS, DEV_SET = "seeds", "dev set"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95 % interval of a score.

    of      the source of the variation: ``seeds`` or ``dev set``
    method  how it is computed: ``Student``, ``Wilson`` or ``Fisher``
    """

    low: float
    high: float
    of: str
    method: str

    def within(self, metric: str) -> "Interval":
        """Return the interval cut at the ends of the metric's range, to be shown: no score is above 100."""
        least, greatest = RANGES.get(metric, (-np.inf, np.inf))
        return replace(self, low=min(max(self.low, least), greatest), high=max(min(self.high, greatest), least))


def interval(scores: Sequence[float], *, metric: str, dev_rows: int) -> Interval | None:
    """Return the interval of the mean of ``scores``, one per seed; None if any score is not finite.

    Over seeds it is Student's (1908), which keeps its 95 % at any number of seeds if the scores are normal. It may
    leave the range of the metric; `Interval.within` cuts it where it is shown. The percentile bootstrap would cover
    84 % at five seeds.

    A single seed, or seeds that all agree, show no spread. Then the interval is over the dev set, for the metrics in
    `DEV_INTERVALS`. This measures something else: how the score of the same model would vary with other dev rows. It
    ignores that an epoch or a learning rate was chosen on the same rows.
    """
    if not np.isfinite(scores).all():
        return None
    if np.ptp(scores) > ROUNDING:
        low, high = student(scores)
        return Interval(low=low, high=high, of=SEEDS, method="Student")
    return DEV_INTERVALS[metric](scores[0], dev_rows) if metric in DEV_INTERVALS else None


def interval_of(runs: Collection[RunRecord]) -> Interval | None:
    """Return the `interval` of the mean reported score of runs that differ only in the seed."""
    run = next(iter(runs))
    return interval([one.score for one in runs], metric=run.scores.reported, dev_rows=run.data.rows.reported)


def shown_interval_of(runs: Collection[RunRecord]) -> Interval | None:
    """Like `interval_of`, but cut at the ends of the metric's range, to be shown."""
    found = interval_of(runs)
    return None if found is None else found.within(next(iter(runs)).scores.reported)


def critical_value(df: float) -> float:
    """Return the bound that Student's t with ``df`` degrees of freedom keeps, on both sides of 0, at `CONFIDENCE`."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + CONFIDENCE) / 2))


def student(values: Sequence[float]) -> tuple[float, float]:
    """Return Student's interval of the mean of two or more normal values, equal to `scipy.stats.ttest_1samp`'s."""
    mean = float(np.mean(values))
    half = critical_value(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean - half, mean + half


def satterthwaite(terms: Sequence[float], counts: Sequence[int]) -> float:
    """Return the degrees of freedom of a sum of means, from their squared standard errors and numbers of values.

    Source: Satterthwaite, Biometrics Bulletin 2 (1946).
    """
    return sum(terms) ** 2 / sum(term**2 / (count - 1) for term, count in zip(terms, counts, strict=True))


def student_tail(value: float, df: float) -> float:
    """Return the probability that Student's t with ``df`` degrees of freedom is above ``value``."""
    from scipy.special import stdtr

    return float(stdtr(df, -value))


def normal_quantile(probability: float) -> float:
    """Return the value that a standard normal variable is below with this probability."""
    from scipy.special import ndtri

    return float(ndtri(probability))


def wilson(accuracy: float, rows: int) -> Interval:
    """Interval of a proportion of rows (Wilson, 1927), in the form of Newcombe, Statistics in Medicine 17 (1998)."""
    right = round(accuracy * rows)
    share, z = right / rows, normal_quantile((1 + CONFIDENCE) / 2)
    whole = 2 * (rows + z**2)
    centre = (2 * rows * share + z**2) / whole
    half = z / whole * math.sqrt(4 * rows * share * (1 - share) + z**2)
    low = 0.0 if right == 0 else centre - half
    high = 1.0 if right == rows else centre + half
    return Interval(low=low, high=high, of=DEV_SET, method="Wilson")


def _fisher(correlation: float, rows: int) -> Interval | None:
    """Interval of a correlation by Fisher's z (1921), as in `scipy.stats.pearsonr`, but without the data.

    Matthews' correlation is Pearson's for two binary variables. These are not normal, so the interval is approximate. A
    score of exactly 0 has no interval: by convention it is the score of constant predictions.
    """
    if rows <= 3 or correlation == 0:
        return None
    with np.errstate(divide="ignore"):  # at 1 and -1, which are their own intervals
        z = np.arctanh(correlation)
    half = normal_quantile((1 + CONFIDENCE) / 2) / np.sqrt(rows - 3)
    low, high = np.tanh(z - half), np.tanh(z + half)
    return Interval(low=float(low), high=float(high), of=DEV_SET, method="Fisher")


# The range of a metric, keyed by ``scores.reported``.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("accuracy", "macro_f1", "bleu", "bleu_cased", "recall", "digit_accuracy"), (0.0, 1.0)),
    **dict.fromkeys(("matthews_correlation", "pearson", "spearman"), (-1.0, 1.0)),
    **dict.fromkeys(("mse", "loss", "perplexity", "bits_per_character", "nist"), (0.0, np.inf)),
}

# Keyed by ``scores.reported``.
DEV_INTERVALS: dict[str, Callable[[float, int], Interval | None]] = {
    "accuracy": wilson,
    "matthews_correlation": _fisher,
    "pearson": _fisher,
}
