"""What ROSA's draws have done to a weight in PEFT, as factors: an adapter's file holds the update with all of its past.

LoRA's update is the product of its factors. ROSA also changes the weight outside the factors: each merge adds the
trained product, and each split along the weight's own directions takes the drawn product away. `Past` keeps these
products as factors, so the update never has to be found by an SVD of a difference of weights.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from rosa_bench.layers.exact import Update, concatenated


class Past:
    """What merges have added to a weight, and splits have taken from it, as factors on the CPU, in float32 or wider."""

    def __init__(self) -> None:
        self.parts: list[Update] = []

    def add(self, a: Float[Tensor, "out k"], b: Float[Tensor, "k in"]) -> None:
        """Note that the weight has changed by ``a @ b`` outside its factors.

        If ``b`` is the same as the last time, as with a factor that does not train, the two parts become one, so the
        rank does not grow. A part that is zero is left out, such as a subspace that was drawn and did not train.
        """
        a, b = (it.detach().to("cpu", torch.promote_types(it.dtype, torch.float32), copy=True) for it in (a, b))
        if self.parts and torch.equal(self.parts[-1].b, b):
            a = self.parts.pop().a + a
        if a.any():
            self.parts.append(Update(a, b))

    def subtract(self, a: Float[Tensor, "out k"], b: Float[Tensor, "k in"]) -> None:
        """Note that ``a @ b`` has been taken from the weight outside its factors."""
        self.add(-a.detach(), b)


def exact_update(past: Past, a: Float[Tensor, "out r"], b: Float[Tensor, "r in"]) -> Update:
    """Return the sum of the past and of the current factors, ``a @ b``, on the CPU; the current come first.

    After k resamples the rank is 2 r (k + 1): k + 1 parts were drawn and taken from the weight, k were trained and
    merged, and one is the current. It is r (k + 1) if ``b`` does not train.
    """
    # The same rules as for the past: in a layer whose b never trains, the current factors join the last part.
    whole = Past()
    whole.parts = list(past.parts)
    whole.add(a, b)
    if not whole.parts:
        whole.parts.append(Update(torch.zeros_like(a.detach(), device="cpu"), b.detach().cpu()))
    return concatenated([whole.parts[-1], *whole.parts[:-1]])
