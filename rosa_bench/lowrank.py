"""The kernel: split weights into a frozen residual and trainable low-rank factors, and merge them back.

Pure functions on stacks of weights, ``(..., out, in)``. As in the paper, ``W = residual + A B``; what LoRA's
authors call B is our ``a`` (out x r), and their A is our ``b`` (r x in).

Source: Hameed et al., "ROSA: Random Subspace Adaptation for Efficient Fine-Tuning", arXiv 2407.07802, eq. 2-4.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

SELECTIONS = ("random", "block", "top", "bottom")
INITS = ("svd", "svd_add", "zero")


class Factors(NamedTuple):
    """A weight in three parts: ``residual + a @ b``."""

    residual: Float[Tensor, "*n out in"]
    a: Float[Tensor, "*n out r"]
    b: Float[Tensor, "*n r in"]


def factorize(
    weight: Float[Tensor, "*n out in"],
    rank: int,
    *,
    select: str = "random",
    init: str = "svd",
    generator: torch.Generator | None = None,
) -> Factors:
    """Split each weight along ``rank`` of its own singular directions: ``a = U_I S_I``, ``b = V_I^T``.

    init ``svd``      residual = W - A B, so that the model's function does not move (eq. 4)
         ``svd_add``  residual = W, the factors are added on top (Table 4's "SVD init")
         ``zero``     residual = W, a = 0: nothing is added yet, inside the row space that ``b`` spans

    All weights are factorised together. The basis comes from a symmetric eigendecomposition of the smaller Gram
    matrix, summed in float64, which is several times faster than an SVD; the split is exact for *any* orthonormal
    basis, so the rounding of the decomposition cannot move the function. Weights of any rank, zero among them, will do.

    Raises ValueError if ``rank`` is not between 1 and min(out, in), a weight holds NaN or Inf, or a choice is unknown.
    """
    *_, rows, columns = weight.shape
    if not 1 <= rank <= min(rows, columns):
        raise ValueError(f"rank {rank} does not fit a {rows} x {columns} weight; it must be in 1..{min(rows, columns)}")
    if init not in INITS:
        raise ValueError(f"init {init!r} is not one of {', '.join(INITS)}")
    if not torch.isfinite(weight).all():
        raise ValueError("a weight to factorise holds NaN or Inf")

    wide = weight.double()
    basis = _left_basis(wide) if rows < columns else _right_basis(wide)
    chosen = select_indices(
        weight.shape[:-2], min(rows, columns), rank, select=select, generator=generator, device=weight.device
    )
    vectors = basis.gather(-1, chosen.unsqueeze(-2).expand(*basis.shape[:-1], rank))  # (..., out or in, r)
    a, b = _project_left(wide, vectors) if rows < columns else (wide @ vectors, vectors.mT)

    # The residual is taken from the rounded factors, so that merging undoes it to one rounding of the weight's type.
    a, b = a.to(weight.dtype).contiguous(), b.to(weight.dtype).contiguous()
    if init == "svd":
        return Factors(weight - a @ b, a, b)
    return Factors(weight.clone(), torch.zeros_like(a) if init == "zero" else a, b)


def merge(
    residual: Float[Tensor, "*n out in"], a: Float[Tensor, "*n out r"], b: Float[Tensor, "*n r in"]
) -> Float[Tensor, "*n out in"]:
    """Fold the trained factors back into the weight: ``residual + a @ b``.

    Source: Algorithm 1, line 4. The inverse of `factorize` with ``init="svd"``, up to rounding.
    """
    return residual + a @ b


def select_indices(
    batch: torch.Size | tuple[int, ...],
    count: int,
    rank: int,
    *,
    select: str = "random",
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> Int[Tensor, "*n r"]:
    """Which ``rank`` of ``count`` singular directions, largest first, each weight of the batch trains.

    ``random``  a uniform subset without replacement (the paper, section 3.1)
    ``block``   neighbours, from a random start; the last direction is never drawn (the authors' code)
    ``top``, ``bottom``  the largest, the smallest (Table 5)

    Drawn on the CPU, so that a seed means the same subset on every device. Raises ValueError for another name.
    """
    if select not in SELECTIONS:
        raise ValueError(f"select {select!r} is not one of {', '.join(SELECTIONS)}")
    if select == "random":
        keys = torch.rand(*batch, count, generator=generator, dtype=torch.float64)
        return keys.argsort(-1)[..., :rank].sort(-1).values.to(device)
    if select == "block":
        start = torch.randint(max(count - rank, 1), (*batch, 1), generator=generator)
    else:
        start = torch.full((*batch, 1), 0 if select == "top" else count - rank)
    return (start + torch.arange(rank)).to(device)


def stacks(shapes: list[torch.Size], *, limit_bytes: int = 1 << 23) -> list[list[int]]:
    """Group the positions of equal shapes, so that each group can be stacked and factorised as one batch.

    A group's float64 copy stays within ``limit_bytes`` (but holds at least one weight), which bounds the memory
    that a resample takes beside the model.
    """
    groups: dict[torch.Size, list[int]] = {}
    for position, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(position)
    chunks = []
    for shape, positions in groups.items():
        size = max(1, limit_bytes // (8 * math.prod(shape)))
        chunks += [positions[start : start + size] for start in range(0, len(positions), size)]
    return chunks


def _right_basis(weight: Tensor) -> Tensor:
    """Right singular vectors, as columns, largest first: (..., out, in) -> (..., in, in)."""
    return torch.linalg.eigh(weight.mT @ weight).eigenvectors.flip(-1)


def _left_basis(weight: Tensor) -> Tensor:
    """Left singular vectors, as columns, largest first: (..., out, in) -> (..., out, out)."""
    return torch.linalg.eigh(weight @ weight.mT).eigenvectors.flip(-1)


def _project_left(weight: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """``(U_I S_I, V_I^T)`` from left singular vectors ``U_I``, for any rank of the weight.

    ``U_I^T W = S_I V_I^T``, and its LQ decomposition gives an orthonormal ``V_I^T`` even where a singular value is
    zero and dividing by it could not. L is S_I up to signs and rounding.
    """
    orthonormal, triangle = torch.linalg.qr((vectors.mT @ weight).mT)
    return vectors @ triangle.mT, orthonormal.mT
