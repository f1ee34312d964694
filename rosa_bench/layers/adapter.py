"""The base class of layers that replace a model's linear layers.

Each replaces one weight, or a stack of weights (`rosa_bench.layers.structure.linear`).
"""

from collections.abc import Iterable, Iterator
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rosa_bench.layers.storage.narrow import wide_type
from rosa_bench.layers.structure.linear import Conv1D, Convolution, Linear, make_linear


class Adapter(nn.Module):
    """A replacement for one linear layer. It remembers the layer's type and bias, and can be turned back into it.

    large   names of buffers as large as the weight. They may be sharded, or kept in the CPU's memory, so code outside
            the forward pass reads and writes them by `rosa_bench.system.tensors`
    frozen  those of them that are frozen parameters for now, because they are sharded
    fixed   names of parameters that never change
    """

    large: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[tuple[str, ...]] = ()
    frozen: tuple[str, ...] = ()
    bias: nn.Parameter | None

    def __init__(self, plain: nn.Module):  # PEFT's tuners replace other layers than linear ones too
        super().__init__()
        self.plain_type = wide_type(plain)
        self.register_parameter("bias", getattr(plain, "bias", None))  # pyrefly: ignore[bad-argument-type]

    def large_tensors(self) -> Iterable[Tensor]:
        """Return the large tensors that do not train, even if something else changes them."""
        return [getattr(self, name) for name in self.large]

    def merged_weight(self) -> Float[Tensor, "*n out in"]:
        """Return the weight of the plain layer that computes the same function."""
        raise NotImplementedError

    @property
    def weight(self) -> Float[Tensor, "..."]:
        """The merged weight as the plain layer stores it, for modules that read it, as those of T5 and Mamba do."""
        merged = self.merged_weight()
        return merged.mT if issubclass(self.plain_type, Conv1D) else merged

    def merged_bias(self) -> nn.Parameter | None:
        """Return the bias of the plain layer that computes the same function."""
        return self.bias

    @torch.no_grad()
    def to_plain(self) -> Linear | Convolution:
        """Return a layer of the original type with the same function, and so without added latency."""
        return make_linear(self.plain_type, self.merged_weight(), self.merged_bias())


def buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers of a model by name, with those that are frozen parameters for now."""
    frozen = {f"{name}.{it}".lstrip("."): getattr(layer, it) for name, layer in adapters(model) for it in layer.frozen}
    return {**dict(model.named_buffers()), **frozen}


def adapters(model: nn.Module) -> Iterator[tuple[str, Adapter]]:
    """Yield the names and adapters of ``model``, in the model's order."""
    for name, module in model.named_modules():
        if isinstance(module, Adapter):
            yield name, module
