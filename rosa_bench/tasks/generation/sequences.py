"""Encode prompts and references as batches for a causal language model, and prompts alone for generation."""

import logging
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from rosa_bench.data.batches import IGNORED, TokenBatches
from rosa_bench.data.token_cache import Tokens
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.generation.prompts import Pair

log = logging.getLogger(__name__)


class Encoding:
    """Encodes prompts and references separately, so that no token spans both. References end with the EOS token.

    With ``pad_to_max`` every batch of sequences is padded to ``max_length`` instead of its longest sequence. Raises
    `UserError` for a tokenizer without an EOS token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, separator: str, max_length: int, pad_to_max: bool = False
    ):
        if tokenizer.eos_token_id is None:
            raise UserError(
                "the model's tokenizer has no EOS token, so generated texts would never end; set its eos_token"
            )
        self.tokenizer = tokenizer
        self.separator = separator
        self.max_length = max_length
        self.pad_to = max_length if pad_to_max else None
        self.end: int = tokenizer.eos_token_id
        first = tokenizer("a")["input_ids"][:1]
        self.start: list[int] = first if first == [tokenizer.bos_token_id] else []

    @property
    def padding(self) -> int:
        """Padding token: the EOS token, which every model has. The mask tells padding from a real EOS."""
        return self.end

    def prompts(self, texts: Sequence[str], *, limit: int) -> list[list[int]]:
        """Tokenise prompts and truncate them from the left to ``limit`` tokens; logs how many were truncated."""
        prompts = self._tokens([text + self.separator for text in texts])
        self._log_truncated(sum(len(prompt) + len(self.start) > limit for prompt in prompts), len(texts))
        return [self._truncate(prompt, limit) for prompt in prompts]

    def sequences(
        self,
        pairs: Sequence[Pair],
        *,
        loss_on_prompt: bool,
        batch_size: int,
        seed: int | None = None,
        grouped: bool = False,
    ) -> TokenBatches:
        """Make batches of prompt, reference and EOS token. If too long, the start of the prompt is dropped.

        Labels are the tokens themselves; the model shifts them. The first token is never a label, and the prompt's
        tokens only with ``loss_on_prompt``. ``grouped``: see `TokenBatches`.

        Raises `UserError` for a reference that does not fit without its prompt.
        """
        prompts = self._tokens([prompt + self.separator for prompt, _ in pairs])
        references = [[*tokens, self.end] for tokens in self._tokens([f" {reference}" for _, reference in pairs])]
        longest = max(map(len, references)) + len(self.start)
        if longest >= self.max_length:
            raise UserError(
                f"max_length={self.max_length} would truncate a reference of {longest} tokens; use a larger one"
            )
        truncated = [
            self._truncate(prompt, self.max_length - len(reference))
            for prompt, reference in zip(prompts, references, strict=True)
        ]
        count = sum(len(a) < len(self.start) + len(b) for a, b in zip(truncated, prompts, strict=True))
        self._log_truncated(count, len(pairs))
        unlabelled = [1 if loss_on_prompt else len(prompt) for prompt in truncated]  # of at least one token
        sequences = [[*prompt, *reference] for prompt, reference in zip(truncated, references, strict=True)]
        labels = [[IGNORED] * count + sequence[count:] for count, sequence in zip(unlabelled, sequences, strict=True)]
        return TokenBatches(
            Tokens.of({"input_ids": sequences, "labels": labels}),
            None,
            fills={"input_ids": self.padding, "labels": IGNORED},
            longest=self.max_length,
            batch_size=batch_size,
            seed=seed,
            pad_to=self.pad_to,
            grouped=grouped,
            masked=True,  # without a mask, models would take the EOS token of a text for padding
        )

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def _truncate(self, prompt: list[int], limit: int) -> list[int]:
        """Return the BOS token, if the model uses one, and the end of the prompt: at most ``limit`` tokens."""
        return [*self.start, *prompt[max(0, len(prompt) + len(self.start) - limit) :]]

    def _log_truncated(self, count: int, total: int) -> None:
        if count:
            log.info("%d of %d prompts are too long and were truncated from the left", count, total)
