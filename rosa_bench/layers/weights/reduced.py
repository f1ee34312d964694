"""Reduce the rank of one of a model's weights at a time, in place, so that captured CUDA graphs stay valid."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rosa_bench.layers.structure.linear import weight_of
from rosa_bench.lowrank import truncate

NAME = "rank_reduction"  # of the model's part that remembers which weight is reduced


class Reduction(NamedTuple):
    """A linear layer's name, and the rank that its weight is reduced to."""

    name: str
    rank: int


class Reduced(nn.Module):
    """Part of a model that has one reduced weight, or none.

    choice  the number of the choice that made it, so that a checkpoint holds it: a buffer
    name    the layer with the reduced weight, and its weight ``before``, (out, in)
    """

    choice: Tensor

    def __init__(self, device: torch.device):
        super().__init__()
        self.register_buffer("choice", torch.zeros((), dtype=torch.long, device=device))
        self.name: str | None = None
        self.before: Tensor | None = None

    @torch.no_grad()
    def apply_to(self, model: nn.Module, reduction: Reduction | None) -> None:
        """Give the weight that is reduced its own values back, and make this reduction instead."""
        if self.name is not None and self.before is not None:
            weight_of(model.get_submodule(self.name)).copy_(self.before)  # pyrefly: ignore[bad-argument-type]
        self.name = self.before = None
        if reduction is not None:
            weight = weight_of(model.get_submodule(reduction.name))  # pyrefly: ignore[bad-argument-type]
            self.name, self.before = reduction.name, weight.clone()
            weight.copy_(truncate(weight, reduction.rank))
