"""The learning rate over a run. Without torch, so that a configuration is checked against what there is."""

import math
from collections.abc import Callable

# What the learning rate is after the warm-up, as a fraction of the peak, by how much of the rest is left: 1 down to 0.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda left: left,
    "cosine": lambda left: (1 - math.cos(math.pi * left)) / 2,
    "constant": lambda _left: 1.0,
}


def lr_at(step: int, total: int, warmup_steps: int, schedule: str) -> float:
    """The learning rate of a step, as a fraction of the peak: up in a line over the warm-up, then as ``schedule`` says.

    A pure function of the step: nothing has to be rebuilt when an optimizer's state is cleared, or a run resumed.
    """
    if step < warmup_steps:
        return step / warmup_steps
    return SCHEDULES[schedule]((total - step) / max(1, total - warmup_steps))
