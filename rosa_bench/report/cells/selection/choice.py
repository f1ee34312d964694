"""Recommend one of a few finalists from their records: the best on the rows that select, or a cheaper one at its level.

The reported rows have no part in who is best. They give the scores, and the differences that say what is level.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.differences import Difference, paired
from rosa_bench.report.cells.statistics import Interval, shown_interval_of
from rosa_bench.report.cells.words.shown import Scale, scale, selection_scale

SAME_MEMORY = 0.05  # peak memory within so much counts as equal; then what is saved decides


@dataclass(frozen=True)
class Finalist:
    """One combination of settings and its completed runs by seed. ``name`` is what the user reads."""

    name: str
    runs: Mapping[int, RunRecord]

    @property
    def by_seed(self) -> dict[int, float]:
        """The reported score of every seed."""
        return {seed: run.score for seed, run in self.runs.items()}

    @property
    def score(self) -> float:
        """The mean reported score over seeds."""
        return fmean(self.by_seed.values())

    @property
    def interval(self) -> Interval | None:
        """The interval of `score`: Student's over seeds, or over the reported rows if there is one seed.

        It is cut at the ends of the metric's range, because it is only shown.
        """
        return shown_interval_of(self.runs.values())

    @property
    def scale(self) -> Scale:
        """How the reported score is shown."""
        return scale(next(iter(self.runs.values())))

    @property
    def memory_bytes(self) -> float | None:
        """Mean peak memory in training."""
        known = [run.memory_bytes.training for run in self.runs.values() if run.memory_bytes.training]
        return fmean(known) if known else None

    @property
    def saved_bytes(self) -> int | None:
        """Size of what must be stored beside the base model."""
        return next(iter(self.runs.values())).parameters.saved_bytes

    def selection(self, seeds: Iterable[int]) -> float:
        """Return the mean score on the rows that select; higher is better, and an undefined one is the worst."""
        found = fmean(self.runs[seed].selection_score for seed in seeds)
        score = selection_scale(next(iter(self.runs.values()))).merit(found)
        return score if math.isfinite(score) else -math.inf


@dataclass(frozen=True)
class Recommendation:
    """The finalist to use.

    best     the one that is best on the rows that select; another one is chosen only if it is level and cheaper
    against  the chosen one minus each other finalist, on the reported rows, in their order
    """

    chosen: Finalist
    best: Finalist
    against: Mapping[str, Difference]


def recommend(finalists: Sequence[Finalist], *, margin: float) -> Recommendation:
    """Return which finalist to use. Raises ValueError if there is none.

    The best is the one with the highest mean on the rows that select, over the seeds that all finalists have. One that
    is level with it and at most ``margin`` behind is preferred if it needs less memory, or as much and saves less.
    ``margin`` is a fraction; of an error, it is that fraction of the best's.
    """
    if not finalists:
        raise ValueError("no finalist")
    seeds = set.intersection(*(set(one.runs) for one in finalists))
    best = max(finalists, key=lambda one: one.selection(seeds or one.runs))
    level = [one for one in finalists if _is_level(one, best, margin)]
    chosen = best
    for one in level:
        if costs_less(one, chosen):
            chosen = one
    others = {one.name: paired(chosen.by_seed, one.by_seed) for one in finalists if one is not chosen}
    return Recommendation(chosen, best, {name: found for name, found in others.items() if found is not None})


def costs_less(ours: Finalist, theirs: Finalist) -> bool:
    """Return whether ours needs less memory in training, or about as much and has less to store."""
    if same_memory(ours, theirs):
        return (ours.saved_bytes or 0) < (theirs.saved_bytes or 0)
    return (ours.memory_bytes or 0) < (theirs.memory_bytes or 0)


def same_memory(ours: Finalist, theirs: Finalist) -> bool:
    """Return whether both need about the same memory in training, or it is not known."""
    if not ours.memory_bytes or not theirs.memory_bytes:
        return True
    return abs(ours.memory_bytes / theirs.memory_bytes - 1) <= SAME_MEMORY


def verdict(difference: Difference, measure: Scale) -> str:
    """Say what a difference means: ``level``, ``better`` or ``worse``; ``not known`` with one seed."""
    if difference.low is None:
        return "not known, with one seed"
    if difference.within_noise:
        return "level"
    return "better" if measure.merit(difference.mean) > 0 else "worse"


def _is_level(one: Finalist, best: Finalist, margin: float) -> bool:
    """Return whether a finalist is level with the best, by the paired difference, and not far behind."""
    found = paired(one.by_seed, best.by_seed)
    if found is None or found.low is None or not found.within_noise:
        return False
    return found.mean <= margin * abs(best.score) if best.scale.lower_is_better else found.mean >= -margin
