"""Methods of Hugging Face PEFT that train virtual tokens before the text, and leave the model itself frozen.

Sources: Liu et al., "GPT Understands, Too" (P-tuning), arXiv 2103.10385. Li and Liang, "Prefix-Tuning: Optimizing
Continuous Prompts for Generation", arXiv 2101.00190. Lester et al., "The Power of Scale for Parameter-Efficient Prompt
Tuning", arXiv 2104.08691. PEFT implements the encoders, which make the vectors.

We differ from PEFT in three points. The model is not wrapped (`rosa_bench.layers.prompts.virtual_tokens`), so
transformers' generation works with these methods too. The first token of a text has no loss, as under every other
method; PEFT lets the last vector predict it. Dropout in an encoder is the same for all rows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rosa_bench.methods.base import Method
from rosa_bench.methods.peft.behaviour import TOKEN_TYPES
from rosa_bench.methods.peft.config import checked_config, configuration, refused_in_one_line, tuner_class
from rosa_bench.methods.peft.tuner import drawing, require_peft
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from pathlib import Path

    from peft import PeftConfig
    from torch import nn

    from rosa_bench.layers.prompts.virtual_tokens import VirtualTokens

# What the model and our settings decide.
OURS = ("num_virtual_tokens", "num_transformer_submodules", "token_dim", "num_attention_heads", "num_layers")
SIZES = ("encoder_hidden_size", "encoder_num_layers")


@dataclass(frozen=True, kw_only=True)
class VirtualTokenMethod(Method):
    """Trains ``tokens`` vectors before each text, and the head if the protocol says so. Cannot be merged."""

    tokens: int = setting("trained vectors before each text", at_least=1, at_most=10**5)
    train_head: bool = setting("whether the task's head trains too")

    keeps_function: ClassVar[bool] = False
    mergeable: ClassVar[bool] = False
    libraries: ClassVar[tuple[str, ...]] = ("peft",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_peft(self.name)

    @abstractmethod
    def configuration(self, model: nn.Module) -> PeftConfig:
        """Return PEFT's configuration for a model."""

    @abstractmethod
    def make(self, model: nn.Module) -> VirtualTokens:
        """Return the vectors for a model, as they start."""

    def check_shapes(self, model: nn.Module) -> None:
        check_embeds_tokens(model, self.name)
        room_for_text(model, self.tokens)

    def insert(self, model: nn.Module) -> None:
        like = next(model.parameters())
        made = self.make(model)
        made.to(like.device, like.dtype)
        made.join(model)

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        from rosa_bench.layers.prompts.virtual_tokens import NAME

        yield from model.get_submodule(NAME).parameters()
        if self.train_head:
            yield from self.head_parameters(model)

    def merge(self, model: nn.Module) -> bool:
        return False

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the vectors and the head as an adapter that ``PeftModel.from_pretrained`` loads onto the base model."""
        from rosa_bench.methods.peft.saving import save_vectors

        save_vectors(self, model, folder)


@dataclass(frozen=True, kw_only=True)
class PeftTokens(VirtualTokenMethod):
    """Virtual tokens that an encoder of PEFT makes, by PEFT's own settings."""

    peft_type: str = setting("type of PEFT's encoder", choices=TOKEN_TYPES)
    config: dict[str, Any] = setting(
        "settings of PEFT's encoder; the others keep PEFT's defaults", default_factory=dict, open=True
    )
    parts: dict[str, str] | None = setting("what the parts of a block are called in this model", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "config", checked_config(self.config))
        for key in self.config:
            if key in OURS:
                raise UserError(
                    f"method.config.{key} is not for this program: the model decides it, or method.tokens; remove it"
                )
        for key in SIZES:
            value = self.config.get(key, 1)
            if value is not None and not (type(value) is int and 1 <= value <= 10**6):
                raise UserError(f"method.config.{key}={value} is out of range; it must be a whole number of at least 1")

    @property
    def in_every_layer(self) -> bool:
        """Whether the vectors are keys and values of every layer."""
        return self.peft_type == "PREFIX_TUNING"

    def configuration(self, model: nn.Module) -> PeftConfig:
        from rosa_bench.layers.prompts.prefix import key_shape

        sizes = sizes_of(model)
        if self.in_every_layer:
            heads, size = key_shape(model)
            sizes |= {"token_dim": heads * size, "num_attention_heads": heads}
        width = sizes["token_dim"]
        hidden = {"encoder_hidden_size": width} if self.peft_type != "PROMPT_TUNING" else {}
        given = {**hidden, **self.config, **sizes, "num_virtual_tokens": self.tokens, "num_transformer_submodules": 1}
        return configuration(self.peft_type, given, seed=self.seed)

    def check_shapes(self, model: nn.Module) -> None:
        from rosa_bench.layers.prompts.prefix import check_attention

        super().check_shapes(model)
        if self.in_every_layer:
            check_attention(model, self._attention(model), method=self.name)  # pyrefly: ignore[bad-argument-type]
        self.configuration(model)

    def make(self, model: nn.Module) -> VirtualTokens:
        from rosa_bench.layers.prompts.prefix import use_prefixes
        from rosa_bench.layers.prompts.virtual_tokens import InputTokens, KeyValueTokens, LayerTokens, reads_text

        config: Any = self.configuration(model)
        starts = [model.get_input_embeddings()] if self.peft_type == "PROMPT_TUNING" else []  # pyrefly: ignore[not-callable]
        with refused_in_one_line(f"method={self.name}"), drawing(self.seed):
            encoder = tuner_class(self.peft_type)(config, *starts)
        room = room_for_text(model, self.tokens)
        if not self.in_every_layer:
            return InputTokens(encoder, self.tokens, room=room, cut=reads_text(model))
        made = KeyValueTokens(
            encoder, self.tokens, room=room, layers=config.num_layers, heads=config.num_attention_heads
        )
        for number, attention in enumerate(self._attention(model)):
            attention.prefix = LayerTokens(made, number)
        use_prefixes(model)  # pyrefly: ignore[bad-argument-type] - it has a transformers configuration
        return made

    def _attention(self, model: nn.Module) -> list[nn.Module]:
        """Return the attention layers. Raises `UserError` unless they can see a prefix as PEFT's does."""
        from rosa_bench.layers.prompts.prefix import dispatches
        from rosa_bench.layers.structure.parts import modules_of

        if not is_decoder(model):
            raise UserError(
                f"method={self.name} is for decoders, as PEFT's prefix tuning is; use method=p_tuning_v2 for an encoder"
            )
        if not dispatches(model):
            raise UserError(
                f"method={self.name} needs attention layers whose function can be replaced, which this model does not "
                "have; use method=prompt_tuning"
            )
        return modules_of(model, self.parts, "attention", method=self.name)


def check_embeds_tokens(model: Any, method: str) -> None:
    """Raise `UserError` unless a model is one stack of layers over the embeddings of tokens."""
    from torch import nn

    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    if not isinstance(embeddings, nn.Embedding):
        raise UserError(f"method={method} is for transformers of texts; choose one with model=, or another method")
    if model.config.is_encoder_decoder:
        raise UserError(f"method={method} is not for models with an encoder and a decoder; choose another method")
    if getattr(model.config, "num_attention_heads", None) is None:
        raise UserError(f"method={method} is for transformers, and this model has no attention; choose another method")


def sizes_of(model: Any) -> dict[str, int]:
    """Return what PEFT must know about a model for vectors before its embedded text."""
    return {
        "token_dim": model.get_input_embeddings().embedding_dim,
        "num_attention_heads": model.config.num_attention_heads,
        "num_layers": model.config.num_hidden_layers,
    }


def is_decoder(model: nn.Module) -> bool:
    """Return whether a transformer has an output for each token of the text."""
    from rosa_bench.layers.structure.parts import output_layer

    return output_layer(model) is not None


def room_for_text(model: nn.Module, tokens: int) -> int:
    """Return how many tokens of text fit into the model's positions after ``tokens`` vectors.

    Raises `UserError` if none do.
    """
    from rosa_bench.layers.prompts.positions import num_positions

    room = num_positions(model) - tokens
    if room < 1:
        raise UserError(f"method.tokens={tokens} leaves no room for text in the model's {room + tokens} positions")
    return room
