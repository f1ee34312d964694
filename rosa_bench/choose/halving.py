"""Successive halving: which runs continue. Pure functions without time, runs or records.

All arms train for a short while, the best third trains three times as long, and so on. Source: Jamieson and Talwalkar
(arXiv 1502.07943), as in Hyperband (arXiv 1603.06560). We differ in the last step: finalists are of different kinds.
"""

import math
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, TypeVar

ETA = 3
FINALISTS = 2

Arm = TypeVar("Arm", bound=Hashable)


class Score(NamedTuple):
    """How good an arm is: by its score, where higher is better, and between equal scores by its loss.

    Early on, all runs may give one answer, and their accuracies are then equal. ``collapsed`` says that this one does.
    """

    value: float
    loss: float = 0.0
    collapsed: bool = False

    @property
    def merit(self) -> tuple[float, float]:
        """What is compared: higher is better."""
        return self.value, -self.loss

    @property
    def is_known(self) -> bool:
        """Whether there is a score: a run that failed has none."""
        return not math.isnan(self.value) and not math.isnan(self.loss)


def rungs(epochs: int, eta: int = ETA) -> list[int]:
    """Return after how many epochs runs are compared; the last is the full length.

    >>> rungs(10), rungs(3), rungs(2)
    ([1, 3, 10], [1, 3], [2])
    """
    lengths = [epochs]
    while (shorter := lengths[0] // eta) >= 1:
        lengths.insert(0, shorter)
    return lengths


def ranked(scores: Mapping[Arm, Score]) -> list[Arm]:
    """Return the arms from best to worst. Ties keep the order of ``scores``; arms without a score are left out."""
    known = [arm for arm, score in scores.items() if score.is_known]
    return sorted(known, key=lambda arm: scores[arm].merit, reverse=True)  # stable: reversing keeps the order of ties


def promoted(scores: Mapping[Arm, Score], eta: int = ETA) -> list[Arm]:
    """Return the best ``1 / eta`` of the arms, at least one, from best to worst.

    >>> values = {"a": 0.5, "b": 0.9, "c": 0.7, "d": float("nan"), "e": 0.6, "f": 0.2}
    >>> promoted({arm: Score(value) for arm, value in values.items()})
    ['b', 'c']
    """
    return ranked(scores)[: max(1, len(scores) // eta)]


def finalists(scores: Mapping[Arm, Score], kind: Callable[[Arm], Hashable], count: int = FINALISTS) -> list[Arm]:
    """Return the best arm of each of the ``count`` best kinds, from best to worst.

    Two neighbouring learning rates of one method would tell little about which method to use.
    """
    best: dict[Hashable, Arm] = {}
    for arm in ranked(scores):
        best.setdefault(kind(arm), arm)
    return list(best.values())[:count]
