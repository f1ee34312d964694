"""The low-rank layer over a weight in 8 or 4 bits, which no draw changes.

A draw adds what was trained to the residual. Written into 4 bits, most of that would be lost. So the weight stays as it
is, and what earlier draws have added stays beside it as a chain of factors. A period that began with A0 B0 taken from
the weight and ends with A B has added ``A B - A0 B0 = (A - A0) B + A0 (B - B0)``: 2 r columns, or r if B does not train
or nothing was taken. Both terms are zero at a draw and small afterwards, so bfloat16 products lose little of them.

The chain is made in its full width before training, and filled in place, so captured graphs and compiled code stay
valid. A draw takes 8 r (out + in) bytes of it on the device.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from rosa_bench.layers.exact import Update, concatenated
from rosa_bench.layers.low_rank import EVERY, LowRankLinear
from rosa_bench.layers.storage.quantised import Quantised, QuantisedLinear, quantised_linear
from rosa_bench.layers.structure.linear import Convolution, Linear
from rosa_bench.lowrank import Factors, merge


class QuantisedLowRank(LowRankLinear):
    """``y = x (Q + chain + scale (A B - A0 B0))^T + bias``, with float32 factors beside the stored weight Q.

    a_taken, b_taken  A0 and B0, which the latest draws took from the weight; None if draws take nothing
    chain_a, chain_b  what earlier periods have added, (out, k) and (k, in), of which the first ``used`` are filled
    """

    large = ()
    fixed = ("stored.codes", "stored.scales")
    stackable = False
    stored: Quantised
    a_taken: Tensor | None
    b_taken: Tensor | None
    chain_a: Tensor | None
    chain_b: Tensor | None
    used: Tensor

    def hold(self, plain: Linear | Convolution, weight: Tensor) -> None:  # noqa: ARG002 - part of the contract
        assert isinstance(plain, QuantisedLinear)
        self.stored = plain.stored
        for name in ("a_taken", "b_taken", "chain_a", "chain_b"):
            self.register_buffer(name, None)
        self.register_buffer("used", torch.zeros((), dtype=torch.int64))

    @property
    def shape(self) -> torch.Size:
        return self.stored.shape

    def keep_remainder(self) -> None:
        """Do nothing: no draw writes into the stored weight."""

    def reserve(self, directions: int) -> None:
        if not directions:
            return
        count = directions * (2 if self.train_b and self.a_taken is not None else 1)
        rows, columns = self.shape
        self.chain_a, self.chain_b = self.a.new_zeros(rows, count), self.a.new_zeros(count, columns)

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        y = quantised_linear(x, self.stored, self.bias, self.chain_a, self.chain_b)
        left, right = self._added()
        return torch.add(y, functional.linear(functional.linear(x, right), left), alpha=self.scale)

    def exact_residual(self) -> Float[Tensor, "out in"]:
        weight = self.stored.dequantised(self.a.device)
        if self.chain_a is not None and self.chain_b is not None:
            weight = merge(weight, self.chain_a, self.chain_b)
        if self.a_taken is not None and self.b_taken is not None:
            weight = merge(weight, self.a_taken, self.b_taken, -self.scale)
        return weight

    @torch.no_grad()
    def redraw(self, new: Factors, which: slice = EVERY, *, taken: bool) -> None:
        self._absorb(which)
        self.a[..., which].copy_(new.a)
        self.b[..., which, :].copy_(new.b)
        if taken:
            if self.a_taken is None or self.b_taken is None:
                self.a_taken, self.b_taken = torch.zeros_like(self.a), torch.zeros_like(self.b)
            self.a_taken[..., which].copy_(new.a)
            self.b_taken[..., which, :].copy_(new.b)

    def update_since(self, plain: Float[Tensor, "out in"]) -> Update:  # noqa: ARG002 - part of the contract
        left, right = (tensor.detach().cpu() for tensor in self._added())
        parts, used = [Update(self.scale * left, right)], int(self.used)
        if self.chain_a is not None and self.chain_b is not None and used:
            parts.append(Update(self.chain_a[:, :used].cpu(), self.chain_b[:used].cpu()))
        return concatenated(parts)

    def _added(self, which: slice = EVERY) -> tuple[Float[Tensor, "out k"], Float[Tensor, "k in"]]:
        """Return what training has added since the last draw, over ``scale``, as two factors."""
        a, b = self.a[:, which], self.b[which]
        if self.a_taken is None or self.b_taken is None:
            return a, b
        a_taken, b_taken = self.a_taken[:, which], self.b_taken[which]
        if not self.train_b:
            return a - a_taken, b
        return torch.cat([a - a_taken, a_taken], 1), torch.cat([b, b - b_taken])

    def _absorb(self, which: slice) -> None:
        """Move what training has added to the chain. What has not trained, as at the first draw, takes no place."""
        left, right = self._added(which)
        if not left.any() if self.a_taken is None else self._untrained(which):
            return
        start = int(self.used)
        end = start + left.shape[1]
        if self.chain_a is None or self.chain_b is None or end > self.chain_a.shape[1]:
            raise ValueError("no place is reserved for this draw; call the method's before_training first")
        self.chain_a[:, start:end].copy_(self.scale * left)
        self.chain_b[start:end].copy_(right)
        self.used.fill_(end)

    def _untrained(self, which: slice) -> bool:
        assert self.a_taken is not None and self.b_taken is not None
        same_a = torch.equal(self.a[:, which], self.a_taken[:, which])
        return same_a and torch.equal(self.b[which], self.b_taken[which])
