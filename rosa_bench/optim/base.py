"""Settings that all optimizers share: weight decay, schedule, warm-up and clipping."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

from rosa_bench.optim.schedule import SCHEDULES
from rosa_bench.system.setting import Checked, setting

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from torch import nn

ParameterGroup = dict[str, Any]  # in torch's format: ``params``, and settings that differ from the defaults


@dataclass(frozen=True, kw_only=True)
class Optimizer(Checked, ABC):
    """An optimizer and the schedule of its learning rate, composed from ``conf/optimizer/<name>.yaml``."""

    section: ClassVar[str] = "optimizer"

    name: str = setting("name of the optimizer", before="adamw")
    weight_decay: float = setting("decoupled weight decay of all trained parameters", at_least=0, at_most=1e9)
    warmup_fraction: float = setting("warm-up as a fraction of all steps", at_least=0, at_most=1)
    warmup_steps: int | None = setting("warm-up in steps; null: use warmup_fraction", at_least=0, at_most=10**9)
    schedule: str = setting("learning rate after the warm-up", choices=tuple(SCHEDULES), before="linear")
    clip_norm: float | None = setting("largest gradient norm; null: no clipping", above=0, at_most=1e38)

    def warmup(self, total_steps: int) -> int:
        """Return the number of warm-up steps in a run of ``total_steps``. Part of a step counts as one."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return math.ceil(Fraction(str(self.warmup_fraction)) * total_steps)  # 0.07 x 100 is 7.000000000000001

    @abstractmethod
    def make(
        self, groups: Iterable[nn.Parameter] | Iterable[ParameterGroup], *, lr: float, device: torch.device
    ) -> torch.optim.Optimizer:
        """Return an optimizer for ``groups``. On a GPU, CUDA graphs must be able to capture its step."""
