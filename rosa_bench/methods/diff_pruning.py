"""Diff pruning: a difference to every weight trains behind gates that a penalty closes, and then few entries are kept.

It takes more memory than full fine-tuning. With AdamW in float32, weights, gradients and moments are 36 bytes for each
weight of the body, against 16, and a step's peak was 57 against 17 on a CPU. Fixing the gates frees their gradients and
moments. The result is sparse: it differs from the original in ``density`` of the body's weights.

Source: Guo et al., "Parameter-Efficient Transfer Learning with Diff Pruning", arXiv 2012.07463, sections 2 and 3. As in
the authors' code, the largest differences are kept at one point, the gates are then fixed, and what was kept trains on.
We differ in that this is one run with one learning rate schedule, and in that the penalty is the paper's expected L0
norm, where the code adds the probabilities of both kinds of gates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rosa_bench.methods.base import Changed, Groups, RunLength
from rosa_bench.methods.sparse import SparseMethod
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rosa_bench.layers.weights.gated import GatedDifference


@dataclass(frozen=True, kw_only=True)
class DiffPruning(SparseMethod):
    """Trains differences with their gates for ``prune_at`` of the run, and then only the largest differences."""

    l0_weight: float = setting("weight of the penalty, for one entry expected to change", at_least=0, at_most=1e6)
    gate_start: float = setting("what the gates start from; a large value opens them", at_least=-100, at_most=100)
    gate_lr_ratio: float = setting("learning rate of the gates over that of everything else", above=0, at_most=1e9)
    structured: bool = setting("whether each weight matrix and each bias has a gate of its own besides its entries'")
    prune_at: float = setting("fraction of the run after which the largest differences are kept", above=0, below=1)

    def insert(self, model: nn.Module) -> None:
        from rosa_bench.layers.weights.gated import GatedDifference
        from rosa_bench.layers.weights.parametrised import parametrise

        made = {
            weight: GatedDifference(weight, start=self.gate_start, structured=self.structured)
            for weight in self.body(model)
        }
        parametrise(model, made)

    def differences(self, model: nn.Module) -> list[GatedDifference]:
        """Return the differences, in the model's order."""
        from rosa_bench.layers.weights.parametrised import formed

        return [form for _, form in formed(model)]  # pyrefly: ignore[bad-return]

    def parameter_groups(self, model: nn.Module) -> Groups:
        """Return the gates apart: they have a learning rate of their own, and do not decay."""
        gates = {id(gate) for form in self.differences(model) for gate in (form.a, form.group) if gate is not None}
        [group] = super().parameter_groups(model)
        return [
            {"params": [parameter for parameter in group["params"] if id(parameter) not in gates]},
            {
                "params": [parameter for parameter in group["params"] if id(parameter) in gates],
                "lr_scale": self.gate_lr_ratio,
                "weight_decay": 0.0,
            },
        ]

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Return ``l0_weight`` times the expected number of entries that differ from the original."""
        import torch

        expected = [form.expected_nonzeros() for form in self.differences(model) if not form.fixed]
        return self.l0_weight * torch.stack(expected).sum() if expected and self.l0_weight else None

    def prune_step(self, length: RunLength) -> int:
        """Return the number of steps before the largest differences are chosen."""
        return min(max(1, round(self.prune_at * length.total_steps)), length.total_steps - 1)

    def is_due(self, step: int, length: RunLength) -> bool:
        return step == self.prune_step(length)

    def is_selectable(self, step: int, length: RunLength) -> bool:
        return step > self.prune_step(length)

    def before_step(
        self,
        model: nn.Module,
        step: int,
        *,
        length: RunLength,
        headroom_bytes: int | None = None,
        loss: Callable[[], Tensor] | None = None,
    ) -> Changed:
        """Keep the largest differences and fix the gates. Raises ValueError if a difference contains NaN or Inf."""
        import torch

        from rosa_bench.layers.weights.entries import largest_entries

        forms = self.differences(model)
        with torch.no_grad():
            sizes = [form.expected().abs() for form in forms]
        if not all(size.isfinite().all() for size in sizes):
            raise ValueError("a difference contains NaN or Inf, so the largest are not known; lower the learning rate")
        kept = largest_entries(sizes, self.count(sum(size.numel() for size in sizes)))
        for form, entries in zip(forms, kept, strict=True):
            form.fix(entries)
        return Changed(reset=[form.difference for form in forms], retrain=True, recapture=True, draws=0)
