"""From prompts and references to batches for a causal language model, and to prompts alone, to go on from."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from rosa_bench.data.batches import IGNORED, Batch, Batches
from rosa_bench.data.prompts import Pair
from rosa_bench.errors import UserError

log = logging.getLogger(__name__)


class SequenceBatches(Batches):
    """Sequences of tokens, padded at their end to ``pad_to``, or to the longest of each batch.

    prompts  how many tokens of each are given

    Labels are the tokens themselves (the model shifts them), without the prompt's unless ``loss_on_prompt``.
    """

    def __init__(
        self,
        sequences: Sequence[Tensor],
        prompts: Sequence[int],
        *,
        padding: int,
        loss_on_prompt: bool,
        batch_size: int,
        seed: int | None = None,
        pad_to: int | None = None,
    ):
        super().__init__(len(sequences), batch_size=batch_size, seed=seed)
        self.sequences = sequences
        self.padding = padding
        self.pad_to = pad_to
        # Nothing comes before the first token, so that it is never a label.
        self.unlabelled = [1 if loss_on_prompt else max(1, length) for length in prompts]

    def batch(self, indices: Tensor) -> Batch:
        chosen = [self.sequences[index] for index in indices.tolist()]
        width = self.pad_to or max(map(len, chosen))
        places = torch.arange(width)
        lengths = torch.tensor([len(sequence) for sequence in chosen]).unsqueeze(-1)  # (batch, 1)
        given = torch.tensor([self.unlabelled[index] for index in indices.tolist()]).unsqueeze(-1)
        rows = [functional.pad(sequence, (0, width - len(sequence)), value=self.padding) for sequence in chosen]
        ids = torch.stack(rows)  # (batch, width)
        return {
            "input_ids": ids,
            "attention_mask": (places < lengths).long(),
            "labels": ids.masked_fill((places < given) | (places >= lengths), IGNORED),
        }

    def fixed_order(self) -> Tensor:
        return torch.tensor([len(sequence) for sequence in self.sequences]).argsort(stable=True)


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
        self, pairs: Sequence[Pair], *, loss_on_prompt: bool, batch_size: int, seed: int | None = None
    ) -> SequenceBatches:
        """Batches of prompt, reference and end sign. Where they are too long, the prompt loses its beginning.

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
        return SequenceBatches(
            [torch.tensor([*prompt, *reference]) for prompt, reference in zip(given, references, strict=True)],
            [len(prompt) for prompt in given],
            padding=self.padding,
            loss_on_prompt=loss_on_prompt,
            batch_size=batch_size,
            seed=seed,
            pad_to=self.pad_to,
        )

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]  # pyright: ignore[reportReturnType]

    def _fitted(self, prompt: list[int], room: int) -> list[int]:
        """The start sign, if there is one, and the end of the prompt: ``room`` tokens at most."""
        return [*self.start, *prompt[max(0, len(prompt) + len(self.start) - room) :]]

    def _say_cut(self, count: int, of: int) -> None:
        if count:
            log.info("%d of %d prompts are too long and lost their beginning", count, of)
