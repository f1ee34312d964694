"""Prompt tuning: trained vectors are placed before the embedded text, and the model itself stays frozen.

Source: Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", arXiv 2104.08691, implemented by
Hugging Face PEFT. Unlike the paper, we use encoders with a classification head. The heads of RoBERTa and BERT read the
first position, which is the first trained vector.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from rosa_bench.methods.base import Method
from rosa_bench.system.errors import UserError
from rosa_bench.system.seeds import generator
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

INITS = ("vocabulary", "normal")


@dataclass(frozen=True, kw_only=True)
class PromptTuning(Method):
    """Trains ``tokens`` vectors before each text, and the head if the protocol says so. Cannot be merged.

    init ``vocabulary``  embeddings of random tokens of the vocabulary
         ``normal``      normally distributed, with the standard deviation of the model's embeddings
    """

    tokens: int = setting("trained vectors before each text", at_least=1, at_most=10**5)
    init: str = setting("what they start from", choices=INITS)
    train_head: bool = setting("whether the task's head trains too")

    supports_graphs: ClassVar[bool] = False  # PEFT copies the prompt's indices to the GPU in every step
    keeps_function: ClassVar[bool] = False
    mergeable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if find_spec("peft") is None:
            raise UserError("method=prompt_tuning needs the package peft; install it: pip install 'rosa-bench[peft]'")

    def check_shapes(self, model: nn.Module) -> None:
        room_for_text(model, self.tokens)

    def attach(self, model: nn.Module, calibration: Iterable[Mapping[str, Tensor]] | None = None) -> nn.Module:  # noqa: ARG002
        """Return ``model`` wrapped in a PEFT model. Raises `UserError` if PEFT's prompts do not support the model."""
        from peft import PeftModelForSequenceClassification, PromptTuningConfig, TaskType

        embeddings = getattr(model, "get_input_embeddings", lambda: None)()
        if embeddings is None or model.get_output_embeddings() is not None:  # pyright: ignore[reportCallIssue]
            raise UserError(
                "method=prompt_tuning is for encoders; PEFT cannot generate text from a prompt with this version of "
                "transformers; choose another method or an encoder"
            )
        model.requires_grad_(False)
        config = PromptTuningConfig(
            task_type=TaskType.SEQ_CLS, num_virtual_tokens=self.tokens, modules_to_save=self._head_names(model)
        )
        room = room_for_text(model, self.tokens)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT uses a name that transformers deprecates
            wrapped = PeftModelForSequenceClassification(model, config)
        wrapped.requires_grad_(False)
        self.mark_trainable(wrapped)
        self._start(_prompt(wrapped), embeddings.weight)

        def check_length(_model: nn.Module, _arguments: tuple, options: dict[str, Any]) -> None:
            if (length := options["input_ids"].shape[1]) > room:
                raise UserError(
                    f"{self.tokens} vectors and a text of {length} tokens exceed the model's "
                    f"{room + self.tokens} positions; use max_length={room} or fewer method.tokens"
                )

        wrapped.register_forward_pre_hook(check_length, with_kwargs=True)
        return wrapped

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        yield _prompt(model)
        if self.train_head:
            yield from (parameter for name, parameter in model.named_parameters() if ".modules_to_save." in name)

    def merge(self, model: nn.Module) -> bool:  # noqa: ARG002 - a prompt cannot be merged into weights
        return False

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the prompt and the head as a PEFT adapter, which ``PeftModel`` loads onto the base model."""
        model.save_pretrained(folder, save_embedding_layers=False)  # pyright: ignore[reportCallIssue]

    def _head_names(self, model: nn.Module) -> list[str]:
        """Return the names of the head's modules. They are saved with the prompt, whether or not they train."""
        from rosa_bench.layers.surgery import name_matches

        return [name for name, _ in model.named_modules() if name_matches(self.head, name)]

    def _start(self, prompt: nn.Parameter, vocabulary: Tensor) -> None:
        """Initialise the prompt. Draws are made on the CPU, so a seed gives the same prompt on every device."""
        import torch

        draws = generator(self.seed, "prompt")
        with torch.no_grad():
            if self.init == "vocabulary":
                chosen = torch.randint(len(vocabulary), (self.tokens,), generator=draws)
                prompt.copy_(vocabulary[chosen.to(vocabulary.device)])
            else:
                prompt.copy_(torch.randn(prompt.shape, generator=draws) * vocabulary.std().cpu())


def room_for_text(model: nn.Module, tokens: int) -> int:
    """Return how many tokens of text fit into the model's positions after ``tokens`` vectors."""
    from rosa_bench.layers.positions import num_positions

    room = num_positions(model) - tokens
    if room < 1:
        raise UserError(f"method.tokens={tokens} leaves no room for text in the model's {room + tokens} positions")
    return room


def _prompt(model: nn.Module) -> nn.Parameter:
    """Return the trained vectors, (tokens, width)."""
    [found] = [parameter for name, parameter in model.named_parameters() if name.startswith("prompt_encoder.")]
    return found
