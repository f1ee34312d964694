"""Theorem 2 in closed form: the least-squares errors that LoRA and ROSA can reach, in float64.

The problem is ``min ||X W - Y||_F^2`` in the paper's layout: X (n, d), W (d, p), Y (n, p). Pi_X projects onto the range
of X, ``D = Pi_X Y - X W`` is the gap that training can still close, and V_R holds its first R right singular vectors.
The error is ``||D||_F^2 + ||Pi_X Y - Y||_F^2``, so the best A B removes the best rank-R approximation from D
(Eckart-Young; ``D V_R V_R^T`` is within X's range, so some A B achieves it).

* LoRA's best error is ``||Pi_X Y - Y||_F^2 + sum_{i>R} sigma_i(Pi_X Y - X W_0)^2``. It is attained, not just a bound.
* ROSA takes such a step from the end of the previous one. Each step removes the R largest components of D, so ROSA
  reaches the optimum after exactly ``T = ceil(rank(Pi_X Y - X W_0) / R)`` steps and stays there.

Source: Theorem 2 of arXiv 2407.07802 (its Theorem 1 in the appendix). We differ from the text, as we read it:

1. We use Pi_X Y where the text has Pi_{XY}, and Y where the proof's second half has X (as in ``Pi_X X - X W_1``).
2. Our minimiser of eq. 7 contains X^+ Y; the text has ``(X^T X)^{-1} X Y``, which lacks a transpose. With the
   pseudo-inverse, and ``X^+ X W_0`` for W_0, X may have any rank, and n < d is allowed.
3. A is (d, R) and B is (R, p); the text has n x R and R x n.
4. T uses the rank of the gap. The text's rank(X W_0 - Y) is equal to it if some W has zero error, as the main text
   assumes, and otherwise only an upper bound. Its proof ends with t > T; t >= T holds, as the theorem says.
5. The text's bound on LoRA's error omits ``||Pi_X Y - Y||_F^2``. With that term the bound becomes the equality above.

The theorem does not describe Algorithm 1. The theorem's steps add a free A B to W. Algorithm 1 first removes some of
W's own singular directions A_0 B_0 from W and trains A B in their place. Solved exactly, such a step turns D into
``D + X A_0 B_0`` minus its R largest components. No singular value of D ever increases (Weyl), so neither the error nor
rank(D) does. They need not decrease, however, and no number of steps is guaranteed to suffice. With X = I,
W_0 = diag(3, 2), Y = diag(3, 2.5) and R = 1, T is 1, yet a step that removes the first direction puts it back and
changes nothing. With ``init="zero"`` (or ``svd_add``) nothing is removed, which gives the theorem's step.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rosa_bench.lowrank import factorize


class Update(NamedTuple):
    """An update ``a @ b`` of the weight, of rank at most R."""

    a: Float64[Tensor, "*k d r"]
    b: Float64[Tensor, "*k r p"]


class _Span(NamedTuple):
    """The range and pseudo-inverse of X from its SVD: Pi_X = ``basis @ basis.mT``, X^+ = ``inverse @ basis.mT``."""

    basis: Float64[Tensor, "*k n m"]  # left singular vectors, or zeros if the singular value counts as zero
    inverse: Float64[Tensor, "*k d m"]


def error(x: Float[Tensor, "*k n d"], w: Float[Tensor, "*k d p"], y: Float[Tensor, "*k n p"]) -> Float64[Tensor, "*k"]:
    """Compute the minimised error ``||X W - Y||_F^2``: a sum, not a mean."""
    return (x.double() @ w.double() - y.double()).square().sum((-2, -1))


def projected(x: Float[Tensor, "*k n d"], y: Float[Tensor, "*k n p"]) -> Float64[Tensor, "*k n p"]:
    """Compute ``Pi_X Y``: the columns of Y projected onto the range of X, which may have any rank.

    A singular value of X counts as zero up to max(n, d) * eps times the largest, as in `torch.linalg.matrix_rank`.
    """
    basis = _span(x.double()).basis
    return basis @ (basis.mT @ y.double())


def optimum(x: Float[Tensor, "*k n d"], y: Float[Tensor, "*k n p"]) -> Float64[Tensor, "*k"]:
    """Compute the smallest error of any W: ``||Pi_X Y - Y||_F^2``."""
    return (projected(x, y) - y.double()).square().sum((-2, -1))


def best_update(
    x: Float[Tensor, "*k n d"], w0: Float[Tensor, "*k d p"], y: Float[Tensor, "*k n p"], rank: int
) -> Update:
    """Return the A (d, R) and B (R, p) that minimise ``||X (W_0 + A B) - Y||_F^2``: LoRA trained to convergence.

    ``A = X^+ (Y - X W_0) V_R`` and ``B = V_R^T``. If X lacks full column rank, this A B is one of many.

    Source: reduced-rank regression (Izenman 1975), the paper's eq. 7 as corrected above. Raises ValueError if ``rank``
    is not in 1..min(d, p).
    """
    x, w0, y = x.double(), w0.double(), y.double()
    return _minimise(_span(x), y - x @ w0, rank)


def best_errors(
    x: Float[Tensor, "*k n d"], w0: Float[Tensor, "*k d p"], y: Float[Tensor, "*k n p"]
) -> Float64[Tensor, "*k min(d,p)+1"]:
    """Compute the error after the best update of rank 0, 1, ..., min(d, p) from the gap's singular values.

    Entry R is ``optimum + sum_{i>R} sigma_i(Pi_X Y - X W_0)^2``; the last one is the optimum.
    """
    basis = _span(x.double()).basis
    remainder = y.double() - x.double() @ w0.double()
    coordinates = basis.mT @ remainder  # of the gap, with its singular values
    least = (remainder - basis @ coordinates).square().sum((-2, -1))  # Y - Pi_X Y, as X W_0 cancels
    tails = torch.linalg.svdvals(coordinates).square().flip(-1).cumsum(-1).flip(-1)
    # Zero past the last singular value: always for rank min(d, p), and for lower ranks if n is small.
    tails = torch.nn.functional.pad(tails, (0, min(w0.shape[-2:]) + 1 - tails.shape[-1]))
    return least.unsqueeze(-1) + tails


def steps_needed(x: Float[Tensor, "n d"], w0: Float[Tensor, "d p"], y: Float[Tensor, "n p"], rank: int) -> int:
    """Compute ``T = ceil(rank(Pi_X Y - X W_0) / R)``, the number of the theorem's steps from W_0 to the optimum.

    A singular value of the gap counts as zero if it is within the float64 rounding error of the terms that cancel in
    it. T is therefore 0 if W_0 is already optimal. Raises ValueError if ``rank`` is not in 1..min(d, p).
    """
    _check_rank(rank, *w0.shape)
    x, w0, y = x.double(), w0.double(), y.double()
    gap = projected(x, y - x @ w0)
    norms = [torch.linalg.matrix_norm(matrix, 2) for matrix in (x, w0, y)]
    rounding = 10 * max(*x.shape, *y.shape) * torch.finfo(torch.float64).eps
    atol = rounding * (norms[0] * norms[1] + norms[2])
    return math.ceil(int(torch.linalg.matrix_rank(gap, atol=atol, rtol=0.0)) / rank)


def iterates(
    x: Float[Tensor, "*k n d"], w0: Float[Tensor, "*k d p"], y: Float[Tensor, "*k n p"], rank: int, steps: int
) -> list[Float64[Tensor, "*k d p"]]:
    """Return the theorem's ROSA iterates, W_0 to W_steps. Each step adds the best update of this rank (eq. 6).

    Raises ValueError as `best_update` does.
    """
    x, y, weights = x.double(), y.double(), [w0.double()]
    span = _span(x)
    for _ in range(steps):
        a, b = _minimise(span, y - x @ weights[-1], rank)
        weights.append(weights[-1] + a @ b)
    return weights


def algorithm1(
    x: Float[Tensor, "*k n d"],
    w0: Float[Tensor, "*k d p"],
    y: Float[Tensor, "*k n p"],
    rank: int,
    steps: int,
    *,
    select: str = "random",
    init: str = "svd",
    generator: torch.Generator | None = None,
) -> list[Float64[Tensor, "*k d p"]]:
    """Return Algorithm 1's iterates, W_0 to W_steps. Each step factorises and then minimises over A and B exactly.

    ``select``, ``init`` and ``generator`` are those of `factorize`. The exact minimum depends on what is removed from
    the weight, not on the initial A and B. Raises ValueError as `best_update` and `factorize` do.
    """
    x, y, weights = x.double(), y.double(), [w0.double()]
    span = _span(x)
    for _ in range(steps):
        # factorize expects (out, in), which is W^T here.
        factors = factorize(weights[-1].mT, rank, select=select, init=init, generator=generator)
        residual = factors.residual.mT
        a, b = _minimise(span, y - x @ residual, rank)
        weights.append(residual + a @ b)
    return weights


def _span(x: Tensor) -> _Span:
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    kept = values > max(x.shape[-2:]) * torch.finfo(x.dtype).eps * values[..., :1]
    inverses = torch.where(kept, 1 / values, 0.0)
    return _Span(left * kept.unsqueeze(-2), right.mT * inverses.unsqueeze(-2))


def _minimise(span: _Span, remainder: Tensor, rank: int) -> Update:
    """Return the best update for the remainder ``Y - X W``."""
    _check_rank(rank, span.inverse.shape[-2], remainder.shape[-1])
    # The gap in the basis of X's range, (m, p). It has the same right singular vectors; all p, as R may exceed m.
    coordinates = span.basis.mT @ remainder
    wide = coordinates.shape[-2] < coordinates.shape[-1]
    b = torch.linalg.svd(coordinates, full_matrices=wide).Vh[..., :rank, :]
    return Update(span.inverse @ (coordinates @ b.mT), b)


def _check_rank(rank: int, rows: int, columns: int) -> None:
    limit = min(rows, columns)
    if not 1 <= rank <= limit:
        raise ValueError(f"rank {rank} does not fit a {rows} x {columns} weight; it must be in 1..{limit}")
