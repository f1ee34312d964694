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
