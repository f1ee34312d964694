"""ROSA: a random subspace of each weight trains, and another one is drawn every so often.

Source: Hameed et al., "ROSA: Random Subspace Adaptation for Efficient Fine-Tuning", arXiv 2407.07802, Algorithm 1.
We differ in that the first subspace is drawn before the first step, as the authors' code does, and that a resample
writes into the same parameters, so that no optimizer, schedule or captured graph has to be made again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rosa_bench.methods.adapted import LowRankMethod
from rosa_bench.system.errors import UserError, at_least, one_of
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rosa_bench.layers.low_rank import LowRankLinear

log = logging.getLogger(__name__)

# For the first factorisation on a GPU, before training has shown how much it takes: less than the least it ever does.
HEADROOM_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class Rosa(LowRankMethod):
    """``W = residual + A B`` with A B a part of W's own singular value decomposition.

    select          which singular directions train: ``random``, ``block``, ``top``, ``bottom`` (Table 5)
    init            what becomes of them: ``svd``, ``svd_add`` (Table 4), ``zero``
    resample_every  period of merging and drawing anew, in ``resample_unit``; 0 = never (Table 4)
    resample_unit   ``epochs`` or ``steps``
    """

    select: str
    init: str
    resample_every: float
    resample_unit: str
    default_resample_every: dict[str, float] = setting(
        "resample_every by recipe, in epochs", default_factory=dict, identity=False, published=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("method.select", self.select, ("random", "block", "top", "bottom"))
        one_of("method.init", self.init, ("svd", "svd_add", "zero"))
        at_least("method.resample_every", self.resample_every, 0)
        one_of("method.resample_unit", self.resample_unit, ("epochs", "steps"))
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
                "rank %d is the full rank of %d of the %d adapted weights (%d x %d): those train whole, saving nothing",
                self.rank, len(whole), len(layers), rows, columns,
            )  # fmt: skip
        self._factorize(layers, generator, HEADROOM_BYTES if layers[0].residual.is_cuda else None)

    def is_due(self, step: int, steps_per_epoch: int) -> bool:
        if not self.resample_every:
            return False
        unit = steps_per_epoch if self.resample_unit == "epochs" else 1
        return step > 0 and step % max(1, round(self.resample_every * unit)) == 0

    def resample(self, model: nn.Module, step: int, *, headroom_bytes: int | None = None) -> list[nn.Parameter]:
        from rosa_bench.layers.low_rank import low_rank_layers

        layers = low_rank_layers(model)
        self._factorize(layers, self.generator(step), headroom_bytes)
        return [factor for layer in layers for factor in (layer.a, layer.b)]

    def _factorize(self, layers: list[LowRankLinear], generator: torch.Generator, headroom_bytes: int | None) -> None:
        """Merge, then split along freshly drawn directions, in place; as many weights of one shape together as fit."""
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
