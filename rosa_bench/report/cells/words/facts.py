"""What a record says about its task and data: what is scored, what is memorised, and which values are possible."""

import math
import statistics
from collections.abc import Sequence

from rosa_bench.records.record import RunRecord

# The least and the greatest value that is possible.
RECALL = (0.0, 1.0)
CHANGE = (-1.0, 1.0)  # of a recall
POSITIVE = (0.0, math.inf)


def fact(run: RunRecord, name: str) -> float | None:
    """Return a fact about a run's data that is a positive number; None if there is none."""
    value = run.data.facts.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None


def is_memorised(run: RunRecord) -> bool:
    """Whether the train rows are themselves the test: the record says how many bits they are."""
    return fact(run, "bits") is not None


def is_learned_at_once(run: RunRecord) -> bool:
    """Whether a run has memorised all of its data together, not part by part."""
    return is_memorised(run) and fact(run, "parts") is None


def is_text(run: RunRecord) -> bool:
    """Whether the task is to continue a text: the record says how many tokens of it were scored."""
    return fact(run, "tokens") is not None


def per_parameter(run: RunRecord) -> float | None:
    """Return the bits of the data per trained parameter; None if unknown."""
    bits, trained = fact(run, "bits"), run.parameters.trainable
    return bits / trained if bits and trained else None


def storable(run: RunRecord) -> tuple[float, float]:
    """Return the least and the most bits that can be stored of a run's data."""
    return 0.0, fact(run, "bits") or math.inf


def storable_per_parameter(run: RunRecord) -> tuple[float, float]:
    """Return the least and the most bits that can be stored per trained parameter."""
    return 0.0, per_parameter(run) or math.inf


def scored_on_test(run: RunRecord) -> bool:
    """Whether the task has prompts, whose outputs or references are scored on a test split."""
    return run.data.prompts is not None


def scores_references(run: RunRecord) -> bool:
    """Whether the score is the loss or perplexity of the test references; no output is needed for it."""
    return scored_on_test(run) and run.scores.lower_is_better


def best_of_rank(runs: Sequence[RunRecord]) -> float | None:
    """Return the mean dev error of the best update of the runs' rank in closed form; None unless all recorded it.

    ``runs`` differ only in the seed. Methods without a rank may reach the best update of any rank.
    """
    rank = runs[0].settings.method.rank
    found: list[float | None] = []
    for run in runs:
        for errors in run.data.best_of_rank.validation if run.data.best_of_rank else [[]]:
            place = len(errors) - 1 if rank is None else rank
            found.append(errors[place] if 0 <= place < len(errors) else None)
    known = [error for error in found if error is not None]
    return statistics.fmean(known) if known and len(known) == len(found) else None
