"""Choose entries of several tensors together: by flat indices, ascending, for each tensor."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor


def largest_entries(scores: Sequence[Tensor], count: int) -> list[Int[Tensor, " chosen"]]:
    """Return where the ``count`` largest of all scores are: for each tensor, ascending indices into its flattened form.

    Works on the CPU, where a copy of all scores is made.
    """
    sizes = torch.tensor([score.numel() for score in scores])
    together = torch.cat([score.flatten().cpu() for score in scores])
    chosen = together.topk(count, sorted=False).indices.sort().values
    ends = sizes.cumsum(0)
    owners = torch.bucketize(chosen, ends, right=True)
    parts = (chosen - (ends - sizes)[owners]).split(owners.bincount(minlength=len(sizes)).tolist())
    return [part.to(score.device) for part, score in zip(parts, scores, strict=True)]


def first_entries(weights: Sequence[Tensor], count: int) -> list[Int[Tensor, " chosen"]]:
    """Return what `largest_entries` returns if all scores are equal. Weights may be on the meta device."""
    found = []
    for weight in weights:
        here = min(count, weight.numel())
        found.append(torch.arange(here, device=weight.device))
        count -= here
    return found
