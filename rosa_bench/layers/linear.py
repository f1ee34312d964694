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


class SplitLinear(nn.Module):
    """A linear layer as several that read the same input: each gives a block of its outputs, all of one size.

    GPT-2 holds the projections to queries, keys and values in one matrix, which adapters see as one; so, they see
    three.
    """

    def __init__(self, plain: "nn.Linear | Conv1D", count: int):
        super().__init__()
        weights = weight_of(plain).detach().chunk(count)
        biases = [None] * count if plain.bias is None else plain.bias.detach().chunk(count)
        self.blocks = nn.ModuleList(
            make_linear(type(plain), weight.clone(), None if bias is None else nn.Parameter(bias.clone()))
            for weight, bias in zip(weights, biases, strict=True)
        )

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        return torch.cat([block(x) for block in self.blocks], -1)

    @torch.no_grad()
    def joined(self) -> "nn.Linear | Conv1D":
        """The layer that it was made of, as it is now."""
        blocks: list[nn.Linear | Conv1D] = list(self.blocks)  # pyright: ignore[reportAssignmentType]
        biases: list[Tensor] = [block.bias for block in blocks if block.bias is not None]
        bias = nn.Parameter(torch.cat(biases)) if biases else None
        return make_linear(type(blocks[0]), torch.cat([weight_of(block) for block in blocks]), bias)  # pyright: ignore[reportReturnType]


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
