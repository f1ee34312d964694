"""The types of linear layer in our models, all seen with weights as (out, in).

GPT-2's ``Conv1D`` stores (in, out). A `StackedLinear` stores many weights, for models that are trained side by side. A
convolution (`rosa_bench.layers.convolution`) is seen as the matrix that it applies to each patch of its input.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D


class StackedLinear(nn.Module):
    """``n`` linear layers without bias, each applied to its own rows: (n, rows, in) -> (n, rows, out)."""

    def __init__(self, weight: Float[Tensor, "n out in"]):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None

    def forward(self, x: Float[Tensor, "n rows in"]) -> Float[Tensor, "n rows out"]:
        return torch.bmm(x, self.weight.mT)


class SplitLinear(nn.Module):
    """A linear layer split into several that read the same input. Each computes one block of outputs, of equal size.

    GPT-2 stores the query, key and value projections in one matrix. Splitting it lets each have its own adapter.
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
        """Join the blocks, as they are now, into one layer again."""
        blocks: list[nn.Linear | Conv1D] = list(self.blocks)  # pyrefly: ignore[bad-assignment]
        biases: list[Tensor] = [block.bias for block in blocks if block.bias is not None]
        bias = nn.Parameter(torch.cat(biases)) if biases else None
        return make_linear(type(blocks[0]), torch.cat([weight_of(block) for block in blocks]), bias)  # pyrefly: ignore[bad-return]


Linear = nn.Linear | Conv1D | StackedLinear
LINEAR_TYPES = (nn.Linear, Conv1D, StackedLinear)
Convolution = nn.Conv1d | nn.Conv2d
CONVOLUTION_TYPES = (nn.Conv1d, nn.Conv2d)


def weight_of(plain: Linear | Convolution) -> Float[Tensor, "*n out in"]:
    """Return the layer's weight as (out, in). A convolution's ``in`` is channels per group times kernel size."""
    if isinstance(plain, CONVOLUTION_TYPES):
        return plain.weight.flatten(1)
    return plain.weight.mT if isinstance(plain, Conv1D) else plain.weight


def make_linear(kind: type[Linear], weight: Float[Tensor, "*n out in"], bias: nn.Parameter | None) -> Linear:
    """Make a layer of type ``kind`` with this weight and bias."""
    if kind is StackedLinear:
        return StackedLinear(weight)
    rows, columns = weight.shape
    plain: nn.Linear | Conv1D = kind.__new__(kind)  # pyrefly: ignore[bad-argument-type, bad-assignment]
    with torch.device("meta"):  # allocate and initialise nothing: both parameters are set below
        if isinstance(plain, Conv1D):  # a subclass may have an ``__init__`` that takes other arguments
            Conv1D.__init__(plain, rows, columns)
        else:
            nn.Linear.__init__(plain, columns, rows)
    plain.weight = nn.Parameter(weight.mT.contiguous() if isinstance(plain, Conv1D) else weight)
    plain.register_parameter("bias", bias)
    return plain


def peculiarity(plain: Linear | Convolution) -> str | None:
    """Say why a layer may compute anything else than a plain one with its weight and bias; None if it does not."""
    ours = hasattr(plain, "wide_type")
    if not ours and plain._parameters.get("weight") is None:
        return "its weight is computed in each pass, as by weight normalisation; make it a parameter first"
    if "forward" in vars(plain) or plain._forward_hooks or plain._forward_pre_hooks:
        return "it has hooks, which would be lost; remove them, and add them again after attaching"
    if ours:
        return None
    base = next(kind for kind in (*LINEAR_TYPES, *CONVOLUTION_TYPES) if isinstance(plain, kind))
    own = type(plain).forward is not base.forward
    if plain._parameters.keys() - {"weight", "bias"} or (own and not (base is nn.Linear and _is_affine(plain))):
        return f"its class, {type(plain).__name__}, computes more than {base.__name__} does"
    return None


@torch.no_grad()
def _is_affine(plain: nn.Module) -> bool:
    """Return whether a forward pass of its own computes what ``nn.Linear`` does, as Falcon's layers do."""
    weight: Tensor = plain.weight  # pyrefly: ignore[bad-assignment]
    if weight.is_meta:  # nothing can be computed, only shapes
        return True
    x = torch.linspace(-1, 1, 2 * weight.shape[1], device=weight.device).view(2, -1).to(weight.dtype)
    try:
        found = plain(x)
    except (TypeError, ValueError, RuntimeError):  # it takes something else than rows of numbers
        return False
    expected = functional.linear(x, weight, plain.bias)  # pyrefly: ignore[bad-argument-type]
    alike = isinstance(found, Tensor) and found.shape == expected.shape
    return alike and torch.allclose(found.float(), expected.float(), rtol=1e-2, atol=1e-3)


def as_linear(plain: Linear) -> Linear:
    """Return an ``nn.Linear`` with the weight and bias of a ``Conv1D``, or any other layer as it is."""
    if not isinstance(plain, Conv1D):
        return plain
    return make_linear(nn.Linear, plain.weight.detach().mT.contiguous(), plain.bias)


def linear(
    x: Float[Tensor, "*batch in"], weight: Float[Tensor, "*n out in"], bias: Float[Tensor, " out"] | None
) -> Float[Tensor, "*batch out"]:
    """Return ``x weight^T + bias`` for one weight, or for a stack whose weights have their own rows and no bias."""
    return functional.linear(x, weight, bias) if weight.ndim == 2 else x @ weight.mT
