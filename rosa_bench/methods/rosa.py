"""ROSA: a random subspace of each weight trains, and a new one is drawn at regular intervals.

Source: Hameed et al., "ROSA: Random Subspace Adaptation for Efficient Fine-Tuning", arXiv 2407.07802, Algorithm 1.
We differ in two points. The first subspace is drawn before the first step, as in the authors' code. A resample writes
into the same parameters, so the optimizer, the schedule and captured graphs stay valid.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rosa_bench.methods.base import Changed, Method, RunLength
from rosa_bench.methods.resampled import UNITS, Resampled
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor, nn

    from rosa_bench.layers.low_rank import LowRankLinear

log = logging.getLogger(__name__)

# Memory for the first factorisation on a GPU, before training has shown its peak: less than any run takes.
HEADROOM_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class Rosa(Resampled):
    """``W = residual + A B``, where A B is a part of W's own singular value decomposition."""

    select: str = setting("which singular directions train (Table 5)", choices=("random", "block", "top", "bottom"))
    init: str = setting("what the factors start from (Table 4)", choices=("svd", "svd_add", "zero"))
    resample_every: float = setting(
        "period of merging and drawing again, in resample_unit; 0 means never (Table 4)", at_least=0, at_most=1e9
    )
    resample_unit: str = setting("unit of resample_every; run: a fraction of the whole run", choices=UNITS)
    default_resample_every: dict[str, float] = setting(
        "resample_every by recipe, in epochs", default_factory=dict, identity=False, published=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init == "svd_add" and self.resample_every:
            raise UserError(
                "method.init=svd_add would add to the weights again at every resample; "
                "use it with method.resample_every=0, or use method.init=svd"
            )

    def initialise(self, layers: list[LowRankLinear], generator: torch.Generator) -> None:
        whole = [layer.shape[-2:] for layer in layers if self.rank == min(layer.shape[-2:])]
        if whole:
            rows, columns = whole[0]
            log.warning(
                "rank %d is the full rank of %d of the %d adapted weights (%d x %d): they train whole, saving nothing",
                self.rank, len(whole), len(layers), rows, columns,
            )  # fmt: skip
        self._factorize(layers, generator, HEADROOM_BYTES if layers[0].residual.is_cuda else None)

    def before_step(
        self,
        model: nn.Module,
        step: int,
        *,
        length: RunLength,  # noqa: ARG002 - part of the contract
        headroom_bytes: int | None = None,
        loss: Callable[[], Tensor] | None = None,  # noqa: ARG002
    ) -> Changed:
        return Changed(reset=self.resample(model, step, headroom_bytes=headroom_bytes))

    def resample(self, model: nn.Module, step: int, *, headroom_bytes: int | None = None) -> list[nn.Parameter]:
        """Merge and draw a new subspace, inside the same parameters. Return the parameters that were replaced.

        Raises ValueError if a weight holds NaN or Inf.
        """
        from rosa_bench.layers.low_rank import low_rank_layers

        layers = low_rank_layers(model)
        self._factorize(layers, self.generator(step), headroom_bytes)
        return [factor for layer in layers for factor in (layer.a, layer.b)]

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """Like `Method.state`, including the residuals, because every resample changes them."""
        return Method.state(self, model)

    def _factorize(self, layers: list[LowRankLinear], generator: torch.Generator, headroom_bytes: int | None) -> None:
        """Merge, then split along new directions, in place. Equal shapes are batched as far as memory allows."""
        import torch

        from rosa_bench.lowrank import WORKSPACE, factorize, stacks

        limit = {} if headroom_bytes is None else {"limit_bytes": headroom_bytes // WORKSPACE}
        with torch.no_grad():
            for positions in stacks([layer.shape for layer in layers], **limit):
                group = [layers[position] for position in positions]
                weights = torch.stack([layer.merged_weight() for layer in group])
                factors = factorize(weights, self.rank, select=self.select, init=self.init, generator=generator)
                for layer, residual, a, b in zip(group, *factors, strict=True):
                    layer.residual.copy_(residual)
                    layer.a.copy_(a)
                    layer.b.copy_(b)
