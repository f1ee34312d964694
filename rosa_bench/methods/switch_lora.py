"""SwitchLoRA: LoRA whose single columns of A and rows of B are exchanged with candidates during training.

Source: Zhou et al., "SwitchLoRA: Switched Low-Rank Adaptation Can Learn Full-Rank Information", arXiv 2406.06564. Its B
(out x r) is our A. We take from the paper:

- Each weight has min(out, in) candidates for columns of A, and as many for rows of B, drawn as the factors are. They
  wait in the CPU's memory. A vector that leaves its factor takes the place of its candidate.
- The frozen weight absorbs the difference, so no exchange changes the function.
- Column k of A and row k of B are counterparts: the gradient of one depends on the other, not on itself. So an
  exchanged vector keeps its moments. Its counterpart's are cleared, and it does not train for ``idle_steps`` (5).
- At first each vector is exchanged once in ``resample_every`` (40 steps). The frequency decays exponentially, to a
  third after ``decay`` (0.1) of the run.
- Both factors start uniformly distributed, with the paper's standard deviations (``init=uniform``).

We differ in four points. The frozen weight starts as W - (alpha / r) A B, so fine-tuning starts from the model's own
function; the paper trains from scratch. All weights exchange the same column or row before the same steps, and columns
and rows take turns, half a rank apart. Adam's count of steps, which corrects its bias, is shared by the whole factor
and goes on. Weight decay acts on idle vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from rosa_bench.methods.base import Changed, RunLength, Slice
from rosa_bench.methods.lora import Lora
from rosa_bench.methods.resampled import refuse
from rosa_bench.system.seeds import generator
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from rosa_bench.layers.directions.exchange import Exchange
    from rosa_bench.layers.low_rank import LowRankLinear


class Turn(NamedTuple):
    """Which vector an exchange replaces: column ``place`` of factor ``a``, or that row of ``b``."""

    factor: str
    place: int


@dataclass(frozen=True, kw_only=True)
class SwitchLora(Lora):
    """LoRA with exchanges. The record's ``resamples`` counts exchanges of one vector of every weight."""

    narrow_base: ClassVar[bool] = False
    packable: ClassVar[bool] = False
    shardable: ClassVar[bool] = False

    decay: float = setting(
        "fraction of the run in which exchanges become a third as frequent; 0: they stay as frequent",
        at_least=0, at_most=1e9,
    )  # fmt: skip
    idle_steps: int = setting(
        "steps for which the counterpart of an exchanged vector does not train", at_least=0, at_most=10**9
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        senseless = {
            "method.resample_every=0 exchanges nothing; give a period, or use method=lora": not self.resample_every,
            "method.train=a keeps B as drawn, but SwitchLoRA exchanges its rows; use method.train=both":
                self.train == "a",
            "method.rewarm_steps is for whole draws, and SwitchLoRA replaces single vectors; use method.idle_steps":
                self.rewarm_steps,
        }  # fmt: skip
        refuse(senseless)

    @property
    def draws_per_period(self) -> int:
        return 2 * self.rank

    def elapsed(self, steps: int, length: RunLength) -> float:
        """Return the sum of the frequencies of the steps, as fractions of the first: ``3^(-step / (decay total))``."""
        if not self.decay:
            return steps
        ratio = 3 ** (-1 / (self.decay * length.total_steps))
        return ratio * (1 - ratio**steps) / (1 - ratio)

    def turn(self, number: int) -> Turn:
        """Return what draw ``number``, counted from 1, replaces."""
        pair, second = divmod(number - 1, 2)
        return Turn("b", (pair + self.rank // 2) % self.rank) if second else Turn("a", pair % self.rank)

    def insert(self, model: nn.Module) -> None:
        from rosa_bench.layers.directions.exchange import Exchange
        from rosa_bench.layers.low_rank import low_rank_layers

        super().insert(model)
        draws = generator(self.seed, "candidates")
        for layer in low_rank_layers(model):
            layer.exchange = Exchange(layer)
            if not layer.a.is_meta:
                layer.exchange.candidates = self._candidates(layer, draws)  # pyrefly: ignore[bad-argument-type, missing-attribute]

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

        from rosa_bench.layers.directions.exchange import COUNTERPART, DIM
        from rosa_bench.layers.low_rank import low_rank_layers

        draws, parts, chance = self.draws(step, length), [], self.generator(step)
        for factor, place in map(self.turn, draws):
            other = COUNTERPART[factor]
            for layer in low_rank_layers(model):
                candidate = int(torch.randint(min(layer.shape[-2:]), (), generator=chance))
                exchange_of(layer).swap(layer, factor, place=place, candidate=candidate, idle_steps=self.idle_steps)
                parts.append(Slice(getattr(layer, other), DIM[other], place))
        return Changed(clear=parts, draws=len(draws))

    def after_backward(self, model: nn.Module) -> None:
        from rosa_bench.layers.low_rank import low_rank_layers

        for layer in low_rank_layers(model):
            exchange_of(layer).hold(layer)

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """Like `Resampled.state`, with the candidates."""
        from rosa_bench.layers.adapter import adapters

        kept = super().state(model)
        for name, layer in adapters(model):
            for factor, vectors in exchange_of(layer).candidates.items():
                kept[f"{name}.exchange.candidates.{factor}"] = vectors
        return kept

    def _candidates(self, layer: LowRankLinear, draws: torch.Generator) -> dict[str, Tensor]:
        *stack, rows, columns = layer.shape
        count = min(rows, columns)
        shapes = {"a": (*stack, rows, count), "b": (*stack, count, columns)}
        return {
            name: self.draw(name, shape, layer.shape, generator=draws).to(layer.a.dtype)
            for name, shape in shapes.items()
        }


def exchange_of(layer: nn.Module) -> Exchange:
    """Return what was inserted to exchange the vectors of a layer."""
    return layer.exchange  # pyrefly: ignore[bad-return]
