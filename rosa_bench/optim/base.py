"""The settings of the optimizer."""

import math
from dataclasses import dataclass

from rosa_bench.optim.schedule import SCHEDULES
from rosa_bench.system.errors import UserError, at_least, one_of


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW and its schedule: warm-up in steps, or as a fraction of all steps where ``warmup_steps`` is none."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    warmup_fraction: float
    warmup_steps: int | None
    schedule: str
    clip_norm: float | None

    def __post_init__(self) -> None:
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optimizer.betas={list(self.betas)} must be two numbers in 0..1, below 1")
        at_least("optimizer.eps", self.eps, 0)
        at_least("optimizer.weight_decay", self.weight_decay, 0)
        at_least("optimizer.warmup_fraction", self.warmup_fraction, 0)
        at_least("optimizer.warmup_steps", self.warmup_steps, 0)
        one_of("optimizer.schedule", self.schedule, SCHEDULES)
        at_least("optimizer.clip_norm", self.clip_norm, 0, above=True)
        if self.warmup_fraction > 1:
            raise UserError(f"optimizer.warmup_fraction={self.warmup_fraction} is out of range; it must be at most 1")

    def warmup(self, total_steps: int) -> int:
        """How many of ``total_steps`` warm up."""
        return math.ceil(self.warmup_fraction * total_steps) if self.warmup_steps is None else self.warmup_steps
