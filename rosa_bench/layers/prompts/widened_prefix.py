"""A prefix for attention layers that do not let their attention function be replaced, such as MPNet's.

The layer's input is widened by positions at the front. Their keys and values are replaced by the trained ones, and
their outputs are dropped. A learned position bias between the prefix and the text is zero.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rosa_bench.layers.prompts.prefix import Prefix, key_shape
from rosa_bench.layers.structure.linear import weight_of
from rosa_bench.system.errors import UserError

READ = {"hidden_states", "attention_mask", "head_mask", "position_bias", "output_attentions", "kwargs"}


def check_widenable(model: nn.Module, attention: nn.Module, projections: list[nn.Module], *, method: str) -> None:
    """Raise `UserError` unless attention reads hidden states and biases alone, and has keys as `key_shape` says.

    Tables of relative positions, as DeBERTa's, and a cache of keys cannot be widened.
    """
    heads, size = key_shape(model)
    others = inspect.signature(attention.forward).parameters.keys() - READ
    if others or any(weight_of(it).shape[0] != heads * size for it in projections):  # pyrefly: ignore[bad-argument-type]
        raise UserError(
            f"method={method} is not for the {type(attention).__name__} of this model; choose another method"
        )


class WidenedPrefix(Prefix):
    """A prefix that works by hooks on an attention module and on its projections to keys and values."""

    def place(self, attention: nn.Module, *, keys: nn.Module, values: nn.Module) -> None:
        """Become the child ``prefix`` of ``attention``, whose projections are ``keys`` and ``values``."""
        self.arguments = list(inspect.signature(attention.forward).parameters)
        attention.prefix = self
        attention.register_forward_pre_hook(self.widen, with_kwargs=True)
        attention.register_forward_hook(self.narrow)
        keys.register_forward_hook(self.replace_keys)
        values.register_forward_hook(self.replace_values)

    def widen(self, _module: nn.Module, given: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Add positions to the hidden states, (batch, length, width), and to every bias of the scores.

        A bias is (batch or 1, heads or 1, queries, keys), and zero at the new positions, which makes them visible.
        """
        named = dict(zip(self.arguments, given, strict=False)) | options
        widened = {name: self._widened(value) for name, value in named.items()}
        return (), widened

    def _widened(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        added = (0, 0, self.tokens, 0) if value.ndim == 3 else (self.tokens, 0, self.tokens, 0)
        return functional.pad(value, added)

    def narrow(self, _module: nn.Module, _given: tuple, output: tuple) -> tuple:
        """Drop the outputs of the added positions."""
        return (output[0][:, self.tokens :], *output[1:])

    def replace_keys(self, _module: nn.Module, _given: tuple, output: Tensor) -> Tensor:
        """Put the trained keys at the added positions."""
        return self._replaced(output, self.keys)

    def replace_values(self, _module: nn.Module, _given: tuple, output: Tensor) -> Tensor:
        """Put the trained values at the added positions."""
        return self._replaced(output, self.values)

    def _replaced(self, output: Tensor, trained: Tensor) -> Tensor:
        rows = trained.transpose(0, 1).flatten(1).to(output.dtype)  # (tokens, heads x size)
        return torch.cat([rows.expand(len(output), -1, -1), output[:, self.tokens :]], 1)
