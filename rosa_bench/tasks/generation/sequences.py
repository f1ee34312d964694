"""From prompts and references to batches for a causal language model, and to prompts alone, to go on from."""

import logging
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from rosa_bench.data.batches import IGNORED, TokenBatches
from rosa_bench.data.token_cache import Tokens
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.generation.prompts import Pair

log = logging.getLogger(__name__)


class Encoding:
    """How a tokenizer writes prompts and references: no token joins the two, and an end sign closes each reference.

    With ``pad_to_max`` every batch of sequences is padded to ``max_length``, and not to its own longest. Raises
    `UserError` for a tokenizer without an end sign.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, separator: str, max_length: int, pad_to_max: bool = False
    ):
        if tokenizer.eos_token_id is None:
            raise UserError("the model's tokenizer has no end sign (eos_token), without which no text would ever end")
        self.tokenizer = tokenizer
        self.separator = separator
        self.max_length = max_length
        self.pad_to = max_length if pad_to_max else None
        self.end: int = tokenizer.eos_token_id  # pyright: ignore[reportAttributeAccessIssue]
        first = tokenizer("a")["input_ids"][:1]  # pyright: ignore[reportIndexIssue]
        self.start: list[int] = first if first == [tokenizer.bos_token_id] else []

    @property
    def padding(self) -> int:
        """What fills a batch up: the end sign, which every model knows. A mask says where, so that nothing is lost."""
        return self.end

    def prompts(self, texts: Sequence[str], *, room: int) -> list[list[int]]:
        """The tokens of prompts, cut from the left to ``room``; says in the log how many were."""
        found = self._tokens([text + self.separator for text in texts])
        cut = [self._fitted(tokens, room) for tokens in found]
        self._say_cut(sum(len(before) + len(self.start) > room for before in found), len(texts))
        return cut

    def sequences(
        self,
        pairs: Sequence[Pair],
        *,
        loss_on_prompt: bool,
        batch_size: int,
        seed: int | None = None,
        grouped: bool = False,
    ) -> TokenBatches:
        """Batches of prompt, reference and end sign. Where they are too long, the prompt loses its beginning.

        Labels are the tokens themselves (the model shifts them), without the prompt's unless ``loss_on_prompt``, and
        without the first, before which nothing comes. ``grouped``: see `TokenBatches`.

        Raises `UserError` for a reference that does not fit by itself.
        """
        prompts = self._tokens([prompt + self.separator for prompt, _ in pairs])
        references = [[*tokens, self.end] for tokens in self._tokens([f" {reference}" for _, reference in pairs])]
        longest = max(map(len, references)) + len(self.start)
        if longest >= self.max_length:
            raise UserError(f"max_length={self.max_length} cuts a reference of {longest} tokens; use a larger one")
        given = [
            self._fitted(prompt, self.max_length - len(reference))
            for prompt, reference in zip(prompts, references, strict=True)
        ]
        self._say_cut(sum(len(a) < len(self.start) + len(b) for a, b in zip(given, prompts, strict=True)), len(pairs))
        unlabelled = [1 if loss_on_prompt else max(1, len(prompt)) for prompt in given]
        sequences = [[*prompt, *reference] for prompt, reference in zip(given, references, strict=True)]
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
            masked=True,  # padding is the end sign: without a mask models take a text's own end for it
        )

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]  # pyright: ignore[reportReturnType]

    def _fitted(self, prompt: list[int], room: int) -> list[int]:
        """The start sign, if there is one, and the end of the prompt: ``room`` tokens at most."""
        return [*self.start, *prompt[max(0, len(prompt) + len(self.start) - room) :]]

    def _say_cut(self, count: int, of: int) -> None:
        if count:
            log.info("%d of %d prompts are too long and lost their beginning", count, of)
