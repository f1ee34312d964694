"""Block-wise training: only a few transformer blocks train at a time, and others are chosen every n steps.

Only parameters that train have gradients and optimizer state. A block that starts to train starts with empty moments,
and what trains all the time keeps its own.

LISA is ``order=random rest=all``: a few random blocks train, and the embeddings and head always do. BAdam is
``blocks=1`` with ``order=ascending``, ``descending`` or ``shuffled``: block coordinate descent, with steps of Adam on
one block at a time. Both have a yaml.

Sources: Pan et al., "LISA: Layerwise Importance Sampling for Memory-Efficient Large Language Model Fine-Tuning",
arXiv 2403.17919. Luo et al., "BAdam: A Memory Efficient Full Parameter Optimization Method for Large Language Models",
arXiv 2404.02827. Unlike both, we let the learning rate follow the run's schedule, whichever blocks train. LISA's code
keeps the moments of a block until it trains again; here they start anew, as BAdam's do. BAdam can also take the
embeddings and the output layer as blocks; here they are frozen, or train all the time (``rest``). Its authors advise
``every = rows / (batch size x blocks)``, kept between 50 and 100 steps. In a run of fewer than ``every`` steps for each
block, some never train. A block that is chosen twice in a row keeps its moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rosa_bench.methods.base import Changed, Method, RunLength
from rosa_bench.system.errors import UserError
from rosa_bench.system.seeds import generator
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from torch import Tensor, nn

ORDERS = ("random", "ascending", "descending", "shuffled")
REST = ("all", "head", "none")


@dataclass(frozen=True, kw_only=True)
class Blockwise(Method):
    """Fully trains ``blocks`` of the model's blocks at a time, and chooses again every ``every`` steps."""

    blocks: int = setting("transformer blocks that train at a time", at_least=1, at_most=10**4)
    every: int = setting("steps from one choice of blocks to the next", at_least=1, at_most=10**9)
    order: str = setting("which blocks come next; shuffled: each once, then in another order", choices=ORDERS)
    rest: str = setting("what else trains, all the time: all outside the blocks, head or none", choices=REST)

    offloadable: ClassVar[bool] = True
    takes_turns: ClassVar[bool] = True

    def check_shapes(self, model: nn.Module) -> None:
        from rosa_bench.layers.structure.blocks import transformer_blocks

        if self.blocks > (count := len(transformer_blocks(model))):
            raise UserError(f"method.blocks={self.blocks} is more than the model's {count}; use at most {count}")

    def attach(self, model: nn.Module, calibration: Iterable[Mapping[str, Tensor]] | None = None) -> nn.Module:
        model = super().attach(model, calibration)
        self._choose(model, 0)
        return model

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        """Return the parameters of all blocks, and of everything else that always trains."""
        from rosa_bench.layers.structure.blocks import transformer_blocks

        if self.rest == "all":
            return model.parameters()
        in_blocks = [parameter for block in transformer_blocks(model) for parameter in block.parameters()]
        return [*in_blocks, *(self.head_parameters(model) if self.rest == "head" else [])]

    def is_due(self, step: int, length: RunLength) -> bool:
        return step > 0 and step % self.every == 0

    def before_step(
        self,
        model: nn.Module,
        step: int,
        *,
        length: RunLength,
        headroom_bytes: int | None = None,
        loss: Callable[[], Tensor] | None = None,
    ) -> Changed:
        return Changed(reset=self._choose(model, step), retrain=True, recapture=True, keep=True)

    def chosen(self, step: int, count: int) -> list[int]:
        """Return which of ``count`` blocks train at a step. This depends only on seed and step."""
        turn = step // self.every
        if self.order == "random":
            return self._permutation(turn, count)[: self.blocks]
        places = range(turn * self.blocks, (turn + 1) * self.blocks)
        if self.order == "shuffled":  # between two rounds a block may come twice, so fewer train
            return sorted({self._permutation(place // count, count)[place % count] for place in places})
        last = count - 1
        return [place % count if self.order == "ascending" else last - place % count for place in places]

    def _permutation(self, turn: int, count: int) -> list[int]:
        import torch

        return torch.randperm(count, generator=generator(self.seed, "blocks", turn), device="cpu").tolist()

    def _choose(self, model: nn.Module, step: int) -> list[nn.Parameter]:
        """Train only the blocks of this step. Return the parameters that start to train."""
        from rosa_bench.layers.structure.blocks import transformer_blocks

        stack = transformer_blocks(model)
        chosen, started = self.chosen(step, len(stack)), []
        for number, block in enumerate(stack):
            for parameter in block.parameters():
                if number in chosen and not parameter.requires_grad:
                    started.append(parameter)
                parameter.requires_grad_(number in chosen)
        return started
