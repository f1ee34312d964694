"""Pack a stream of tokens into rows of one length, without padding or an attention mask.

Documents are joined by the tokenizer's EOS token and cut wherever a row is full. Attention is plainly causal: a token
attends to all tokens before it in its row, also to those of an earlier document. Every row has the same width, so one
CUDA graph serves all of training.

Neighbouring rows overlap: a row begins with the last ``context`` tokens of the row before it, which are not labels
there. So every token of the stream, after the first ``context``, is a label exactly once.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rosa_bench.data.batches import IGNORED, Batches
from rosa_bench.system.errors import UserError

BATCH = 1000  # documents tokenised at a time, to bound the memory that lists of integers take


class Packed(NamedTuple):
    """Rows of tokens and their labels. A label is the token itself, which the model shifts, or `IGNORED`."""

    input_ids: Int64[Tensor, "rows length"]
    labels: Int64[Tensor, "rows length"]

    @property
    def tokens(self) -> int:
        """Number of labels."""
        return int((self.labels != IGNORED).sum())

    def rows(self, indices: Sequence[int]) -> "Packed":
        """Return the rows at ``indices``."""
        return Packed(self.input_ids[indices], self.labels[indices])


def join(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Int64[Tensor, " tokens"]:
    """Return the EOS token, then the tokens of each document and an EOS token.

    Raises `UserError` for a tokenizer without an EOS token.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError("the model's tokenizer has no EOS token, so documents cannot be told apart; set its eos_token")
    parts = [torch.tensor([end])]
    for first in range(0, len(texts), BATCH):
        encoded = tokenizer(list(texts[first : first + BATCH]), add_special_tokens=False)["input_ids"]
        parts.append(torch.tensor([*chain.from_iterable((*tokens, end) for tokens in encoded)]))
    return torch.cat(parts)


def pack(
    stream: Int64[Tensor, " tokens"], length: int, *, context: int = 1, keep_rest: bool = False, filler: int = 0
) -> Packed:
    """Cut a stream into rows of ``length`` tokens, whose first ``context`` tokens are not labels.

    An incomplete last row is dropped, unless ``keep_rest``. Then it is filled up with the token ``filler``, never a
    label. No token attends to it, because it comes last.
    """
    stride = length - context
    labelled = len(stream) - context
    rows, rest = divmod(max(0, labelled), stride)
    if keep_rest and rest:
        rows += 1
        stream = torch.cat([stream, torch.full((stride - rest,), filler)])
    starts = torch.arange(rows)[:, None] * stride
    input_ids = stream[starts + torch.arange(length)]
    labels = input_ids.clone()
    labels[:, :context] = IGNORED
    if keep_rest and rest:
        labels[-1, context + rest :] = IGNORED
    return Packed(input_ids, labels)


class PackedBatches(Batches):
    """Batches of packed rows, all of one width and without a mask."""

    def __init__(self, packed: Packed, *, batch_size: int, seed: int | None = None):
        super().__init__(packed._asdict(), examples=len(packed.labels), batch_size=batch_size, seed=seed)
