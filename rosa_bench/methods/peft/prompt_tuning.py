"""Prompt tuning: trained vectors are placed before the embedded text, and the model itself stays frozen.

Source: Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", arXiv 2104.08691, implemented by
Hugging Face PEFT. Unlike the paper, we also use encoders with a classification head. The heads of RoBERTa and BERT read
the first position, which is the first trained vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rosa_bench.methods.peft.config import configuration
from rosa_bench.methods.peft.virtual_tokens import VirtualTokenMethod, room_for_text, sizes_of
from rosa_bench.system.seeds import generator
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor, nn

    from rosa_bench.layers.prompts.virtual_tokens import VirtualTokens

INITS = ("vocabulary", "normal")


@dataclass(frozen=True, kw_only=True)
class PromptTuning(VirtualTokenMethod):
    """Trains ``tokens`` vectors before each text, and the head if the protocol says so. Cannot be merged.

    init ``vocabulary``  embeddings of random tokens of the vocabulary
         ``normal``      normally distributed, with the standard deviation of the model's embeddings
    """

    init: str = setting("what they start from", choices=INITS)

    def configuration(self, model: nn.Module) -> PeftConfig:
        given = {**sizes_of(model), "num_virtual_tokens": self.tokens, "num_transformer_submodules": 1}
        return configuration("PROMPT_TUNING", given, seed=self.seed)

    def make(self, model: nn.Module) -> VirtualTokens:
        from peft import PromptEmbedding

        from rosa_bench.layers.prompts.virtual_tokens import InputTokens, reads_text

        embeddings = model.get_input_embeddings()  # pyrefly: ignore[not-callable]
        encoder = PromptEmbedding(self.configuration(model), embeddings)
        if not embeddings.weight.is_meta:  # shapes alone have no values
            encoder.embedding.weight.data = self._start(embeddings.weight)
        return InputTokens(encoder, self.tokens, room=room_for_text(model, self.tokens), cut=reads_text(model))

    def _start(self, vocabulary: Tensor) -> Tensor:
        """Return the first vectors. Draws are made on the CPU, so a seed gives the same ones on every device."""
        import torch

        draws = generator(self.seed, "prompt")
        if self.init == "vocabulary":
            chosen = torch.randint(len(vocabulary), (self.tokens,), generator=draws)
            return vocabulary.detach()[chosen.to(vocabulary.device)].clone()
        drawn = torch.randn((self.tokens, vocabulary.shape[1]), generator=draws)
        return drawn * vocabulary.detach().std().cpu()
