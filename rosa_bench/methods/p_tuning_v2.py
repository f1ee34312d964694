"""Prefix tuning of every layer: trained keys and values that each attention layer sees before those of the text.

Source: Liu et al., "P-Tuning v2: Prompt Tuning Can Be Comparable to Fine-tuning Universally Across Scales and Tasks",
arXiv 2110.07602, for encoders. For decoders it is the prefix tuning of Li and Liang, arXiv 2101.00190, without their
reparametrisation by a network. P-tuning v2 leaves that out by default too. We differ in two points: the prefix has no
dropout, and the positions of the text do not shift by the length of the prefix.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rosa_bench.methods.inserted import Inserted
from rosa_bench.system.errors import UserError
from rosa_bench.system.seeds import generator
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class PTuningV2(Inserted):
    """Trains ``tokens`` keys and values per attention layer, drawn from a standard normal distribution at first."""

    tokens: int = setting("trained positions before each text, in every layer", at_least=1, at_most=10**5)

    keeps_function: ClassVar[bool] = False

    def check_shapes(self, model: nn.Module) -> None:
        from rosa_bench.layers.prompts.prefix import check_attention, dispatches
        from rosa_bench.layers.prompts.widened_prefix import check_widenable

        attention = self._attention(model)
        if not hasattr(model, "set_attn_implementation"):
            raise UserError(f"method={self.name} is for transformers; choose one with model=, or another method")
        if model.config.is_encoder_decoder:  # pyrefly: ignore[missing-attribute]
            raise UserError(
                f"method={self.name} is not for models with an encoder and a decoder; choose another method"
            )
        if dispatches(model):
            check_attention(model, attention, method=self.name)  # pyrefly: ignore[bad-argument-type]
            return
        for layer, *projections in zip(attention, *self._projections(model), strict=True):
            check_widenable(model, layer, projections, method=self.name)

    def insert(self, model: nn.Module) -> None:
        from rosa_bench.layers.prompts.prefix import Prefix, dispatches, key_shape, use_prefixes
        from rosa_bench.layers.prompts.widened_prefix import WidenedPrefix

        draws, like = generator(self.seed, "prefix"), next(model.parameters())
        replaceable = dispatches(model)
        kind, (heads, size) = Prefix if replaceable else WidenedPrefix, key_shape(model)
        made = [kind(heads, self.tokens, size, like=like) for _ in self._attention(model)]
        for prefix in made:
            prefix.start(draws)
        if replaceable:
            for attention, prefix in zip(self._attention(model), made, strict=True):
                attention.prefix = prefix
            use_prefixes(model)  # pyrefly: ignore[bad-argument-type] - it has a transformers configuration
            return
        keys, values = self._projections(model)
        for attention, key, value, prefix in zip(self._attention(model), keys, values, made, strict=True):
            assert isinstance(prefix, WidenedPrefix)
            prefix.place(attention, keys=key, values=value)

    def inserted(self, model: nn.Module) -> Iterable[nn.Parameter]:
        from rosa_bench.layers.prompts.prefix import prefixes

        for prefix in prefixes(model):
            yield from prefix.parameters()

    def _attention(self, model: nn.Module) -> list[nn.Module]:
        from rosa_bench.layers.structure.parts import modules_of

        return modules_of(model, self.parts, "attention", method=self.name)

    def _projections(self, model: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
        """Return the projections to keys and to values."""
        from rosa_bench.layers.structure.parts import modules_of

        keys, values = (modules_of(model, self.parts, part, method=self.name) for part in ("keys", "values"))
        return keys, values
