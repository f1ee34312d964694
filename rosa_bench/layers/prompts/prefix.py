"""Trained keys and values that every query of an attention layer sees, before those of the text.

The prefix is added after the text's keys and values are cached and rotated. So a cache holds the text alone, the prefix
counts once however long the output grows, and the positions of the text stay the same.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rosa_bench.layers.structure.evaluating import evaluating
from rosa_bench.system.errors import UserError


class Prefix(nn.Module):
    """Trained keys and values of one attention layer, each (heads, tokens, head size)."""

    def __init__(self, heads: int, tokens: int, head_size: int, *, like: Tensor):
        super().__init__()
        shape = (heads, tokens, head_size)
        self.keys = nn.Parameter(torch.empty(shape, device=like.device, dtype=like.dtype))
        self.values = nn.Parameter(torch.empty(shape, device=like.device, dtype=like.dtype))

    @property
    def tokens(self) -> int:
        """The number of trained positions."""
        return self.keys.shape[1]

    @torch.no_grad()
    def start(self, generator: torch.Generator) -> None:
        """Draw standard normal keys and values on the CPU."""
        for parameter in (self.keys, self.values):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


def prefixes(model: nn.Module) -> list[Prefix]:
    """Return the inserted prefixes, in the model's order."""
    return [module for module in model.modules() if isinstance(module, Prefix)]


def key_shape(model: Any) -> tuple[int, int]:
    """Return the number of heads of the keys, which queries may share, and the size of one."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return heads, getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def dispatches(model: Any) -> bool:
    """Return whether the model's attention function can be replaced, by one that reads keys and values alone.

    Gemma 2 also caps its scores, and gpt-oss adds sinks to them.
    """
    return model._can_set_attn_implementation() and model._supports_sdpa


def check_attention(model: PreTrainedModel, attention: list[nn.Module], *, method: str) -> None:
    """Raise `UserError` unless each of these layers calls the attention function with keys as `key_shape` says.

    It is tried with a text of one token. Models on the meta device, or of anything but texts, are not checked.
    """
    token = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    if token.is_meta or model.main_input_name != "input_ids":
        return
    seen: dict[int, set[tuple[int, int]]] = {}

    def noting(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *given: Any, **options: Any) -> Any:
        seen[id(module)] = {(it.shape[1], it.shape[3]) for it in (key, value)}
        return sdpa_attention_forward(module, query, key, value, *given, **options)

    before: Any = model.config._attn_implementation
    AttentionInterface.register("noting", noting)  # pyrefly: ignore[bad-argument-type]
    AttentionMaskInterface.register("noting", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    try:
        with evaluating(model), torch.no_grad():
            model.set_attn_implementation("noting")
            model(input_ids=token)
    finally:
        model.set_attn_implementation(before)
    for layer in attention:
        if seen.get(id(layer)) != {key_shape(model)}:
            raise UserError(
                f"method={method} is not for the {type(layer).__name__} of this model, whose keys and values are of "
                "another kind; choose another method"
            )


def use_prefixes(model: PreTrainedModel) -> None:
    """Make the model's attention layers see the prefix that each has as its child ``prefix``.

    The attention function and the mask stay what they were if they are those of scaled dot-product attention;
    otherwise they become so.
    """
    inner = model.config._attn_implementation
    if ALL_ATTENTION_FUNCTIONS.get(inner) is not sdpa_attention_forward:
        inner = "sdpa"
    name = f"{inner}_with_prefix"
    AttentionInterface.register(name, attention_with_prefix)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[inner])
    model.set_attn_implementation(name)


def attention_with_prefix(
    module: nn.Module,
    query: Float[Tensor, "batch heads queries size"],
    key: Float[Tensor, "batch kv_heads keys size"],
    value: Float[Tensor, "batch kv_heads keys size"],
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend to the prefix of ``module`` and to the text. This is an attention function of transformers.

    ``attention_mask`` is (batch or 1, 1, queries, keys), boolean or added to the scores, or None: then all keys are
    visible, or in a causal layer those up to the query's position. A module without a prefix attends to the text alone:
    models that share a configuration also share the name of their attention function.
    """
    prefix: Any = getattr(module, "prefix", None)
    if prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    causal = options.pop("is_causal", None)
    causal = getattr(module, "is_causal", False) if causal is None else causal
    mask = mask_with_prefix(attention_mask, prefix.tokens, query=query, keys=key.shape[-2], causal=causal)  # pyrefly: ignore[bad-argument-type]
    key = torch.cat([prefix.keys.to(key.dtype).expand(len(key), -1, -1, -1), key], -2)
    value = torch.cat([prefix.values.to(value.dtype).expand(len(value), -1, -1, -1), value], -2)
    return sdpa_attention_forward(module, query, key, value, mask, is_causal=False, **options)


def mask_with_prefix(mask: Tensor | None, tokens: int, *, query: Tensor, keys: int, causal: bool) -> Tensor | None:
    """Return the mask over ``tokens`` visible positions and then the text, or None if every query sees everything."""
    queries = query.shape[-2]
    if mask is None:
        if not causal or queries == 1:
            return None
        return torch.ones(queries, tokens + keys, dtype=torch.bool, device=query.device).tril_(tokens)[None, None]
    visible = True if mask.dtype == torch.bool else 0.0
    if mask.stride(-2) == 0:  # the same for every query, and kept so, because it is smaller
        return functional.pad(mask[..., :1, :], (tokens, 0), value=visible).expand(-1, -1, queries, -1)
    return functional.pad(mask, (tokens, 0), value=visible)
