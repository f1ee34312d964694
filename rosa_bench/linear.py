"""The linear layers that models are made of, with one view of them all: weights are (out, in).

GPT-2's ``Conv1D`` keeps (in, out). A `StackedLinear` keeps many weights, for models that are trained side by side.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D


class StackedLinear(nn.Module):
    """``n`` linear layers without bias, each with its own rows: (n, rows, in) -> (n, rows, out)."""

    def __init__(self, weight: Float[Tensor, "n out in"]):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None

    def forward(self, x: Float[Tensor, "n rows in"]) -> Float[Tensor, "n rows out"]:
        return torch.bmm(x, self.weight.mT)


Linear = nn.Linear | Conv1D | StackedLinear
LINEAR_TYPES = (nn.Linear, Conv1D, StackedLinear)


def weight_of(plain: Linear) -> Float[Tensor, "*n out in"]:
    """The layer's weight as (out, in)."""
    return plain.weight.mT if isinstance(plain, Conv1D) else plain.weight


def make_linear(kind: type[Linear], weight: Float[Tensor, "*n out in"], bias: nn.Parameter | None) -> Linear:
    """A layer of a kind with this weight and bias."""
    if kind is StackedLinear:
        return StackedLinear(weight)
    rows, columns = weight.shape
    with torch.device("meta"):  # nothing is allocated or drawn: both parameters are put in below
        plain = Conv1D(rows, columns) if kind is Conv1D else nn.Linear(columns, rows, bias=bias is not None)
    plain.weight = nn.Parameter(weight.mT.contiguous() if kind is Conv1D else weight)
    plain.register_parameter("bias", bias)
    return plain


def linear(
    x: Float[Tensor, "*batch in"], weight: Float[Tensor, "*n out in"], bias: Float[Tensor, " out"] | None
) -> Float[Tensor, "*batch out"]:
    """``x weight^T + bias``, for one weight, or for a stack of them without bias, each with its own rows."""
    return functional.linear(x, weight, bias) if weight.ndim == 2 else x @ weight.mT
