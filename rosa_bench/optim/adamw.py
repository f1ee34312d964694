"""AdamW.

Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101; PyTorch's fused kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rosa_bench.optim.base import Optimizer, ParameterGroup
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """AdamW. Its defaults depend on the recipe."""

    betas: tuple[float, float] = setting("decay rates of the two moments")
    eps: float = setting("added to the square root of the second moment", at_least=0, at_most=1e38)
    default_betas: dict[str, Any] = setting("betas by recipe", identity=False, published=False)
    default_eps: dict[str, float] = setting("eps by recipe", identity=False, published=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optimizer.betas={list(self.betas)} must be two numbers, each at least 0 and below 1")

    def make(
        self, groups: Iterable[nn.Parameter] | Iterable[ParameterGroup], *, lr: float, device: torch.device
    ) -> torch.optim.Optimizer:
        import torch

        on_gpu = device.type == "cuda"
        return torch.optim.AdamW(
            groups,
            torch.tensor(lr, device=device) if on_gpu else lr,  # a captured step reads the tensor at every replay
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=device.type != "meta",  # shapes alone have no fused kernel
            capturable=on_gpu,
        )
