"""LoRA+: LoRA with a larger learning rate for the factor that starts at zero in LoRA's own code.

Source: Hayou et al., "LoRA+: Efficient Low Rank Adaptation of Large Models", arXiv 2402.12354. Its B (out x r) is our
``a``. We differ in that biases and the head train at the run's own learning rate, like LoRA's A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rosa_bench.methods.base import Groups
from rosa_bench.methods.lora import Lora
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class LoraPlus(Lora):
    """LoRA whose A (out x r) trains at ``ratio`` times the learning rate. The schedule scales both rates."""

    ratio: float = setting("learning rate of A (out x r) over that of everything else", above=0, at_most=1e9)

    def parameter_groups(self, model: nn.Module) -> Groups:
        from rosa_bench.layers.low_rank import low_rank_layers

        scaled = {id(layer.a) for layer in low_rank_layers(model)}
        [group] = super().parameter_groups(model)
        return [
            {"params": [parameter for parameter in group["params"] if id(parameter) not in scaled]},
            {"params": [parameter for parameter in group["params"] if id(parameter) in scaled], "lr_scale": self.ratio},
        ]
