"""The bottleneck adapter: a small network with a skip connection, inserted after a module of the model."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

NONLINEARITIES = {"relu": functional.relu, "gelu": functional.gelu}


class Bottleneck(nn.Module):
    """Computes ``x + up(f(down(norm(x))))``, which is exactly x at first because ``up`` starts at zero.

    ``norm`` is a layer normalisation of the adapter's own, or nothing.

    Source: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", arXiv 1902.00751, section 2.1. They start
    both weights close to zero, with a standard deviation of 0.01; we start ``down`` at the scale of an ordinary layer.
    """

    def __init__(self, width: int, size: int, *, nonlinearity: str, own_norm: bool, like: Tensor):
        super().__init__()
        options: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        self.nonlinearity = nonlinearity
        self.norm = nn.LayerNorm(width, **options) if own_norm else nn.Identity()
        # Nothing is drawn from torch's global generator.
        self.down: nn.Linear = skip_init(nn.Linear, width, size, **options)  # pyrefly: ignore[bad-assignment]
        self.up: nn.Linear = skip_init(nn.Linear, size, width, **options)  # pyrefly: ignore[bad-assignment]

    @torch.no_grad()
    def start(self, generator: torch.Generator) -> None:
        """Set the first weights: ``down`` uniform within 1 / sqrt(width), drawn on the CPU, and all others zero."""
        bound = self.down.in_features**-0.5
        drawn = torch.rand(self.down.weight.shape, generator=generator)
        self.down.weight.copy_((2 * drawn - 1) * bound)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            parameter.zero_()

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        hidden = NONLINEARITIES[self.nonlinearity](self.down(self.norm(x)))
        return (x + self.up(hidden)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"nonlinearity={self.nonlinearity}"


def insert_after(module: nn.Module, adapter: Bottleneck) -> None:
    """Pass the output of ``module`` through ``adapter``, which becomes its child of that name.

    The module stays in its place, so all other names in the model stay the same.
    """
    module.adapter = adapter
    module.register_forward_hook(_adapted)


def _adapted(module: nn.Module, _arguments: Any, output: Any) -> Any:
    """Return the adapted output. Some blocks return their hidden states as the first of several."""
    if isinstance(output, tuple):
        return (module.adapter(output[0]), *output[1:])  # pyrefly: ignore[not-callable]
    return module.adapter(output)  # pyrefly: ignore[not-callable]


def bottlenecks(model: nn.Module) -> list[Bottleneck]:
    """Return the inserted adapters, in the model's order."""
    return [module for module in model.modules() if isinstance(module, Bottleneck)]
