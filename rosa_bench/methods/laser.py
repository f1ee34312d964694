"""LASER: nothing trains. One weight is replaced by an approximation of low rank, if that helps on the selection rows.

Every target is tried at every rank, alone, and the model with the best score is selected, as an epoch would be. The
first and the last candidate are the unchanged model: it wins a tie, and the record's last score is its own. The model
stays plain at any time. One weight's original is kept beside it.

Source: Sharma, Ash and Misra, "The Truth is in There: Improving Reasoning in Language Models with Layer-Selective Rank
Reduction", arXiv 2312.13558. The approximation is that of the exact SVD, where the authors' code has a randomised one.
We differ in that reductions of several weights are not composed. The method is for models that can already do the task.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rosa_bench.methods.adapted import TargetedMethod
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from torch import nn

    from rosa_bench.layers.weights.reduced import Reduced, Reduction

UNCHANGED = "unchanged model"


@dataclass(frozen=True, kw_only=True)
class Laser(TargetedMethod):
    """Reduces the rank of one target, chosen among all targets and the fractions ``kept`` of their largest rank."""

    kept: list[float] = setting("fractions of the largest rank to try", above=0, below=1)

    trains: ClassVar[bool] = False

    def check_shapes(self, model: nn.Module) -> None:
        if not self.reductions(model):
            raise UserError(
                f"method={self.name} finds no weight whose rank it could lower; choose layers with method.targets="
            )

    def insert(self, model: nn.Module) -> None:
        from rosa_bench.layers.structure.surgery import untie
        from rosa_bench.layers.weights.reduced import NAME, Reduced

        for name in self.target_names(model):
            untie(model, name)
        model.add_module(NAME, Reduced(next(model.parameters()).device))

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        return ()

    def watched_names(self, model: nn.Module, attention: str) -> list[str]:
        """Return none: the last model that a run makes is the unchanged one, which has no update to analyse."""
        return []

    def reductions(self, model: nn.Module) -> list[Reduction]:
        """Return what is tried: for each target, ranks from large to small, each once."""
        from rosa_bench.layers.structure.linear import weight_of
        from rosa_bench.layers.weights.reduced import Reduction

        found = []
        for name in self.target_names(model):
            full = min(weight_of(model.get_submodule(name)).shape[-2:])  # pyrefly: ignore[bad-argument-type]
            ranks = {max(1, int(fraction * full + 1e-9)) for fraction in self.kept}
            found += [Reduction(name, rank) for rank in sorted(ranks, reverse=True) if rank < full]
        return found

    def candidates(self, model: nn.Module) -> list[str]:
        tried = [f"{name} at rank {rank}" for name, rank in self.reductions(model)]
        return [UNCHANGED, *tried, UNCHANGED]

    def before_epoch(self, model: nn.Module, number: int) -> None:
        reduced = self._reduced(model)
        reduced.choice.fill_(number)
        reduced.apply_to(model, [None, *self.reductions(model), None][number])

    def merge(self, model: nn.Module) -> bool:
        """Make the choice that the model's state holds, and remove what remembers it."""
        from rosa_bench.layers.weights.reduced import NAME

        self.before_epoch(model, int(self._reduced(model).choice))
        delattr(model, NAME)
        return True

    def _reduced(self, model: nn.Module) -> Reduced:
        from rosa_bench.layers.weights.reduced import NAME

        return model.get_submodule(NAME)  # pyrefly: ignore[bad-return]
