"""The singular values of W_T - W_0, which show in how many directions training moved a weight (Figure 5)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rosa_bench.layers.adapter import Adapter
from rosa_bench.layers.structure.linear import weight_of

EXACT = 32  # report every rank up to this one, and as many larger ones, evenly spaced on a logarithmic scale
DIGITS = 5  # significant digits


@torch.no_grad()
def weights(model: nn.Module, names: list[str]) -> dict[str, Float[Tensor, "*n out in"]]:
    """Return CPU copies of the named layers' weights, with adapters merged."""
    layers = {name: model.get_submodule(name) for name in names}
    return {
        name: (layer.merged_weight() if isinstance(layer, Adapter) else weight_of(layer)).to("cpu", copy=True)  # pyrefly: ignore[bad-argument-type]
        for name, layer in layers.items()
    }


def spectrum(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Any]:
    """Summarise the updates ``after - before`` of named weights for a record. A stack's are ``name[0]``, ...

    ranks    the ranks at which partial sums are given
    weights  by name: the update's numeric ``rank`` and Frobenius ``norm``; the weight's own ``norm_before``; the
             ``sum`` of all singular values of the update; and ``sums``, where ``sums[i]`` adds the largest ``ranks[i]``
             of them, for ranks that the weight has

    All values of 48 weights of RoBERTa-base would be 36,864 numbers, and a curve needs only these. Sums are kept
    because they could not be recomputed from some of the values.
    """
    pairs = {f"{name}{number}": pair for name in before for number, pair in _single(before[name], after[name]).items()}
    ranks = reported_ranks(max(min(weight.shape) for weight, _ in pairs.values()))
    return {"ranks": ranks, "weights": {name: _summary(*pair, ranks) for name, pair in pairs.items()}}


def reported_ranks(largest: int) -> list[int]:
    """Return the ranks to report: 1, 2, ..., 32, then 32 more up to ``largest`` in roughly geometric progression."""
    if largest <= EXACT:
        return list(range(1, largest + 1))
    factor = (largest / EXACT) ** (1 / EXACT)
    return sorted({*range(1, EXACT + 1), *(round(EXACT * factor**step) for step in range(1, EXACT + 1))})


def numeric_rank(values: Float[Tensor, " k"], weight: Float[Tensor, "out in"]) -> int:
    """Count the singular ``values`` of an update of ``weight`` that exceed rounding error.

    Merging rounds each entry of the weight by at most half its type's epsilon. That moves a singular value by at most
    half epsilon times the Frobenius norm. Twice as much is allowed, because a weight may be merged several times.
    """
    return int((values > torch.finfo(weight.dtype).eps * weight.double().norm()).sum())


def _single(before: Tensor, after: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Split a stack into its weights, before and after, by the suffix that each adds to the layer's name."""
    if before.ndim == 2:
        return {"": (before, after)}
    return {f"[{number}]": pair for number, pair in enumerate(zip(before, after, strict=True))}


def _summary(before: Tensor, after: Tensor, ranks: list[int]) -> dict[str, Any]:
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
    """Round to 5 significant digits."""
    return float(f"{value:.{DIGITS}g}")
