"""LoRA: a trained low-rank matrix added to each frozen weight.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 4.1, without dropout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rosa_bench.methods.adapted import LowRankMethod
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    import torch

    from rosa_bench.layers.low_rank import LowRankLinear


@dataclass(frozen=True, kw_only=True)
class Lora(LowRankMethod):
    """``W + (alpha / r) A B``, starting from A B = 0.

    init ``kaiming``  B ~ U(-1/sqrt(in), 1/sqrt(in)), A = 0: as in LoRA's own code and HF PEFT
         ``normal``   B = 0, A ~ N(0, 1): as in the ROSA authors' code; its norm is far larger, so learning rates are
                      not comparable with ``kaiming``
    """

    alpha: float = setting("scale of A B, times the rank", above=0, at_most=1e9)
    init: str = setting("what the factors start from", choices=("kaiming", "normal"))
    default_init: dict[str, str] = setting("init by protocol", default_factory=dict, identity=False, published=False)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def initialise(self, layers: list[LowRankLinear], generator: torch.Generator) -> None:
        import torch

        for layer in layers:
            # Draw on the CPU, so that a seed gives the same factors on every device.
            factor = layer.b if self.init == "kaiming" else layer.a
            drawn = torch.empty(factor.shape)
            if self.init == "kaiming":
                bound = layer.shape[-1] ** -0.5
                drawn.uniform_(-bound, bound, generator=generator)
            else:
                drawn.normal_(generator=generator)
            factor.data.copy_(drawn)
