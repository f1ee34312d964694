"""How often the test of a mean over tasks is wrong if there are few seeds, and how many seeds find a lead.

    python -m scripts.studies.few_seeds

`rosa-bench compare` takes Satterthwaite's degrees of freedom for a mean over tasks, from variances that it estimates
from the seeds. They are an approximation. Draws normal differences with a true mean of 0, for some numbers of seeds in
each task and some spreads of the tasks, and counts how many are significant: in multiples of the level, so 1 is exact,
and more is too often. The level 0.0014 is that of the smallest p of 36 methods under Holm's correction. Then counts how
many seeds find a lead of 1, 2 or 3 points over CoLA, STS-B and MRPC with power 0.8. Source of figures in
docs/evidence.md and docs/guide/sweeps.md. Two minutes on one CPU core.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import stdtr

from rosa_bench.report.cells.differences import POWER
from rosa_bench.report.cells.statistics import satterthwaite
from scripts.arguments import start
from scripts.reporting import Figures, write_report

LEVELS = (0.05, 0.05 / 36)
SEEDS = ((2, 2, 2), (3, 3, 3), (5, 5, 5), (13, 13, 13), (2, 2, 3))  # of each task
RATIOS = (1, 2, 3, 5, 10, 20, 50)  # the spread of the first task's differences, in multiples of the other tasks'
DRAWS = 2_000_000
LEADS = (1, 2, 3)  # points
# Standard deviations of one seed's score on 2,000 rows of CoLA, STS-B and MRPC, in points, as in `many_methods.pooled`.
PLANNED = (2.4, 0.8, 1.2)
PLANNED_SEEDS = (*range(2, 21), *range(25, 55, 5))


def main() -> None:
    """Draw, count, print, and write the figures to results/benchmarks."""
    rng = np.random.default_rng(0)
    found = {
        f"{_words(counts)} seeds, one task varies {ratio} times as much": excess(
            counts, (ratio, 1, 1), rng, draws=DRAWS
        )
        for counts in SEEDS
        for ratio in RATIOS
    }
    found |= {f"seeds for a lead of {lead}": seeds_needed(lead, PLANNED, rng, draws=DRAWS // 10) for lead in LEADS}
    write_report("few_seeds", found, what=__doc__, device=torch.device("cpu"))


def excess(seeds: Sequence[int], spreads: Sequence[float], rng: np.random.Generator, *, draws: int) -> Figures:
    """Return how many times as many differences are significant as each level says.

    ``seeds`` and ``spreads`` (standard deviations of a seed's difference) have one entry for each task.
    """
    p = _p(0.0, seeds, spreads, rng, draws)
    return {f"at {level:.2g}": float((p < level).mean() / level) for level in LEVELS}


def seeds_needed(lead: float, spreads: Sequence[float], rng: np.random.Generator, *, draws: int) -> Figures:
    """Return the number of seeds of each task that a test at each level needs to find a lead with power `POWER`.

    ``spreads`` are the standard deviations of one side's score in each task; seeds do not correlate the sides.
    """
    found: Figures = {}
    for count in PLANNED_SEEDS:
        p = _p(lead, [count] * len(spreads), [math.sqrt(2) * spread for spread in spreads], rng, draws)
        for level in LEVELS:
            if (p < level).mean() >= POWER:
                found.setdefault(f"at {level:.2g}", count)
    return found


def _words(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else ", ".join(map(str, counts))


def _p(
    lead: float, seeds: Sequence[int], spreads: Sequence[float], rng: np.random.Generator, draws: int
) -> NDArray[np.float64]:
    """Draw tests of a difference that is ``lead`` in every task, and return the p of each."""
    means = [spread / np.sqrt(count) * rng.standard_normal(draws) for count, spread in zip(seeds, spreads, strict=True)]
    terms: list[Any] = [
        spread**2 / count * rng.chisquare(count - 1, draws) / (count - 1)
        for count, spread in zip(seeds, spreads, strict=True)
    ]  # squared standard errors: of normal values, independent of the means
    df = satterthwaite(terms, seeds)
    return 2 * stdtr(df, -np.abs(lead * len(seeds) + sum(means)) / np.sqrt(sum(terms)))


if __name__ == "__main__":
    start(main, __doc__)
