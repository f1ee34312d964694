"""A baseline in which only the head trains. It shows how much the frozen body already knows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rosa_bench.methods.base import Method
from rosa_bench.system.errors import UserError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class HeadOnly(Method):
    """Trains only the task's head, under either protocol."""

    narrow_base: ClassVar[bool] = True
    packable: ClassVar[bool] = True
    shardable: ClassVar[bool] = True

    def check_shapes(self, model: nn.Module) -> None:
        self.trainable(model)

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        parameters = self.head_parameters(model)
        if not parameters:
            raise UserError(
                f"method=head_only finds no head: model.head={self.head} matches no module with parameters; choose "
                "another method, or an encoder"
            )
        return parameters
