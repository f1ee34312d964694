"""The kernel: split weights into a frozen residual and trainable low-rank factors, and merge them back.

Pure functions on stacks of weights, ``(..., out, in)``. As in the paper, ``W = residual + A B``; what LoRA's
authors call B is our ``a`` (out x r), and their A is our ``b`` (r x in).

Source: Hameed et al., "ROSA: Random Subspace Adaptation for Efficient Fine-Tuning", arXiv 2407.07802, eq. 2-4.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SELECTIONS = ("random", "block", "top", "bottom")
INITS = ("svd", "svd_add", "zero")

ORTHONORMAL = 1e-5  # how far the products of the rows of B may be from those of an orthonormal set
SINGULAR = 1e-4  # how far a triplet may be from a singular one, as a fraction of the largest singular value
# On a GPU one batched SVD is the fastest for so many weights or more, of at most so many rows or columns, whichever are
# fewer: it takes 45 ms even for two, and an eigendecomposition of 768 x 768 takes 8 ms.
BATCHED_SVD = (6, 1024)
WORKSPACE = 12  # float64 copies of a weight that its factorisation takes beside it (measured: 11.2 on an H100)


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

    All weights are factorised together, in the way that was measured to be the fastest (`solvers`) and is exact enough
    (`is_exact`). The split is exact for *any* orthonormal basis, so the rounding of the decomposition cannot move the
    function. Weights of any rank, zero among them, will do.

    Raises ValueError if ``rank`` is not between 1 and min(out, in), a weight holds NaN or Inf, or a choice is unknown.
    """
    *_, rows, columns = weight.shape
    if not 1 <= rank <= min(rows, columns):
        raise ValueError(f"rank {rank} does not fit a {rows} x {columns} weight; it must be in 1..{min(rows, columns)}")
    if init not in INITS:
        raise ValueError(f"init {init!r} is not one of {', '.join(INITS)}")
    if not torch.isfinite(weight).all():
        raise ValueError("a weight to factorise holds NaN or Inf")

    chosen = select_indices(
        weight.shape[:-2], min(rows, columns), rank, select=select, generator=generator, device=weight.device
    )
    a, b, _ = singular_triplets(weight, chosen, solvers(weight))

    # The residual is taken from the rounded factors, so that merging undoes it to one rounding of the weight's type.
    a, b = a.to(weight.dtype).contiguous(), b.to(weight.dtype).contiguous()
    if init == "svd":
        return Factors(weight - a @ b, a, b)
    return Factors(weight.clone(), torch.zeros_like(a) if init == "zero" else a, b)


def merge(
    residual: Float[Tensor, "*n out in"], a: Float[Tensor, "*n out r"], b: Float[Tensor, "*n r in"], scale: float = 1.0
) -> Float[Tensor, "*n out in"]:
    """Fold the trained factors back into the weight: ``residual + scale * a @ b``, in the residual's type.

    Every layer adds its product here and nowhere else. Source: Algorithm 1, line 4. The inverse of `factorize` with
    ``init="svd"``, up to rounding.
    """
    if residual.ndim == 2:
        return torch.addmm(residual, a, b, alpha=scale)
    if residual.ndim == 3:
        return torch.baddbmm(residual, a, b, alpha=scale)
    flat = (tensor.reshape(-1, *tensor.shape[-2:]) for tensor in (residual, a, b))
    return torch.baddbmm(*flat, alpha=scale).reshape(residual.shape)


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


class Triplets(NamedTuple):
    """Chosen singular triplets: ``a = U_I S_I``, ``b = V_I^T``, and the ``largest`` singular value of all."""

    a: Float[Tensor, "*n out r"]
    b: Float[Tensor, "*n r in"]
    largest: Float[Tensor, "*n"]


Solver = Callable[[Tensor, Tensor], Triplets]


def solvers(weight: Float[Tensor, "*n out in"]) -> tuple[Solver, ...]:
    """How to decompose such weights on their device, the fastest way first, the most reliable one last.

    Measured (docs/performance.md): on a GPU cuSOLVER's batched approximate SVD takes a fifth of the time of one
    eigendecomposition after another, for matrices up to about a thousand wide; above that, and on a CPU, the
    eigendecomposition of the smaller Gram matrix is the faster, and faster than an SVD.
    """
    count, size = weight.shape[:-2].numel(), min(weight.shape[-2:])
    batched = weight.is_cuda and count >= BATCHED_SVD[0] and size <= BATCHED_SVD[1]
    return (by_batched_svd, by_gram_matrix) if batched else (by_gram_matrix,)


def singular_triplets(
    weight: Float[Tensor, "*n out in"], chosen: Int[Tensor, "*n r"], solvers: Sequence[Solver]
) -> Triplets:
    """The ``chosen`` triplets by the first of the ``solvers``; where not exact, by the next. The last is trusted.

    A way that gives up on one weight, as a batched SVD that does not converge, has given up on all it was handed.
    """
    first, *others = solvers
    if not others:
        return first(weight, chosen)
    try:
        found = first(weight, chosen)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        return singular_triplets(weight, chosen, others)
    wrong = ~is_exact(weight, found)
    if wrong.any():
        for kept, mended in zip(found, singular_triplets(weight[wrong], chosen[wrong], others), strict=True):
            kept[wrong] = mended.to(kept.dtype)
    return found


def is_exact(weight: Float[Tensor, "*n out in"], found: Triplets) -> Bool[Tensor, "*n"]:
    """Of each weight, whether the rows of b are orthonormal, and all triplets (u, s, v) singular ones.

    One is, where both ``W v = s u`` and ``W^T u = s v`` hold to `SINGULAR` of the largest singular value. With
    ``s u = W v`` by definition, the first always does; and any v with so small an s is a null vector that exactly.
    """
    wide, b = weight.double(), found.b.double()
    products = b @ b.mT - torch.eye(b.shape[-2], dtype=b.dtype, device=b.device)
    a = wide @ b.mT  # (..., out, r)
    values = torch.linalg.vector_norm(a, dim=-2)  # (..., r)
    residual = torch.linalg.vector_norm((wide.mT @ a).mT - values.square().unsqueeze(-1) * b, dim=-1)
    allowed = SINGULAR * found.largest.double().unsqueeze(-1)
    singular = (values <= allowed) | (residual <= allowed * values)
    return (products.abs().amax((-2, -1)) <= ORTHONORMAL) & singular.all(-1)


def by_gram_matrix(weight: Float[Tensor, "*n out in"], chosen: Int[Tensor, "*n r"]) -> Triplets:
    """By a symmetric eigendecomposition of the smaller Gram matrix, summed in float64. For any rank of the weight."""
    left = weight.shape[-2] < weight.shape[-1]
    values, vectors = torch.linalg.eigh(_gram(weight, left=left))
    picked = _columns(vectors, vectors.shape[-1] - 1 - chosen)  # (..., out or in, r): the largest are the last
    del vectors  # as large as the weight, and larger ones follow
    wide = weight.double()
    a, b = _project_left(wide, picked) if left else (wide @ picked, picked.mT)
    return Triplets(a, b, values[..., -1].clamp(min=0).sqrt())


def by_batched_svd(weight: Float[Tensor, "*n out in"], chosen: Int[Tensor, "*n r"]) -> Triplets:
    """By cuSOLVER's batched approximate SVD, in float64, which takes no longer than float32 there."""
    wide = weight.double()
    _, values, right = torch.linalg.svd(wide, full_matrices=False, driver="gesvda" if wide.is_cuda else None)
    b = _columns(right.mT, chosen).mT
    return Triplets(wide @ b.mT, b, values[..., 0])


def _gram(weight: Tensor, *, left: bool) -> Tensor:
    """``W W^T`` or ``W^T W``, in float64."""
    wide = weight.double()
    return wide @ wide.mT if left else wide.mT @ wide


def _columns(vectors: Tensor, chosen: Tensor) -> Tensor:
    """The chosen columns of each matrix: (..., n, k), (..., r) -> (..., n, r)."""
    return vectors.gather(-1, chosen.unsqueeze(-2).expand(*vectors.shape[:-1], chosen.shape[-1]))


def _project_left(weight: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """``(U_I S_I, V_I^T)`` from left singular vectors ``U_I``, for any rank of the weight.

    ``U_I^T W = S_I V_I^T``, and its LQ decomposition gives an orthonormal ``V_I^T`` even where a singular value is
    zero and dividing by it could not. L is S_I up to signs and rounding.
    """
    orthonormal, triangle = torch.linalg.qr((vectors.mT @ weight).mT)
    return vectors @ triangle.mT, orthonormal.mT
