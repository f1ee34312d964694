"""A layer with a tuner layer of Hugging Face PEFT around it, as an adapter like our own."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rosa_bench.layers.adapter import Adapter
from rosa_bench.layers.structure.linear import LINEAR_TYPES, Conv1D, make_linear, weight_of


class Tuned(Adapter):
    """Computes with ``tuned``, PEFT's layer, until it is merged.

    plain_type  type of the model's own layer. PEFT's layer may be built on an ``nn.Linear`` in place of a ``Conv1D``
    trained     names of the parameters of ``tuned`` that PEFT trains
    moved       whether attaching has changed the frozen weight, as a start from its singular vectors does
    """

    def __init__(self, tuned: nn.Module, plain_type: type, *, before: Tensor | None = None):
        base: nn.Module = tuned.get_base_layer()  # pyrefly: ignore[not-callable]
        super().__init__(base)
        self.plain_type = plain_type
        self.tuned = tuned
        self.trained = tuple(name for name, parameter in tuned.named_parameters() if parameter.requires_grad)
        weight: Tensor = base.weight  # pyrefly: ignore[bad-assignment]
        self.moved = before is not None and not weight.is_meta and not torch.equal(before, weight)

    def forward(self, *inputs: Tensor, **options: Tensor) -> Tensor:
        return self.tuned(*inputs, **options)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Leave the bias to PEFT's layer, which holds it too: a safetensors file refuses one tensor by two names."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.pop(f"{prefix}bias", None)

    def _load_from_state_dict(self, state_dict: Any, prefix: Any, *args: Any, **kwargs: Any) -> None:
        """Do not miss the bias, which is not saved."""
        bias = self._parameters.pop("bias")
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.register_parameter("bias", bias)

    @property
    def plain_bias(self) -> nn.Parameter | None:
        """The bias of a linear layer; other layers' belong to what PEFT tunes."""
        return self.bias if self.plain_type in LINEAR_TYPES else None

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of PEFT's layer that train."""
        return [self.tuned.get_parameter(name) for name in self.trained]

    def frozen_parameters(self) -> dict[str, nn.Parameter]:
        """Return the other parameters that attaching made or changed, by name: all but the model's own."""
        base = self.tuned.get_base_layer()  # pyrefly: ignore[not-callable]
        own = {id(parameter) for parameter in ([base.bias] if self.moved else base.parameters())}
        return {
            f"tuned.{name}": parameter
            for name, parameter in self.tuned.named_parameters()
            if name not in self.trained and id(parameter) not in own
        }

    def large_tensors(self) -> Iterable[Tensor]:
        """Return the model's own weight, which nothing but attaching changes."""
        return [self.tuned.get_base_layer().weight]  # pyrefly: ignore[not-callable, bad-return]

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        """What the layer does to unit vectors: PEFT can merge only once, and without a gradient."""
        if self.plain_type not in LINEAR_TYPES:
            raise AttributeError(f"the weight of {self.plain_type.__name__} is PEFT's own")
        base = self.tuned.get_base_layer()  # pyrefly: ignore[not-callable]
        columns = self.tuned(torch.eye(base.in_features, dtype=base.weight.dtype, device=base.weight.device))
        columns = columns if base.bias is None else columns - base.bias
        return columns if issubclass(self.plain_type, Conv1D) else columns.mT

    def merged_weight(self) -> Float[Tensor, "*n out in"]:
        return weight_of(copy.deepcopy(self)._merged())  # pyrefly: ignore[bad-argument-type]

    @torch.no_grad()
    def to_plain(self) -> nn.Module:  # pyrefly: ignore[bad-override] - PEFT tunes other layers too
        """Merge, and return a layer of the original type. This layer cannot be used any more."""
        base = self._merged()
        if self.plain_type not in LINEAR_TYPES:
            return base
        return make_linear(self.plain_type, weight_of(base).detach(), base.bias)  # pyrefly: ignore[bad-argument-type]

    @torch.no_grad()
    def _merged(self) -> nn.Module:
        self.tuned.merge()  # pyrefly: ignore[not-callable]
        return self.tuned.get_base_layer()  # pyrefly: ignore[not-callable]
