"""Split weights into a frozen residual and trainable low-rank factors, and merge them back.

These are pure functions on stacks of weights, ``(..., out, in)``. As in the paper, ``W = residual + A B``. The B of
LoRA's authors is our ``a`` (out x r), and their A is our ``b`` (r x in).

Source: Hameed et al., "ROSA: Random Subspace Adaptation for Efficient Fine-Tuning", arXiv 2407.07802, eq. 2-4.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SELECTIONS = ("random", "block", "top", "bottom")
INITS = ("svd", "svd_add", "zero", "balanced")

ORTHONORMAL = 1e-5  # tolerance on the entries of B B^T - I
SINGULAR = 1e-4  # tolerance on a singular triplet, as a fraction of the largest singular value
# (least number of weights, greatest min(out, in)) for which one batched SVD is fastest on a GPU. It takes 45 ms even
# for two weights, while an eigendecomposition of 768 x 768 takes 8 ms.
BATCHED_SVD = (6, 1024)
STACK_BYTES = 1 << 23  # of weights in float64 that are factorised together, if no other limit is known
WORKSPACE = 12  # extra memory to factorise a weight, in float64 copies of it (measured: 11.2 on an H100)


class Factors(NamedTuple):
    """The three parts of a weight, which is ``residual + a @ b``."""

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
    chosen: Int[Tensor, "*n r"] | None = None,
) -> Factors:
    """Split each weight along ``rank`` of its own singular directions: ``a = U_I S_I``, ``b = V_I^T``.

    init ``svd``      residual = W - A B, so the model computes the same function (eq. 4)
         ``svd_add``  residual = W, with the factors added on top (Table 4's "SVD init")
         ``zero``     residual = W and a = 0: nothing is added yet, but ``b`` fixes the row space
         ``balanced`` like ``svd``, with ``a = U_I sqrt(S_I)`` and ``b = sqrt(S_I) V_I^T``, so that a^T a = b b^T. Both
                      factors of a direction are zero if its singular value is, and then it does not train

    ``chosen`` are the directions, if they are already chosen; by default `select_indices` chooses them.

    All weights are factorised together by the fastest solver (`solvers`) that is accurate enough (`is_exact`). The
    split is exact for *any* orthonormal basis, so rounding in the decomposition does not change the function. Weights
    may have any rank, including zero.

    Raises ValueError if ``rank`` is not between 1 and min(out, in), if a weight contains NaN or Inf, or if ``init`` or
    ``select`` is unknown.
    """
    *_, rows, columns = weight.shape
    if not 1 <= rank <= min(rows, columns):
        raise ValueError(f"rank {rank} does not fit a {rows} x {columns} weight; it must be in 1..{min(rows, columns)}")
    if init not in INITS:
        raise ValueError(f"init {init!r} is not one of {', '.join(INITS)}")
    if not torch.isfinite(weight).all():
        raise ValueError("cannot factorise a weight that contains NaN or Inf")

    if chosen is None:
        chosen = select_indices(
            weight.shape[:-2], min(rows, columns), rank, select=select, generator=generator, device=weight.device
        )
    a, b, _ = singular_triplets(weight, chosen, solvers(weight))
    return _split(weight, a, b, init)


def project(weight: Float[Tensor, "*n out in"], basis: Float[Tensor, "*n r in"], *, init: str = "svd") -> Factors:
    """Split each weight along given orthonormal rows: ``b = basis`` and ``a = W basis^T``, which is W's part in them.

    ``init`` is ``svd`` or ``zero``, as in `factorize`. The split is exact for any basis. Raises ValueError if a weight
    contains NaN or Inf.
    """
    if init not in {"svd", "zero"}:
        raise ValueError(f"init {init!r} needs singular directions; along a given basis, use svd or zero")
    if not torch.isfinite(weight).all():
        raise ValueError("cannot split a weight that contains NaN or Inf")
    return _split(weight, weight.double() @ basis.double().mT, basis, init)


def random_basis(
    batch: Sequence[int], columns: int, rank: int, *, generator: torch.Generator | None = None
) -> Float[Tensor, "*n r in"]:
    """Draw ``rank`` orthonormal rows for each weight in the batch, uniformly, in float64 on the CPU.

    They are the QR decomposition of a Gaussian matrix, drawn weight by weight, so a seed gives the same rows for every
    device and however the weights are batched.
    """
    drawn = [
        torch.randn(columns, rank, generator=generator, dtype=torch.float64) for _ in range(torch.Size(batch).numel())
    ]
    return torch.linalg.qr(torch.stack(drawn)).Q.mT.reshape(*batch, rank, columns)


def singular_directions(weight: Float[Tensor, "*n out in"], chosen: Int[Tensor, "*n r"]) -> Float[Tensor, "*n r in"]:
    """Return the chosen right singular vectors of each weight, as rows, in float64. Number 0 is the largest."""
    return singular_triplets(weight, chosen, solvers(weight)).b.contiguous()


def leading_basis(matrix: Float[Tensor, "*n out in"], rank: int) -> Float[Tensor, "*n r in"]:
    """Return the right singular vectors of each matrix's ``rank`` largest singular values, as rows."""
    return singular_directions(matrix, torch.arange(rank, device=matrix.device).expand(*matrix.shape[:-2], rank))


def truncate(weight: Float[Tensor, "*n out in"], rank: int) -> Float[Tensor, "*n out in"]:
    """Return the best approximation of each weight of this rank: that of its ``rank`` largest singular values."""
    basis = leading_basis(weight, rank).double()
    return (weight.double() @ basis.mT @ basis).to(weight.dtype)


def merge(
    residual: Float[Tensor, "*n out in"], a: Float[Tensor, "*n out r"], b: Float[Tensor, "*n r in"], scale: float = 1.0
) -> Float[Tensor, "*n out in"]:
    """Fold the trained factors back into the weight: ``residual + scale * a @ b``, in the wider of their types.

    This is the only place where a product is added to a residual. It inverts `factorize` with ``init="svd"``, up to
    rounding. Source: Algorithm 1, line 4.
    """
    wide = torch.promote_types(residual.dtype, a.dtype)
    residual, a, b = residual.to(wide), a.to(wide), b.to(wide)
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
    """Choose the ``rank`` of ``count`` singular directions (0 is the largest) that each weight in the batch trains.

    ``random``  a uniform subset without replacement (the paper, section 3.1)
    ``block``   consecutive directions from a random start; never the last one (the authors' code)
    ``top``, ``bottom``  the largest or the smallest (Table 5)

    Indices are drawn on the CPU, so a seed gives the same subset on every device. Raises ValueError for any other
    ``select``.
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


def _split(weight: Tensor, a: Tensor, b: Tensor, init: str) -> Factors:
    """Split each weight along the orthonormal rows of ``b``, where ``a = W b^T``."""
    if init == "balanced":
        roots = torch.linalg.vector_norm(a, dim=-2).sqrt()  # (..., r), of the singular values
        a = a / roots.clamp(min=torch.finfo(a.dtype).tiny).unsqueeze(-2)
        b = roots.unsqueeze(-1) * b
    # Compute the residual from the rounded factors, so that merging restores the weight to within one rounding.
    a, b = a.to(weight.dtype).contiguous(), b.to(weight.dtype).contiguous()
    if init in {"svd", "balanced"}:
        return Factors(weight - a @ b, a, b)
    return Factors(weight.clone(), torch.zeros_like(a) if init == "zero" else a, b)


def stacks(shapes: list[torch.Size], *, limit_bytes: int = STACK_BYTES) -> list[list[int]]:
    """Group positions with equal shapes, so that each group can be stacked and factorised as one batch.

    A group's float64 copy takes at most ``limit_bytes``, unless it is a single weight. This bounds the extra memory of
    a resample.
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
    """The chosen singular triplets, ``a = U_I S_I`` and ``b = V_I^T``, and each weight's ``largest`` singular value."""

    a: Float[Tensor, "*n out r"]
    b: Float[Tensor, "*n r in"]
    largest: Float[Tensor, "*n"]


Solver = Callable[[Tensor, Tensor], Triplets]


def solvers(weight: Float[Tensor, "*n out in"]) -> tuple[Solver, ...]:
    """Return the solvers for these weights on their device, from the fastest to the most reliable.

    Measured in docs/performance.md: for matrices up to about a thousand wide, cuSOLVER's batched approximate SVD takes
    a fifth of the time of successive eigendecompositions on a GPU. For wider ones, and on a CPU, an eigendecomposition
    of the smaller Gram matrix is faster, and it also beats an SVD.
    """
    count, size = weight.shape[:-2].numel(), min(weight.shape[-2:])
    batched = weight.is_cuda and count >= BATCHED_SVD[0] and size <= BATCHED_SVD[1]
    return (by_batched_svd, by_gram_matrix) if batched else (by_gram_matrix,)


def singular_triplets(
    weight: Float[Tensor, "*n out in"], chosen: Int[Tensor, "*n r"], solvers: Sequence[Solver]
) -> Triplets:
    """Compute the ``chosen`` triplets with the first solver, and redo inexact ones with the next.

    The last solver's result is not checked. If a solver fails on one weight, as a batched SVD that does not converge
    does, the next solver redoes the whole batch.
    """
    first, *others = solvers
    if not others:
        return first(weight, chosen)
    try:
        found = first(weight, chosen)
    except torch.linalg.LinAlgError:
        return singular_triplets(weight, chosen, others)
    wrong = ~is_exact(weight, found)
    if wrong.any():
        for kept, mended in zip(found, singular_triplets(weight[wrong], chosen[wrong], others), strict=True):
            kept[wrong] = mended.to(kept.dtype)
    return found


def is_exact(weight: Float[Tensor, "*n out in"], found: Triplets) -> Bool[Tensor, "*n"]:
    """Return, for each weight, whether the rows of b are orthonormal and all its triplets (u, s, v) are singular.

    A triplet is singular if ``W v = s u`` and ``W^T u = s v``, within `SINGULAR` times the largest singular value. The
    first always holds, because ``s u = W v`` by definition. If s is within that tolerance, v is accepted as a null
    vector.
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
    """Eigendecompose the smaller Gram matrix in float64. The weight may have any rank."""
    left = weight.shape[-2] < weight.shape[-1]
    values, vectors = torch.linalg.eigh(_gram(weight, left=left))
    picked = _columns(vectors, vectors.shape[-1] - 1 - chosen)  # (..., out or in, r); eigh sorts ascending
    del vectors  # free them before the next large tensors are made
    wide = weight.double()
    a, b = _project_left(wide, picked) if left else (wide @ picked, picked.mT)
    return Triplets(a, b, values[..., -1].clamp(min=0).sqrt())


def by_batched_svd(weight: Float[Tensor, "*n out in"], chosen: Int[Tensor, "*n r"]) -> Triplets:
    """Use cuSOLVER's batched approximate SVD, in float64 because that is no slower there than float32."""
    wide = weight.double()
    _, values, right = torch.linalg.svd(wide, full_matrices=False, driver="gesvda" if wide.is_cuda else None)
    b = _columns(right.mT, chosen).mT
    return Triplets(wide @ b.mT, b, values[..., 0])


def _gram(weight: Tensor, *, left: bool) -> Tensor:
    """Return ``W W^T`` if ``left``, else ``W^T W``, in float64."""
    wide = weight.double()
    return wide @ wide.mT if left else wide.mT @ wide


def _columns(vectors: Tensor, chosen: Tensor) -> Tensor:
    """Pick the chosen columns of each matrix: (..., n, k), (..., r) -> (..., n, r)."""
    return vectors.gather(-1, chosen.unsqueeze(-2).expand(*vectors.shape[:-1], chosen.shape[-1]))


def _project_left(weight: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``(U_I S_I, V_I^T)`` from the left singular vectors ``U_I``, for a weight of any rank.

    ``U_I^T W = S_I V_I^T``. Its LQ decomposition gives an orthonormal ``V_I^T`` even if a singular value is zero, where
    division would fail. L equals S_I up to signs and rounding.
    """
    orthonormal, triangle = torch.linalg.qr((vectors.mT @ weight).mT)
    return vectors @ triangle.mT, orthonormal.mT
