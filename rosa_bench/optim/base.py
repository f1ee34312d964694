"""What every optimizer declares, beside its own settings: weight decay, schedule, warm-up and clipping."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rosa_bench.optim.schedule import SCHEDULES
from rosa_bench.system.setting import Checked, setting

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from torch import nn

ParameterGroup = dict[str, Any]  # torch's: ``params``, and what differs from the defaults


@dataclass(frozen=True, kw_only=True)
class Optimizer(Checked, ABC):
    """An optimizer and the schedule of its learning rate, composed from ``conf/optimizer/<name>.yaml``."""

    section: ClassVar[str] = "optimizer"

    name: str = setting("name of the optimizer", before="adamw")
    weight_decay: float = setting("decoupled weight decay, of everything that trains", at_least=0)
    warmup_fraction: float = setting("warm-up as a fraction of all steps", at_least=0, at_most=1)
    warmup_steps: int | None = setting("warm-up in steps; null: warmup_fraction counts", at_least=0)
    schedule: str = setting("learning rate after the warm-up", choices=tuple(SCHEDULES), before="linear")
    clip_norm: float | None = setting("largest norm of the gradient; null: no clipping", above=0)

    def warmup(self, total_steps: int) -> int:
        """Return how many of ``total_steps`` warm up."""
        return math.ceil(self.warmup_fraction * total_steps) if self.warmup_steps is None else self.warmup_steps

    @abstractmethod
    def make(
        self, groups: Iterable[nn.Parameter] | Iterable[ParameterGroup], *, lr: float, device: torch.device
    ) -> torch.optim.Optimizer:
        """Return the optimizer of ``groups``. On a GPU its state must be capturable in CUDA graphs."""
