"""Differences between two sides: paired over seeds in a task, stratified over tasks. All scores are fractions.

SciPy has the distributions; the estimators follow the papers that they cite.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, variance

from rosa_bench.report.cells.statistics import CONFIDENCE, ROUNDING, critical_value, satterthwaite, student_tail

POWER = 0.8
FEW_SEEDS = 5
FEW_SEEDS_NOTE = (
    f"a mean over tasks of which one has fewer than {FEW_SEEDS} seeds is starred too often if one task varies far more "
    "than the others"
)
Scores = Mapping[int, float]  # by seed


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One score minus another, over the seeds that both have.

    error  standard error of the mean; None unless every task has two seeds
    df     degrees of freedom of ``error``; None if that is unknown or 0
    seeds  number of shared seeds of each task
    """

    mean: float
    error: float | None
    df: float | None
    seeds: tuple[int, ...]

    @property
    def low(self) -> float | None:
        """Lower end of Student's 95 % interval; None if the error is unknown."""
        return None if self._half is None else self.mean - self._half

    @property
    def high(self) -> float | None:
        """Upper end of the interval."""
        return None if self._half is None else self.mean + self._half

    @property
    def p(self) -> float | None:
        """Two-sided p of Student's t; None if the error is unknown or 0, because then there is no test."""
        return 2 * student_tail(abs(self.mean) / self.error, self.df) if self.error and self.df else None

    @property
    def has_few_seeds(self) -> bool:
        """Whether ``p`` is rough: Satterthwaite's degrees of freedom need `FEW_SEEDS` seeds of each of several tasks.

        `scripts/studies/few_seeds.py` counts how often such a test is wrong.
        """
        return len(self.seeds) > 1 and min(self.seeds) < FEW_SEEDS

    @property
    def within_noise(self) -> bool:
        """Whether the interval contains 0, or there is no interval."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high

    @property
    def detectable(self) -> float | None:
        """The smallest true difference that a two-sided test at 5 % detects with 80 % power, at this error and df."""
        return self.error * noncentrality(self.df) if self.error and self.df else None

    @cached_property
    def _half(self) -> float | None:
        if self.error is None or self.df is None:
            return self.error
        return self.error * critical_value(self.df)


def paired(ours: Scores, theirs: Scores) -> Difference | None:
    """Return ours minus theirs in one task; None if they share no seed or a score is not finite."""
    return stratified([(ours, theirs)])


def stratified(tasks: Sequence[tuple[Scores, Scores]]) -> Difference | None:
    """Return the mean over tasks of ours minus theirs; None if a task shares no seed or a score is not finite.

    Tasks are fixed strata, each with its own seeds, and seeds of different tasks are independent. So the estimate is
    the mean of the tasks' mean differences, and its variance the sum of their variances over T^2, with the degrees of
    freedom of Satterthwaite (Biometrics Bulletin 2, 1946). One task gives the paired t-test.

    The variance is that over seeds alone. Noise of the dev rows would be a second term of each task's variance.
    """
    differences = [
        [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())] for ours, theirs in tasks
    ]
    if not all(some and all(map(math.isfinite, some)) for some in differences):
        return None
    mean = fmean(fmean(some) for some in differences)
    seeds = tuple(map(len, differences))
    if min(seeds) < 2:
        return Difference(mean=mean, error=None, df=None, seeds=seeds)
    terms = [_variance(some) / len(some) for some in differences]
    if not any(terms):  # all seeds agree
        return Difference(mean=0.0 if abs(mean) <= ROUNDING else mean, error=0.0, df=None, seeds=seeds)
    df = satterthwaite(terms, seeds)
    return Difference(mean=mean, error=math.sqrt(sum(terms)) / len(terms), df=df, seeds=seeds)


def noncentrality(df: float) -> float:
    """Return the true difference, in standard errors, that Student's two-sided test detects with power `POWER`.

    The test statistic has the noncentral t distribution. The chance to be significant on the wrong side is left out: it
    is below 1e-5 at this power.
    """
    from scipy.optimize import root_scalar
    from scipy.stats import nct

    critical = critical_value(df)
    found = root_scalar(lambda shift: nct.sf(critical, df, shift) - POWER, bracket=(0, 2 * critical))
    return float(found.root)


def holm(family: Sequence[float | None]) -> list[float | None]:
    """Return the adjusted p-values of a family of tests. A None is no test: it stays None and is not counted.

    A test that is significant by its adjusted p keeps the chance of any false one in the family below the level.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    adjusted: list[float | None] = [None] * len(family)
    tests = sorted((p, place) for place, p in enumerate(family) if p is not None)
    highest = 0.0
    for rank, (p, place) in enumerate(tests):
        highest = max(highest, min(1.0, (len(tests) - rank) * p))
        adjusted[place] = highest
    return adjusted


def survives(adjusted: float | None) -> bool:
    """Whether a difference is significant at 5 % by its p after `holm`."""
    return adjusted is not None and adjusted < 1 - CONFIDENCE


def _variance(differences: Sequence[float]) -> float:
    """Return the sample variance, 0 if all are equal up to rounding."""
    return variance(differences) if max(differences) - min(differences) > ROUNDING else 0.0
