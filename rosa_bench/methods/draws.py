"""Draw the subspaces of ROSA: merge what was trained, and split the weights along other directions, in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rosa_bench.methods.draws_in_turn import draw_in_turn
from rosa_bench.system import processes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from rosa_bench.layers.low_rank import LowRankLinear
    from rosa_bench.methods.rosa import Rosa

EVERY = slice(None)  # all directions


def draw(
    method: Rosa,
    layers: Sequence[LowRankLinear],
    generator: torch.Generator,
    *,
    headroom_bytes: int | None = None,
    which: slice = EVERY,
    bases: Sequence[Tensor] | None = None,
) -> None:
    """Merge ``which`` directions of the layers, and split along new ones, or along given ``bases``, (*n, r, in) each.

    Equal shapes are batched as far as ``headroom_bytes`` allows. Several processes share the work out, and must call
    this together. Raises ValueError if a weight contains NaN or Inf.
    """
    import torch

    from rosa_bench.lowrank import STACK_BYTES, WORKSPACE, stacks

    limit_bytes = STACK_BYTES if headroom_bytes is None else headroom_bytes // WORKSPACE
    whole = which == EVERY and bases is None
    if processes.count() > 1 and whole:
        draw_in_turn(method, layers, generator, limit_bytes=limit_bytes)
        return
    with torch.no_grad():
        for positions in stacks([layer.shape for layer in layers], limit_bytes=limit_bytes):
            group = [layers[position] for position in positions]
            given = None if bases is None else torch.stack([bases[position] for position in positions])
            _draw_together(method, group, generator, which=which, basis=given)  # its memory is free afterwards


def _draw_together(
    method: Rosa, group: Sequence[LowRankLinear], generator: torch.Generator, *, which: slice, basis: Tensor | None
) -> None:
    """Draw for layers of one shape, as one batch."""
    import torch

    from rosa_bench.lowrank import Factors, factorize, project, random_basis

    rank = len(range(method.rank)[which])
    weights = torch.stack([layer.merged_weight(which) for layer in group])
    if basis is None and method.basis == "svd":
        factors = factorize(weights, rank, select=method.select, init=method.init, generator=generator)
    else:
        if basis is None:
            *batch, _, columns = weights.shape
            basis = random_basis(batch, columns, rank, generator=generator)
        factors = project(weights, basis.to(weights.device), init=method.init)
    for layer, residual, a, b in zip(group, *factors, strict=True):
        # With any other start the residual is the whole weight.
        layer.redraw(Factors(residual, a, b), which, taken=method.init in {"svd", "balanced"})
