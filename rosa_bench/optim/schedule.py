"""Learning rate schedules. Does not import torch, so that settings can be checked quickly."""

import math
from collections.abc import Callable

# Learning rate after the warm-up as a fraction of the peak, given the fraction of steps left: from 1 down to 0.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda left: left,
    "cosine": lambda left: (1 - math.cos(math.pi * left)) / 2,
    "constant": lambda _left: 1.0,
}


def lr_at(step: int, total: int, warmup_steps: int, schedule: str) -> float:
    """Return a step's learning rate as a fraction of the peak: a linear warm-up, then the ``schedule``.

    A pure function of the step, so nothing has to be rebuilt when optimizer state is cleared or a run resumes.
    """
    if step < warmup_steps:
        return step / warmup_steps
    return SCHEDULES[schedule]((total - step) / max(1, total - warmup_steps))
