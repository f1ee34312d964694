"""How often the test of a mean over tasks is wrong, if there are few seeds.

    python -m scripts.studies.few_seeds

`rosa-bench compare` takes Satterthwaite's degrees of freedom for a mean over tasks, from variances that it estimates
from the seeds. They are an approximation. Draws normal differences with a true mean of 0, for some numbers of seeds in
each task and some spreads of the tasks, and counts how many are significant: in multiples of the level, so 1 is exact,
and more is too often. The level 0.0014 is that of the smallest p of 36 methods under Holm's correction. Source of the
figures in docs/evidence.md. Two minutes on one CPU core.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import stdtr

from rosa_bench.report.cells.statistics import satterthwaite
from scripts.arguments import RESULTS, start
from scripts.reporting import Figures, write_report

LEVELS = (0.05, 0.05 / 36)
TASKS = 3
SEEDS = (2, 3, 5, 13)  # of each task
RATIOS = (1, 2, 3, 5, 10, 20, 50)  # the spread of one task's differences, in multiples of the other tasks'
DRAWS = 2_000_000


def main() -> None:
    """Draw, count, print, and write the figures to results/benchmarks."""
    rng = np.random.default_rng(0)
    found = {
        f"{count} seeds, one task varies {ratio} times as much": excess([count] * TASKS, spreads, rng, draws=DRAWS)
        for count in SEEDS
        for ratio in RATIOS
        for spreads in [[float(ratio), *[1.0] * (TASKS - 1)]]
    }
    write_report("few_seeds", found, folder=RESULTS, what=__doc__, device=torch.device("cpu"))


def excess(seeds: Sequence[int], spreads: Sequence[float], rng: np.random.Generator, *, draws: int) -> Figures:
    """Return how many times as many differences are significant as each level says.

    ``seeds`` and ``spreads`` (standard deviations of a seed's difference) have one entry for each task.
    """
    means = [spread / np.sqrt(count) * rng.standard_normal(draws) for count, spread in zip(seeds, spreads, strict=True)]
    terms = [
        spread**2 / count * rng.chisquare(count - 1, draws) / (count - 1)
        for count, spread in zip(seeds, spreads, strict=True)
    ]  # squared standard errors: of normal values, independent of the means
    df = satterthwaite(terms, seeds)
    p = 2 * stdtr(df, -np.abs(sum(means)) / np.sqrt(sum(terms)))
    return {f"at {level:.2g}": float((p < level).mean() / level) for level in LEVELS}


if __name__ == "__main__":
    start(main, __doc__)
