"""The layers that methods put in the place of a model's linear ones, and the putting.

Each stands in for one weight, or for a stack of them (`rosa_bench.layers.linear`).
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rosa_bench.layers.linear import Linear, make_linear


class Adapter(nn.Module):
    """What stands in for one linear layer: it keeps the layer's kind and bias, and can become it again."""

    bias: nn.Parameter | None

    def __init__(self, plain: Linear):
        super().__init__()
        self.plain_type = type(plain)
        self.register_parameter("bias", plain.bias)

    def merged_weight(self) -> Float[Tensor, "*n out in"]:
        """The weight of the plain layer that computes the same function."""
        raise NotImplementedError

    def merged_bias(self) -> nn.Parameter | None:
        """The bias of the plain layer that computes the same function."""
        return self.bias

    @torch.no_grad()
    def to_plain(self) -> Linear:
        """A layer of the original kind with the same function, and so with no added latency."""
        return make_linear(self.plain_type, self.merged_weight(), self.merged_bias())


def adapters(model: nn.Module) -> Iterator[tuple[str, Adapter]]:
    """The adapters of ``model`` with their names, in the model's own order."""
    for name, module in model.named_modules():
        if isinstance(module, Adapter):
            yield name, module
