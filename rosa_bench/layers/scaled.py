"""The layer of (IA)^3: a linear layer with a trained scaling vector.

It replaces one weight, or a stack of weights (`rosa_bench.layers.structure.linear`).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rosa_bench.layers.adapter import Adapter
from rosa_bench.layers.structure.linear import Linear, linear, weight_of


class ScaledLinear(Adapter):
    """A frozen linear layer whose input or output is multiplied by a trained vector, as in (IA)^3.

    The output is scaled after the bias is added, because the authors of (IA)^3 scale activations.

    Source: Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
    arXiv 2205.05638, section 3.3.
    """

    unscaled: Float[Tensor, "*n out in"]

    def __init__(self, plain: Linear, *, side: str):
        super().__init__(plain)
        weight = weight_of(plain).detach()
        self.side = side
        self.register_buffer("unscaled", weight.contiguous())
        *stack, rows, columns = weight.shape
        self.factor = nn.Parameter(weight.new_ones(*stack, columns if side == "input" else rows))

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        factor = self.factor if self.unscaled.ndim == 2 else self.factor.unsqueeze(-2)
        if self.side == "input":
            return linear(x * factor, self.unscaled, self.bias)
        y = linear(x, self.unscaled, self.bias)
        return (y * factor).to(y.dtype)  # under autocast, multiplying two types gives the wider one

    def merged_weight(self) -> Float[Tensor, "*n out in"]:
        return self.unscaled * self.factor.unsqueeze(-2 if self.side == "input" else -1)

    @torch.no_grad()
    def merged_bias(self) -> nn.Parameter | None:
        if self.bias is None or self.side == "input":
            return self.bias
        return nn.Parameter(self.bias * self.factor)

    def extra_repr(self) -> str:
        *_, rows, columns = self.unscaled.shape
        return f"in={columns}, out={rows}, side={self.side}, bias={self.bias is not None}"
