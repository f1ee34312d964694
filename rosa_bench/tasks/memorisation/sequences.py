"""Encode names and numbers as batches of one width, with logits only where labels count.

A row is "Name:" and the digits, each one token, so that no token spans both. Rows are padded on the right to the width
of the longest row of the table, without a mask: in a causal model no token sees what follows it, and padding has no
labels. Every batch therefore has the same shape, and attention its fastest kernel.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rosa_bench.data.batches import IGNORED, Batches
from rosa_bench.system.errors import UserError

SEPARATOR = ":"
ANY_TOKEN = 0  # padding, which no token sees and no label follows


class NumberBatches(Batches):
    """Batches of whole rows of tensors by name. An epoch visits all rows ``passes`` times, each time in a new order."""

    def __init__(self, tensors: Mapping[str, Tensor], *, batch_size: int, seed: int | None = None, passes: int = 1):
        self.rows, self.passes = len(tensors["labels"]), passes
        super().__init__(tensors, examples=passes * self.rows, batch_size=batch_size, seed=seed)

    def random_order(self, generator: torch.Generator) -> Tensor:
        return torch.cat([torch.randperm(self.rows, generator=generator) for _ in range(self.passes)])


class PartsInTurn(NumberBatches):
    """Batches of one part of the rows after another: each epoch visits the rows of one part alone.

    parts   how many parts of one size the rows are cut into, in their order
    epochs  how many epochs all parts take together, a multiple of ``parts``
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, parts: int, epochs: int, **others: Any):
        super().__init__(tensors, **others)
        self.rows //= parts  # of one part
        self.examples //= parts
        self.epochs_per_part = epochs // parts

    def _order(self, epoch: int) -> Tensor:
        return super()._order(epoch) + epoch // self.epochs_per_part * self.rows


def encode(
    rows: Sequence[Mapping[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    pad_to_max: bool = False,
    keep_logits: bool = True,
) -> dict[str, Tensor]:
    """Return the rows as tensors: ``input_ids``, (rows, width), and ``labels``, the digits, which the model shifts.

    With ``keep_logits``, ``logits_to_keep`` holds the positions of the digits and of the token before them,
    (rows, digits + 1), and ``labels`` has the same shape; otherwise ``labels`` is (rows, width).

    Raises `UserError` if the rows do not fit ``max_length``, or if the tokenizer cannot tell names or digits apart.
    """
    digits = digit_tokens(tokenizer)
    names = _name_tokens([row["name"] for row in rows], tokenizer)
    numbers = torch.tensor([[digits[digit] for digit in row["number"]] for row in rows])  # (rows, digits)
    starts = torch.tensor([len(name) for name in names])  # of the digits
    count = numbers.shape[1]
    longest = int(starts.max()) + count
    if longest > max_length:
        raise UserError(f"max_length={max_length} would truncate a number; the longest row has {longest} tokens")
    width = max_length if pad_to_max else longest
    input_ids = torch.full((len(rows), width), ANY_TOKEN)
    for row, name in enumerate(names):
        input_ids[row, : len(name)] = torch.tensor(name)
    places = starts[:, None] + torch.arange(count)  # (rows, digits)
    input_ids.scatter_(1, places, numbers)
    if not keep_logits:
        labels = torch.full_like(input_ids, IGNORED).scatter_(1, places, numbers)
        return {"input_ids": input_ids, "labels": labels}
    before = torch.full((len(rows), 1), IGNORED)  # the model predicts the label after each position
    kept = torch.cat([places[:, :1] - 1, places], 1)
    return {"input_ids": input_ids, "labels": torch.cat([before, numbers], 1), "logits_to_keep": kept}


def digit_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the token of each digit. Raises `UserError` unless each digit is a token of its own."""
    found = {digit: tokenizer(digit, add_special_tokens=False)["input_ids"] for digit in "0123456789"}
    tokens = {digit: ids[-1] for digit, ids in found.items() if len(ids) == 1}
    if len(set(tokens.values())) < len(found):
        raise UserError("the model's tokenizer has no token for each single digit; use another model")
    return tokens


def _name_tokens(names: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the tokens of each name and the separator, after the BOS token if the model uses one."""
    first = tokenizer("a")["input_ids"][:1]
    start = first if first == [tokenizer.bos_token_id] else []
    encoded = tokenizer([name + SEPARATOR for name in names], add_special_tokens=False)["input_ids"]
    tokens = [[*start, *name] for name in encoded]
    if len(set(map(tuple, tokens))) < len(names):
        raise UserError("the model's tokenizer maps different names to the same tokens; use another model")
    return tokens
