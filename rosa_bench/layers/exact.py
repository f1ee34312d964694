"""The total update of an adapted layer as exact LoRA factors, and their compression to a smaller rank.

LoRA's update is the product of its factors. A method that merges and draws again changes the weight outside the factors
too: each merge adds the trained product, and each split along the weight's own directions takes the drawn product away.
`Past` keeps these products as factors, so the update never has to be found by an SVD of a difference of weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from rosa_bench.layers.low_rank import LowRankLinear


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


class Past:
    """What merges have added to a weight, and splits have taken from it, as factors on the CPU, in float32 or wider."""

    def __init__(self) -> None:
        self.parts: list[Update] = []

    def add(self, a: Float[Tensor, "*n out k"], b: Float[Tensor, "*n k in"], scale: float = 1.0) -> None:
        """Note that the weight has changed by ``scale * a @ b`` outside its factors.

        If ``b`` is the same as the last time, as with a factor that does not train, the two parts become one, so the
        rank does not grow. A part that is zero is left out, such as a subspace that was drawn and did not train.
        """
        a, b = (tensor.detach().to("cpu", torch.promote_types(tensor.dtype, torch.float32)) for tensor in (a, b))
        a, b = scale * a, b.clone()
        if self.parts and torch.equal(self.parts[-1].b, b):
            a = self.parts.pop().a + a
        if a.any():
            self.parts.append(Update(a, b))

    def subtract(self, a: Float[Tensor, "*n out k"], b: Float[Tensor, "*n k in"], scale: float = 1.0) -> None:
        """Note that ``scale * a @ b`` has been taken from the weight outside its factors."""
        self.add(a, b, -scale)


def concatenated(parts: list[Update]) -> Update:
    """Return the sum of the parts, whose rank is the sum of their ranks. Raises ValueError if there are none."""
    if not parts:
        raise ValueError("there is nothing to add")
    return Update(torch.cat([part.a for part in parts], -1), torch.cat([part.b for part in parts], -2))


def exact_update(past: Past, a: Float[Tensor, "*n out r"], b: Float[Tensor, "*n r in"], scale: float = 1.0) -> Update:
    """Return the sum of the past and of the current factors, ``scale * a @ b``, on the CPU; the current come first.

    With ROSA's split after k resamples, the rank is 2 r (k + 1): the first k + 1 parts were drawn and taken from the
    weight, k were trained and merged, and one is the current. It is r (k + 1) if ``b`` does not train, or if a draw
    takes nothing from the weight, as in ReLoRA.
    """
    # The same rules as for the past: in a layer whose b never trains, the current factors join the last part.
    whole = Past()
    whole.parts = list(past.parts)
    whole.add(a, b, scale)
    if not whole.parts:
        whole.parts.append(Update(torch.zeros_like(a.detach(), device="cpu"), b.detach().cpu()))
    return concatenated([whole.parts[-1], *whole.parts[:-1]])


def total_update(layer: LowRankLinear) -> Update:
    """Return ``W_now - W_start`` of a layer as exact factors, on the CPU. ``W_start`` is the weight when it was made.

    Raises ValueError if the layer's past was not kept (``keep_past`` of the method), because then it is unknown.
    """
    if layer.past is None:
        raise ValueError("this layer's past was not kept, so its update is not known as factors")
    return exact_update(layer.past, layer.a, layer.b, layer.scale)


class Compressed(NamedTuple):
    """An update of smaller rank, and what is missing from it, absolutely and as a fraction of the whole update."""

    update: Update
    frobenius: float
    spectral: float
    relative_frobenius: float
    relative_spectral: float


def compress(update: Update, rank: int) -> Compressed:
    """Return the nearest update with at most ``rank`` columns, in both norms, and the error, for one weight.

    It is the truncated SVD, by Eckart, Young and Mirsky. The product is not formed: with the QR decompositions
    ``a = Q R`` and ``b^T = P T``, the singular values of ``a b`` are those of the small core ``R T^T``. The singular
    values are split evenly over both factors. It is exact, up to rounding, if ``rank`` is at least the true rank, as it
    is from min(out, in) on.

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
    kept, lost = values[:rank], values[rank:]
    roots = kept.sqrt()
    short = Update(
        ((q @ left[:, :rank]) * roots).to(update.a.dtype).contiguous(),
        (roots.unsqueeze(-1) * (right[:rank] @ p.mT)).to(update.b.dtype).contiguous(),
    )
    frobenius, spectral = lost.norm().item(), lost.max().item() if lost.numel() else 0.0
    whole, largest = values.norm().item(), values.max().item()
    return Compressed(
        short, frobenius, spectral, frobenius / whole if whole else 0.0, spectral / largest if largest else 0.0
    )
