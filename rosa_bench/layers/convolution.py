"""The low-rank layer of LoRA and ROSA for a convolution, whose weight is seen as a matrix.

A convolution applies one matrix, (out, channels per group x kernel size), to each patch of its input. So LoRA adds a
low-rank matrix to it, and ROSA trains a part of its singular directions, exactly as in a linear layer. With groups, the
matrices of all groups are stacked, and share their row space.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rosa_bench.layers.low_rank import LowRankLinear
from rosa_bench.layers.storage.quantised import QuantisedLinear
from rosa_bench.layers.storage.quantised_low_rank import QuantisedLowRank
from rosa_bench.layers.structure.linear import CONVOLUTION_TYPES, Convolution, Linear


class LowRankConvolution(LowRankLinear):
    """``y = conv(x, residual + scale A B) + bias``, with the plain layer's stride, padding, dilation and groups.

    The weight is formed in each pass, so there is one convolution each way, of the plain layer's size. PEFT's LoRA
    makes two smaller ones beside it instead: r filters, then one of size 1.
    """

    def __init__(self, plain: Convolution, rank: int, *, scale: float = 1.0, train_b: bool = True):
        super().__init__(plain, rank, scale=scale, train_b=train_b)
        self.weight_shape = plain.weight.shape
        frame = copy.copy(plain)  # the settings alone
        frame._parameters = dict.fromkeys(plain._parameters)
        self._frame = (copy.deepcopy(frame),)  # in a tuple, so that it is not seen as a layer of the model

    @property
    def weight(self) -> Float[Tensor, "..."]:
        return self.merged_weight().view(self.weight_shape)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:  # ([batch,] channels, [height,] width)
        if self.materialised is not None:
            return self.convolve(x.to(self.materialised.dtype), self.materialised)
        with torch.autocast(x.device.type, enabled=False):  # it would round the residual before the product is added
            weight = self.merged_weight()
        return self.convolve(x, weight)

    def convolve(self, x: Tensor, weight: Float[Tensor, "out in"]) -> Tensor:
        """Apply the convolution with this weight."""
        return self._frame[0]._conv_forward(x, weight.view(self.weight_shape), self.bias)

    def weight_gradient(self, x: Tensor, dy: Tensor) -> Float[Tensor, "out in"]:
        wide = torch.promote_types(dy.dtype, torch.float32)
        weight = torch.zeros(self.shape, dtype=wide, device=x.device, requires_grad=True)  # any: y is linear in it
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            y = self._frame[0]._conv_forward(x.to(wide), weight.view(self.weight_shape), None)
        return torch.autograd.grad(y, weight, dy.to(wide))[0]

    @torch.no_grad()
    def to_plain(self) -> Convolution:
        plain = copy.deepcopy(self._frame[0])
        plain.weight = nn.Parameter(self.merged_weight().view(self.weight_shape))
        plain.register_parameter("bias", self.bias)
        return plain

    def extra_repr(self) -> str:
        return f"kernel={tuple(self.weight_shape[2:])}, {super().extra_repr()}"


def low_rank_layer(
    plain: Linear | Convolution, rank: int, *, scale: float = 1.0, train_b: bool = True
) -> LowRankLinear:
    """Return the low-rank layer that replaces a linear layer or a convolution."""
    kind = LowRankConvolution if isinstance(plain, CONVOLUTION_TYPES) else LowRankLinear
    if isinstance(plain, QuantisedLinear):
        kind = QuantisedLowRank
    return kind(plain, rank, scale=scale, train_b=train_b)  # pyrefly: ignore[bad-argument-type]
