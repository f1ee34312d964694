"""How many directions training moved a weight in: the singular values of W_T - W_0 (Figure 5)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rosa_bench.layers.adapter import Adapter
from rosa_bench.layers.linear import weight_of

EXACT = 32  # every rank up to here is told, and as many beyond, evenly on a logarithmic scale
DIGITS = 5  # significant ones


@torch.no_grad()
def weights(model: nn.Module, names: list[str]) -> dict[str, Float[Tensor, "*n out in"]]:
    """The weights of the layers named, adapters merged, in copies on the CPU."""
    layers = {name: model.get_submodule(name) for name in names}
    return {
        name: (layer.merged_weight() if isinstance(layer, Adapter) else weight_of(layer)).to("cpu", copy=True)  # pyright: ignore[reportArgumentType]
        for name, layer in layers.items()
    }


def spectrum(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Any]:
    """What a record keeps of the updates ``after - before`` of weights by name; a stack's are ``name[0]``, ...

    ranks    of which sums are told
    weights  by name: the update's numeric ``rank``; its Frobenius ``norm``, and the weight's own ``norm_before``; the
             ``sum`` of all its singular values, and ``sums``, those of the greatest ``ranks[i]`` of them, as far as
             the weight has so many

    All values of 48 weights of RoBERTa-base would be 36,864 numbers; a curve needs no more than these. They are sums
    and not values, for a sum cannot be had again from a part of its terms.
    """
    pairs = {f"{name}{number}": pair for name in before for number, pair in _single(before[name], after[name]).items()}
    ranks = told_ranks(max(min(weight.shape) for weight, _ in pairs.values()))
    return {"ranks": ranks, "weights": {name: _told(*pair, ranks) for name, pair in pairs.items()}}


def told_ranks(largest: int) -> list[int]:
    """1, 2, ..., 32, then 32 more up to ``largest``, each by about the same factor greater than the one before."""
    if largest <= EXACT:
        return list(range(1, largest + 1))
    factor = (largest / EXACT) ** (1 / EXACT)
    return sorted({*range(1, EXACT + 1), *(round(EXACT * factor**step) for step in range(1, EXACT + 1))})


def numeric_rank(values: Float[Tensor, " k"], weight: Float[Tensor, "out in"]) -> int:
    """How many singular ``values`` of an update of ``weight`` are more than rounding.

    Merging rounds each entry of the weight by at most half its type's epsilon, which moves no singular value by more
    than that times the Frobenius norm; twice as much is allowed, for a weight that was merged several times.
    """
    return int((values > torch.finfo(weight.dtype).eps * weight.double().norm()).sum())


def _single(before: Tensor, after: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """A weight, or each of a stack, before and after, by what its name has beside the layer's."""
    if before.ndim == 2:
        return {"": (before, after)}
    return {f"[{number}]": pair for number, pair in enumerate(zip(before, after, strict=True))}


def _told(before: Tensor, after: Tensor, ranks: list[int]) -> dict[str, Any]:
    values = torch.linalg.svdvals(after.double() - before.double())
    sums = values.cumsum(0).tolist()
    return {
        "rank": numeric_rank(values, after),
        "norm": rounded(values.norm().item()),
        "norm_before": rounded(before.double().norm().item()),
        "sum": rounded(sums[-1]),
        "sums": [rounded(sums[rank - 1]) for rank in ranks if rank <= len(sums)],
    }


def rounded(value: float) -> float:
    """To 5 significant digits."""
    return float(f"{value:.{DIGITS}g}")
