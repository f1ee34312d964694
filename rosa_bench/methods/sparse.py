"""Base class for methods that change a small fraction of the body's weights, wherever these are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rosa_bench.methods.base import Method
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class SparseMethod(Method):
    """Forms weights of the body from frozen ones and from what trains (`rosa_bench.layers.weights.parametrised`).

    The networks of a stack (`task=synthetic`) would count as one model. They would share out the entries that change,
    and in diff pruning a layer's gate, and not train as each does alone. So a stack is refused.
    """

    density: float = setting("fraction of the body's weights that change in the end", above=0, at_most=1)
    train_head: bool = setting("whether the task's head trains too")

    def check_shapes(self, model: nn.Module) -> None:
        from rosa_bench.layers.structure.linear import StackedLinear

        if any(isinstance(module, StackedLinear) and len(module.weight) > 1 for module in model.modules()):
            raise UserError(f"method={self.name} would make replicates depend on each other; use task.replicates=1")

    def body(self, model: nn.Module) -> list[nn.Parameter]:
        """Return all parameters outside the head: weights, biases, embeddings. Raises `UserError` if there are none."""
        head = {id(parameter) for parameter in self.head_parameters(model)}
        if found := [parameter for parameter in model.parameters() if id(parameter) not in head]:
            return found
        raise UserError(f"method={self.name} changes weights outside the head, and this model has none; use method=ft")

    def count(self, total: int) -> int:
        """Return how many of the body's ``total`` weights change."""
        return max(1, round(self.density * total))

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        from rosa_bench.layers.weights.parametrised import formed

        for _, form in formed(model):
            yield from form.parameters()
        if self.train_head:
            yield from self.head_parameters(model)

    def merge(self, model: nn.Module) -> bool:
        from rosa_bench.layers.weights.parametrised import restore_parameters

        restore_parameters(model)
        return True
