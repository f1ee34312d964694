"""BitFit: only the biases train.

Source: Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models", arXiv 2106.10199.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rosa_bench.methods.base import Method
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class BitFit(Method):
    """Trains every bias of the body, including those of layer normalisation. The protocol says if the head trains."""

    packable: ClassVar[bool] = True
    shardable: ClassVar[bool] = True

    train_head: bool = setting("whether the task's head trains too")

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        head = self.head_parameters(model)
        in_head = {id(parameter) for parameter in head}
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and id(parameter) not in in_head:
                yield parameter
        if self.train_head:
            yield from head
