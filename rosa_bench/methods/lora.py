"""LoRA: a trained low-rank matrix added to each frozen weight.

With ``train=a`` it is LoRA-FA, whose B (r x in) stays as drawn, so that a step keeps x B^T instead of x. A's gradient
is used as it is; HF PEFT's optimizer for LoRA-FA multiplies it by ``(B B^T)^-1 / scale^2``. With
``resample_every`` above 0 it is ReLoRA: now and then the product is merged, and the factors are drawn again.

Sources: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 4.1 (no dropout).
Zhang et al., "LoRA-FA: Memory-efficient Low-rank Adaptation for Large Language Models Fine-tuning", arXiv 2308.03303.
Lialin et al., "ReLoRA: High-Rank Training Through Low-Rank Updates", arXiv 2307.05695, Algorithm 1. We differ in that
the factors' optimizer state is cleared, not pruned by magnitude, in that there is no first phase of full training, and
in that embeddings and norms stay frozen, which train in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rosa_bench.methods.base import Changed, RunLength
from rosa_bench.methods.resampled import Resampled
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import Tensor, nn

    from rosa_bench.layers.low_rank import LowRankLinear


DRAWN = {"kaiming": "b", "normal": "a", "uniform": "ab"}  # the factors that do not start at zero


@dataclass(frozen=True, kw_only=True)
class Lora(Resampled):
    """``W + (alpha / r) A B``, starting from A B = 0, or with ``init=uniform`` from a residual W - (alpha / r) A B.

    init ``kaiming``  B ~ U(-1/sqrt(in), 1/sqrt(in)), A = 0: as in LoRA's own code and HF PEFT
         ``normal``   B = 0, A ~ N(0, 1): as in the ROSA authors' code; its norm is far larger, so learning rates are
                      not comparable with ``kaiming``
         ``uniform``  both uniform, as in SwitchLoRA (`rosa_bench.methods.switch_lora`): the entries of (alpha / r) A B
                      have variance 1 / in, and A's standard deviation is (in / out)^(1/4) times that of B
    """

    narrow_base: ClassVar[bool] = True
    packable: ClassVar[bool] = True
    shardable: ClassVar[bool] = True

    alpha: float = setting("scale of A B, times the rank", above=0, at_most=1e9)
    init: str = setting("what the factors start from", choices=tuple(DRAWN))
    default_init: dict[str, str] = setting("init by protocol", default_factory=dict, identity=False, published=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train == "a" and self.init == "normal":
            raise UserError("method.train=a with method.init=normal keeps B = 0, so nothing trains; use init=kaiming")

    @property
    def unshardable(self) -> str | None:
        return (
            "method.resample_every is above 0, and only rosa draws new factors there" if self.resample_every else None
        )

    @property
    def rewrites(self) -> bool:
        return bool(self.resample_every) or DRAWN[self.init] == "ab"

    @property
    def later(self) -> tuple[str, ...]:
        """Like `Resampled.later`. A residual that lacks a drawn product, and is not stored, is known by its seed."""
        drawn = DRAWN[self.init] == "ab" and not self.resample_every
        return tuple(key for key in super().later if not (drawn and key == "seed"))

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def initialise(self, layers: list[LowRankLinear], generator: torch.Generator) -> None:
        import torch

        with torch.no_grad():
            for layer in layers:
                if DRAWN[self.init] == "ab":
                    self._redraw(layer, generator)
                else:
                    layer.a.copy_(self._drawn_as("a", layer, generator))
                    layer.b.copy_(self._drawn_as("b", layer, generator))

    def draw(self, name: str, shape: Sequence[int], weight: torch.Size, *, generator: torch.Generator) -> Tensor:
        """Draw a tensor of this shape as factor ``a`` or ``b`` of such a weight starts, without regard to zeros."""
        import torch

        drawn = torch.empty(*shape)  # on the CPU, so that a seed gives the same factors on every device
        if self.init == "normal":
            return drawn.normal_(generator=generator)
        *_, rows, columns = weight
        bound = columns**-0.5
        if self.init == "uniform":
            both = (3 / (self.scale * (self.rank * columns) ** 0.5)) ** 0.5  # of A and B, if W is square
            bound = both * (columns / rows) ** (0.125 if name == "a" else -0.125)
        return drawn.uniform_(-bound, bound, generator=generator)

    def before_step(
        self,
        model: nn.Module,
        step: int,
        *,
        length: RunLength,
        headroom_bytes: int | None = None,
        loss: Callable[[], Tensor] | None = None,
    ) -> Changed:
        import torch

        from rosa_bench.layers.low_rank import low_rank_layers

        layers, generator = low_rank_layers(model), self.generator(step)
        with torch.no_grad():
            for layer in layers:
                self._redraw(layer, generator)
        return Changed(reset=[factor for layer in layers for factor in layer.factors])

    def _redraw(self, layer: LowRankLinear, generator: torch.Generator) -> None:
        """Merge the factors, and draw new ones. If both are drawn, their product is taken from the weight."""
        from rosa_bench.lowrank import Factors, merge

        a, b = self._drawn_as("a", layer, generator), self._drawn_as("b", layer, generator)
        taken, weight = DRAWN[self.init] == "ab", layer.merged_weight()
        layer.redraw(Factors(merge(weight, a, b, -layer.scale) if taken else weight, a, b), taken=taken)

    def _drawn_as(self, name: str, layer: LowRankLinear, generator: torch.Generator) -> Tensor:
        """Return what a factor starts from."""
        factor: Tensor = getattr(layer, name)
        if name not in DRAWN[self.init]:
            return factor.new_zeros(factor.shape)
        return self.draw(name, factor.shape, layer.shape, generator=generator).to(factor)
