"""A change of a weight as exact LoRA factors, and its compression to a smaller rank."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Update(NamedTuple):
    """A change of a weight, ``a @ b``. In a LoRA adapter, ``a`` is lora_B and ``b`` is lora_A, with scale 1."""

    a: Float[Tensor, "*n out k"]
    b: Float[Tensor, "*n k in"]

    @property
    def rank(self) -> int:
        """Number of columns of ``a``, the largest rank that the product can have."""
        return self.a.shape[-1]

    def delta(self) -> Float[Tensor, "*n out in"]:
        """Return the product, in float64."""
        return self.a.double() @ self.b.double()


def concatenated(parts: list[Update]) -> Update:
    """Return the sum of the parts, whose rank is the sum of their ranks. Raises ValueError if there are none."""
    if not parts:
        raise ValueError("there is nothing to add")
    return Update(torch.cat([part.a for part in parts], -1), torch.cat([part.b for part in parts], -2))


class Compressed(NamedTuple):
    """An update of smaller rank, and the norm of what it lacks, absolutely and as a fraction of the whole update's."""

    update: Update
    frobenius: float
    relative_frobenius: float


def compress(update: Update, rank: int) -> Compressed:
    """Return the nearest update with at most ``rank`` columns, and the error in the Frobenius norm, for one weight.

    It is the truncated SVD, by Eckart, Young and Mirsky, which is nearest in the spectral norm, too. The product is not
    formed: with the QR decompositions ``a = Q R`` and ``b^T = P T``, the singular values of ``a b`` are those of the
    small core ``R T^T``. They are split evenly over both factors. It is exact, up to rounding, if ``rank`` is at least
    the true rank, as it is from min(out, in) on.

    Raises ValueError if ``rank`` is below 1, or if a factor contains NaN or Inf.
    """
    if rank < 1:
        raise ValueError(f"rank {rank} must be at least 1")
    a, b = update.a.double(), update.b.double()
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError("cannot compress an update that contains NaN or Inf")
    q, r = torch.linalg.qr(a)  # out x m, m x k
    p, t = torch.linalg.qr(b.mT)  # in x n, n x k
    left, values, right = torch.linalg.svd(r @ t.mT, full_matrices=False)
    roots = values[:rank].sqrt()
    short = Update(
        ((q @ left[:, :rank]) * roots).to(update.a.dtype).contiguous(),
        (roots.unsqueeze(-1) * (right[:rank] @ p.mT)).to(update.b.dtype).contiguous(),
    )
    lost, whole = values[rank:].norm().item(), values.norm().item()
    return Compressed(short, lost, lost / whole if whole else 0.0)
