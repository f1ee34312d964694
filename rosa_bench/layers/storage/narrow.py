"""Linear layers whose frozen weight is stored in bfloat16."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D


class NarrowLinear(nn.Linear):
    """A frozen linear layer with a bfloat16 weight. It computes in its input's type, or in autocast's.

    Only under autocast to bfloat16 the weight is used as it is. Otherwise the backward pass holds a copy of it.
    """

    wide_type = nn.Linear

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
        return functional.linear(input, _usable(self.weight, input), self.bias)


class NarrowConv1D(Conv1D):
    """GPT-2's layer with such a weight."""

    wide_type = Conv1D

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), _usable(self.weight, x))
        return y.view(*x.shape[:-1], self.nf)


NARROW: dict[type, type] = {nn.Linear: NarrowLinear, Conv1D: NarrowConv1D}


def is_narrow(plain: nn.Module) -> bool:
    """Return whether a layer's weight is stored in bfloat16, and what trains beside it is not."""
    return type(plain) in NARROW.values()


def wide_type(plain: nn.Module) -> type:
    """Return the type of layer with a float32 weight that a layer becomes when an adapter is merged into it."""
    return getattr(plain, "wide_type", type(plain))  # pyrefly: ignore[bad-return]


def _usable(weight: Tensor, x: Tensor) -> Tensor:
    return weight if torch.is_autocast_enabled(x.device.type) else weight.to(x.dtype)
