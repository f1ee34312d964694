"""(IA)^3: a trained vector scales the input or the output of each adapted layer.

Source: Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
arXiv 2205.05638. Like the ROSA authors, we differ from it: each attention matrix has a vector, the feed-forward part
has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rosa_bench.methods.adapted import AdapterMethod
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class IA3(AdapterMethod):
    """One scaling vector per layer, on its ``input`` (the ROSA authors' GLUE code) or ``output`` (their E2E code)."""

    packable: ClassVar[bool] = True

    side: str = setting("what is scaled: the input or the output of each layer", choices=("input", "output"))
    default_side: dict[str, str] = setting("side by recipe", default_factory=dict, identity=False, published=False)

    def insert(self, model: nn.Module) -> None:
        from rosa_bench.layers.scaled import ScaledLinear

        self.replace(model, lambda plain: ScaledLinear(plain, side=self.side))
