"""Full fine-tuning: every parameter trains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rosa_bench.methods.base import Method

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class FullFineTuning(Method):
    """Trains every parameter of the model, including its head, under either protocol."""

    packable: ClassVar[bool] = True
    offloadable: ClassVar[bool] = True
    shardable: ClassVar[bool] = True

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        return model.parameters()
