"""Virtual tokens: trained vectors before the text, as the input of a transformer or as keys and values of every layer.

An encoder of Hugging Face PEFT makes them again in each forward pass. The model is not wrapped: hooks on its body
change what the body reads. So a decoder's labels, its logits and transformers' ``generate`` see only the text.
"""

import inspect
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from rosa_bench.layers.structure.parts import output_layer
from rosa_bench.system.errors import UserError

CACHES = ("cache", "past_key_values")  # what transformers calls it, newest first
NAME = "virtual_tokens"  # of the model's child
BY_TOKEN = ("ForQuestionAnswering", "ForTokenClassification")  # ends of the names of transformers' classes


class VirtualTokens(nn.Module):
    """``tokens`` vectors at positions 0 to tokens - 1. The text's positions begin after them.

    room  number of tokens of text that fit into the model's positions
    """

    cached = True  # whether a cache of keys and values holds the vectors before those of the text

    def __init__(self, encoder: nn.Module, tokens: int, *, room: int):
        super().__init__()
        self.encoder, self.tokens, self.room = encoder, tokens, room

    def join(self, model: nn.Module) -> None:
        """Become part of a transformer, under the name `NAME`."""
        reader = self.reader(model)
        self.arguments = tuple(inspect.signature(reader.forward).parameters)
        model.add_module(NAME, self)
        reader.register_forward_pre_hook(self.before, with_kwargs=True)

    def reader(self, model: nn.Module) -> nn.Module:
        """Return the module whose arguments change."""
        return body_of(model)

    def vectors(self) -> Float[Tensor, "tokens width"]:
        """Return what PEFT's encoder makes of its tokens."""
        parameter = next(self.encoder.parameters())
        return self.encoder(torch.arange(self.tokens, device=parameter.device)[None])[0]

    def before(self, body: nn.Module, arguments: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Change the arguments of the body's forward pass."""
        given = {**dict(zip(self.arguments, arguments, strict=False)), **options}
        cache = next((given[name] for name in CACHES if given.get(name) is not None), None)
        earlier = 0 if cache is None else cache.get_seq_length()
        length = _text(given).shape[1]
        before = max(0, earlier - self.tokens) if self.cached else earlier
        if before + length > self.room:
            raise UserError(
                f"{self.tokens} vectors and a text of {before + length} tokens exceed the model's "
                f"{self.room + self.tokens} positions; use max_length={self.room} or fewer method.tokens"
            )
        self.place(body, given, earlier=earlier)
        return (), given

    def place(self, body: nn.Module, given: dict[str, Any], *, earlier: int) -> None:
        """Change the arguments, by name. ``earlier`` is the number of positions that are cached."""
        raise NotImplementedError


class InputTokens(VirtualTokens):
    """Vectors before the embedded text.

    cut  whether the body's outputs are those of the text alone, as `reads_text` says
    """

    def __init__(self, encoder: nn.Module, tokens: int, *, room: int, cut: bool):
        super().__init__(encoder, tokens, room=room)
        self.cut = cut
        self.placed = False

    def join(self, model: nn.Module) -> None:
        super().join(model)
        if self.cut:  # before other hooks, which may choose positions of the text
            body_of(model).register_forward_hook(self.after, prepend=True)

    def reader(self, model: nn.Module) -> nn.Module:
        """Return the body; the whole model if its head reads the vectors' outputs, too, and so may read their mask."""
        return super().reader(model) if self.cut else model

    def place(self, body: nn.Module, given: dict[str, Any], *, earlier: int) -> None:
        self.placed = earlier == 0
        mask, positions, types = (given.get(name) for name in ("attention_mask", "position_ids", "token_type_ids"))
        if mask is not None:
            given["attention_mask"] = functional.pad(mask, (self.tokens, 0), value=1)
        if positions is not None:
            positions = positions + self.tokens
        if self.placed:
            text = _text(given)
            if text.ndim == 2:
                text: Tensor = body.get_input_embeddings()(text)  # pyrefly: ignore[not-callable]
            given["input_ids"] = None
            vectors = self.vectors().to(text.dtype).expand(len(text), -1, -1)
            given["inputs_embeds"] = torch.cat([vectors, text], 1)
            if positions is not None:
                first = torch.arange(self.tokens, device=positions.device)
                positions = torch.cat([first.expand(*positions.shape[:-1], -1), positions], -1)
            if types is not None:
                given["token_type_ids"] = functional.pad(types, (self.tokens, 0))
        if positions is not None:
            given["position_ids"] = positions

    def after(self, _body: nn.Module, _arguments: tuple, output: Any) -> Any:
        """Drop the outputs at the vectors' positions."""
        if self.placed:
            output.last_hidden_state = output.last_hidden_state[:, self.tokens :]
        return output


class LayerTokens(nn.Module):
    """The keys and values of one attention layer, as `rosa_bench.layers.prompts.prefix` reads them."""

    def __init__(self, every: "KeyValueTokens", layer: int):
        super().__init__()
        self.every = (every,)  # not a child: it belongs to the model
        self.layer = layer

    @property
    def tokens(self) -> int:
        return self.every[0].tokens

    @property
    def keys(self) -> Float[Tensor, "heads tokens size"]:
        return self.every[0].made[2 * self.layer]

    @property
    def values(self) -> Float[Tensor, "heads tokens size"]:
        return self.every[0].made[2 * self.layer + 1]


class KeyValueTokens(VirtualTokens):
    """Keys and values before those of the text, of ``layers`` layers with ``heads`` heads of keys.

    made  those of the latest forward pass, (2 layers, heads, tokens, size). They stay until the next, because gradient
          checkpointing reads them again in the backward pass
    """

    cached = False  # they are added after the cache is read
    made: Tensor

    def __init__(self, encoder: nn.Module, tokens: int, *, room: int, layers: int, heads: int):
        super().__init__(encoder, tokens, room=room)
        self.layers, self.heads = layers, heads

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to one pass: tensors of a graph cannot be copied."""
        return {name: value for name, value in self.__dict__.items() if name != "made"}

    def place(self, body: nn.Module, given: dict[str, Any], *, earlier: int) -> None:  # noqa: ARG002 - as in the base
        vectors = self.vectors().view(self.tokens, 2 * self.layers, self.heads, -1)
        self.made = vectors.permute(1, 2, 0, 3)
        positions = given.get("position_ids")
        if positions is None:
            text = _text(given)
            positions = torch.arange(earlier, earlier + text.shape[1], device=text.device)[None]
        given["position_ids"] = positions + self.tokens


def body_of(model: Any) -> nn.Module:
    """Return the innermost transformer that embeds the text: a language model may call it past its ``base_model``."""
    embeddings, body = model.get_input_embeddings(), model.base_model
    for module in body.modules():
        if isinstance(module, PreTrainedModel) and any(it is embeddings for it in module.modules()):
            body = module
    return body


def reads_text(model: nn.Module) -> bool:
    """Return whether a model's head reads the outputs at the text's own positions.

    It does if it has an output for each token, and if attention is causal, because a classifier then reads the last
    token. Other heads read the first position, which is the first vector, or all of them.
    """
    by_token = type(model).__name__.endswith(BY_TOKEN) or output_layer(model) is not None
    kind = type(model.config)
    written = kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING  # not all layers say so
    return by_token or written or any(getattr(module, "is_causal", False) is True for module in model.modules())


def _text(given: dict[str, Any]) -> Tensor:
    """Return the tokens, (rows, length), or their embeddings, (rows, length, width)."""
    return given["input_ids"] if given.get("inputs_embeds") is None else given["inputs_embeds"]
