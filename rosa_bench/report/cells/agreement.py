"""How far two comparisons of methods agree: the rank correlation of their orders."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from rosa_bench.report.published import PublishedTable
from rosa_bench.report.writers.text import probability

LEAST_SHARED = 4  # methods in both orders
LARGEST_EXACT = 33  # as in SciPy: the exact p of more methods is not counted


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
    found = kendall([ours[one] for one in shared], [theirs[one] for one in shared])
    return None if found is None else Agreement(tau=found[0], p=found[1], methods=len(shared))


def kendall(left: Sequence[float], right: Sequence[float]) -> tuple[float, float] | None:
    """Return Kendall's tau-b and its two-sided p; None if one side has only ties, or a value is not a number.

    The p is exact without ties and for at most `LARGEST_EXACT` values, and normal otherwise. `scipy.stats.kendalltau`
    gives the same, except that it is exact for more values too if at most one pair is out of order. It takes longer to
    import than all tables to make.
    """
    if any(map(math.isnan, (*left, *right))):
        return None
    signs = [_order(a, b) * _order(c, d) for (a, c), (b, d) in combinations(zip(left, right, strict=True), 2)]
    pairs, surplus, count = len(signs), sum(signs), len(left)
    tied_left, tied_right = ([n for n in Counter(side).values() if n > 1] for side in (left, right))
    same_left, same_right = (sum(math.comb(n, 2) for n in tied) for tied in (tied_left, tied_right))
    if pairs in (same_left, same_right):
        return None
    tau = surplus / math.sqrt(pairs - same_left) / math.sqrt(pairs - same_right)
    if not tied_left and not tied_right and count <= LARGEST_EXACT:
        return tau, _exact_p(count, signs.count(-1))
    variance = (
        (count * (count - 1) * (2 * count + 5) - sum(n * (n - 1) * (2 * n + 5) for n in (*tied_left, *tied_right))) / 18
        + same_left * same_right / pairs
        + math.prod(sum(n * (n - 1) * (n - 2) for n in tied) for tied in (tied_left, tied_right))
        / (9 * count * (count - 1) * (count - 2))
    )
    return tau, math.erfc(abs(surplus) / math.sqrt(2 * variance))


def _order(one: float, other: float) -> int:
    return (one > other) - (one < other)


def _exact_p(count: int, discordant: int) -> float:
    """Return how likely an order of ``count`` values is at least as far from half of all pairs discordant."""
    orders = [1]  # by how many of their pairs are discordant
    for size in range(2, count + 1):
        orders = [sum(orders[max(0, n - size + 1) : n + 1]) for n in range(len(orders) + size - 1)]
    fewest = min(discordant, len(orders) - 1 - discordant)
    return min(1.0, 2 * sum(orders[: fewest + 1]) / math.factorial(count))


def best_of_methods(published: PublishedTable, column: str) -> dict[str, dict[str, str]]:
    """Return the figures of each method's best row by a ``column`` where higher is better."""
    ordered = sorted(published.rows, key=lambda row: float(row.figures[column]))
    return {row.method: row.figures for row in ordered}  # the last one of a method stays
