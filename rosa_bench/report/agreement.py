"""How far two comparisons of methods agree: the rank correlation of their orders."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rosa_bench.report.published import PublishedTable
from rosa_bench.report.writers.text import probability

LEAST_SHARED = 4  # methods in both orders


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Kendall's tau-b between two orders of the same methods, its two-sided p, and how many ``methods`` both have."""

    tau: float
    p: float
    methods: int

    @property
    def text(self) -> str:
        """Format as ``tau +0.42 (p 0.04, 12 methods)``."""
        return f"tau {self.tau:+.2f} (p {probability(self.p)}, {self.methods} methods)"


def agreement(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Agreement | None:
    """Compare two orders on the methods that both have.

    Returns None if these are fewer than `LEAST_SHARED`, or if all are tied on one side.

    Source: Kendall, Biometrika 33 (1945), for orders with ties.
    """
    shared = sorted(ours.keys() & theirs.keys())
    if len(shared) < LEAST_SHARED:
        return None
    from scipy.stats import kendalltau

    tau, p = map(float, kendalltau([ours[one] for one in shared], [theirs[one] for one in shared]))
    return None if math.isnan(tau) else Agreement(tau=tau, p=p, methods=len(shared))


def best_of_methods(published: PublishedTable, column: str) -> dict[str, dict[str, str]]:
    """Return the figures of each method's best row by a ``column`` where higher is better."""
    ordered = sorted(published.rows, key=lambda row: float(row.figures[column]))
    return {row.method: row.figures for row in ordered}  # the last one of a method stays
