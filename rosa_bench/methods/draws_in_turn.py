"""Draw the subspaces of ROSA in several processes: each decomposes its share of the weights, and all get all factors.

The directions are chosen in every process, from the same generator and in the same order as in a single one, so the
subspaces are the same too. Only decompositions, which take the time, are shared out. With sharded weights
(`rosa_bench.training.distributed.sharded`) each is gathered in turn, and only the process that decomposes it keeps it
for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rosa_bench.system import processes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from rosa_bench.layers.low_rank import LowRankLinear
    from rosa_bench.lowrank import Factors
    from rosa_bench.methods.rosa import Rosa


def draw_in_turn(
    method: Rosa, layers: Sequence[LowRankLinear], generator: torch.Generator, *, limit_bytes: int
) -> None:
    """Merge the factors of all layers and draw new ones, in place. All processes must call this together.

    ``limit_bytes`` limits what a process decomposes at once, as in `rosa_bench.lowrank.stacks`; the lowest counts.
    Raises ValueError, in every process, if a weight holds NaN or Inf.
    """
    import torch

    from rosa_bench.lowrank import stacks

    count = processes.count()
    (lowest,) = processes.most([-limit_bytes])
    with torch.no_grad():
        for positions in stacks([layer.shape for layer in layers], limit_bytes=-lowest * count):
            group = [layers[position] for position in positions]
            exchange(group, split_own(method, group, generator))


def split_own(method: Rosa, group: Sequence[LowRankLinear], generator: torch.Generator) -> Factors | None:
    """Decompose this process's share of layers of one shape: those at its rank, and every so many further on.

    Returns the new residuals and factors, stacked, or None if it has no share.
    """
    import torch

    from rosa_bench.lowrank import factorize, merge, project, random_basis, select_indices
    from rosa_bench.system.tensors import whole

    rank, count = processes.rank(), processes.count()
    *stack, rows, columns = group[0].shape
    batch = (len(group), *stack)
    if method.basis == "random":
        drawn = random_basis(batch, columns, method.rank, generator=generator)
    else:
        drawn = select_indices(batch, min(rows, columns), method.rank, select=method.select, generator=generator)
    weights: list[Tensor] = []
    for number, layer in enumerate(group):
        residual, a, b = layer.exact_residual(), whole(layer.a.detach()), whole(layer.b.detach())
        if number % count == rank:
            weights.append(merge(residual, a, b, layer.scale))
    factors, problem = None, ""
    try:
        if weights:
            mine, own = torch.stack(weights), drawn[rank::count].to(weights[0].device)
            if method.basis == "random":
                factors = project(mine, own, init=method.init)
            else:
                factors = factorize(mine, method.rank, init=method.init, chosen=own)
    except ValueError as error:
        problem = str(error)
    if problem := max(processes.gathered(problem)):  # the others would wait for this one
        raise ValueError(problem)
    return factors


def exchange(group: Sequence[LowRankLinear], own: Factors | None) -> None:
    """Write every process's new residuals and factors into the layers of all."""
    import torch

    from rosa_bench.system.tensors import put

    rank, count = processes.rank(), processes.count()
    for number, layer in enumerate(group):
        for part, tensor in enumerate((layer.residual, layer.a, layer.b)):
            if number % count == rank:
                assert own is not None
                values = own[part][number // count].contiguous()
            else:
                values = torch.empty(tensor.shape, dtype=tensor.dtype, device=layer.a.device)
            put(tensor, processes.take_from(values, number % count))
