"""Rank the learning rates of one variant and task by the rows that select, never by the reported ones unless equal.

The rows that chose the epoch choose the learning rate as well (``scores.selected_on``):

held_out          rows held out of train; the reported score is never looked at
validation_split  a validation split beside the reported test split; the reported score is never looked at
validation        dev itself, by the dev score of the selected epoch. This is the paper's way: the maximum over
                  learning rates and epochs
train             the train rows themselves, of a task that is to memorise them

Over seeds, the median ranks the rates, because then one collapsed seed decides nothing.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Set

from rosa_bench.records.record import RunRecord

# The criterion for a learning rate, keyed by ``scores.selected_on``.
CRITERIA: dict[str, Callable[[RunRecord], float]] = {
    "held_out": lambda run: run.selection_score,
    "validation_split": lambda run: run.selection_score,
    "validation": lambda run: run.score,
    "train": lambda run: run.selection_score,
}
MEDIAN, MEAN, SEED = "median", "mean", "seed"
CENTRES: dict[str, Callable[[Iterable[float]], float]] = {MEDIAN: statistics.median, MEAN: statistics.fmean}
RULES = (MEDIAN, MEAN, SEED)  # by the median or mean over seeds, or each seed for itself
RULE = MEDIAN  # of the tables
Seeds = Mapping[int, RunRecord]  # seed -> run


def best_lr(compared: Mapping[float, Seeds], shared: Set[int], rule: str) -> float:
    """Return the best of the ``compared`` learning rates on the ``shared`` seeds, or on all if empty; ties: smaller."""

    def criterion(lr: float) -> float:
        return _criterion((run for seed, run in compared[lr].items() if seed in shared or not shared), rule)

    return max(compared, key=lambda lr: (criterion(lr), -lr))


def best_by_seed(compared: Mapping[float, Seeds], shared: Set[int]) -> dict[int, RunRecord]:
    """Return each seed's run at the learning rate that is best for this seed alone; ties go to the smaller.

    A user with one seed would do the same. Only ``shared`` seeds are used, as others had fewer rates to choose from; if
    there are none, each seed chooses among the rates that it has.
    """
    seeds = shared or set().union(*compared.values())
    tried = {seed: [runs[seed] for runs in compared.values() if seed in runs] for seed in sorted(seeds)}
    return {seed: max(runs, key=lambda run: (_merit(run), -run.settings.lr)) for seed, runs in tried.items()}


def runner_up(by_lr: Mapping[float, Seeds], chosen: Seeds, left: Set[float], rule: str) -> float | None:
    """Return the learning rate that may turn out better than the ``chosen`` runs, or None.

    ``left`` are the rates that were not compared. One of them counts if it is ahead on the seeds that both have, or if
    some chosen run collapsed and it is ahead over all its seeds. A rate that was compared counts if it is ahead over
    all its seeds, unless each seed chose for itself. If there are several, the one with the largest lead is returned.
    """
    lrs = {run.settings.lr for run in chosen.values()}
    # The chosen one may have collapsed on seeds that those left were not run with.
    has_collapsed = any(run.has_collapsed for run in chosen.values())
    leads: dict[float, float] = {}
    for lr in left if rule == SEED else by_lr.keys() - lrs:
        pairings = {True, not has_collapsed} if lr in left else {False}
        leads[lr] = max(_lead(by_lr[lr], chosen, rule, paired=paired) for paired in pairings)
    return max((lr for lr in leads if leads[lr] > 0), key=lambda lr: (leads[lr], -lr), default=None)


def _lead(ours: Seeds, theirs: Seeds, rule: str, *, paired: bool) -> float:
    """Return the lead of ``ours`` by the criterion. If ``paired``, on shared seeds alone; 0 if there are none."""
    if paired:
        both = ours.keys() & theirs.keys()
        ours, theirs = ({seed: runs[seed] for seed in both} for runs in (ours, theirs))
    lead = _criterion(ours.values(), rule) - _criterion(theirs.values(), rule) if ours else 0.0
    return 0.0 if math.isnan(lead) else lead


def _criterion(runs: Iterable[RunRecord], rule: str) -> float:
    """Return the score over seeds that ranks learning rates; higher is better. A rate with an undefined score loses."""
    merits = [_merit(run) for run in runs]
    return CENTRES.get(rule, statistics.median)(merits) if all(map(math.isfinite, merits)) else -math.inf


def _merit(run: RunRecord) -> float:
    """Return the criterion of one run; higher is better. An undefined score always loses."""
    score = CRITERIA[run.scores.selected_on](run) * (-1 if run.scores.selected_by.lower_is_better else 1)
    return score if math.isfinite(score) else -math.inf
