"""Turn rows into batches of tensors. Texts are tokenised once, kept on the model's device and padded per batch."""

import bisect
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rosa_bench.data.rows import Row
from rosa_bench.data.token_cache import Tokens, tokenise
from rosa_bench.system.errors import UserError
from rosa_bench.system.resources.device import has_room
from rosa_bench.system.seeds import generator

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]

IGNORED = -100  # label value that the loss ignores (Hugging Face convention)
# On a GPU batches are padded up to one of these lengths. That gives few distinct shapes, and above length 16 less than
# a third of a batch is padding.
WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
GROUPED_BATCHES = 50  # batches sampled at random, then sorted by length, as in transformers' Trainer


class Batches:
    """Batches of examples in an order set by the seed and the epoch. A batch holds ``labels`` and the model's inputs.

    The order is a pure function of seed and epoch, so any epoch can be reproduced. Batches are rows gathered from
    ``tensors``; both are on ``device``. ``model_device`` is the device of the model that uses them.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, examples: int, batch_size: int, seed: int | None = None):
        self.tensors = dict(tensors)
        self.device = self.model_device = torch.device("cpu")
        self.examples = examples  # per epoch
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        """Return the number of batches per epoch; the last one may be smaller."""
        return math.ceil(self.examples / self.batch_size)

    def to(self, device: torch.device) -> Self:
        """Serve a model on ``device``, and move the examples there if they fit next to it."""
        self.model_device = device
        if has_room(device, sum(tensor.nbytes for tensor in self.tensors.values())):
            self.device = device
            self.tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return self

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of epoch ``number``, beginning with batch ``start``."""
        order = self._order(number)
        device_order = order.to(self.device)  # one transfer, so that no batch makes the host wait
        for first in range(start * self.batch_size, self.examples, self.batch_size):
            part = slice(first, first + self.batch_size)
            yield self.batch(order[part], device_order[part])

    def batch(self, indices: Tensor, device_indices: Tensor) -> Batch:  # noqa: ARG002 - only some batches need the host's
        """Return the selected examples: the model's inputs and ``labels``.

        ``device_indices`` is a copy of ``indices`` on ``self.device``.
        """
        return {name: tensor.index_select(0, device_indices) for name, tensor in self.tensors.items()}

    def fixed_order(self) -> Tensor:
        """Return the order used without a seed."""
        return torch.arange(self.examples)

    def in_row_order(self, values: Tensor) -> Tensor:
        """Return values that were computed batch by batch, without a seed, in the order of the examples."""
        return values[self.fixed_order().argsort()]

    def random_order(self, generator: torch.Generator) -> Tensor:
        """Return a random order."""
        return torch.randperm(self.examples, generator=generator)

    def _order(self, epoch: int) -> Tensor:
        if self.seed is None:
            return self.fixed_order()
        return self.random_order(generator(self.seed, "epoch order", epoch))


class TokenBatches(Batches):
    """Batches of tokenised examples, ``(examples, length)``. Without a seed they are sorted by length to save padding.

    fills     padding value of each column
    labels    one label per example, or None if the tokens have a label column
    pad_to    length of every batch; None: the longest example in the batch, on a GPU rounded up to one of `WIDTHS`
    longest   largest number of tokens that the model accepts
    grouped   put examples of similar length together, within groups of `GROUPED_BATCHES` batches
    masked    whether a batch without padding also gets a mask; attention is faster without one
    """

    def __init__(
        self,
        tokens: Tokens,
        labels: Tensor | None,
        *,
        fills: Mapping[str, int],
        longest: int,
        batch_size: int,
        seed: int | None = None,
        pad_to: int | None = None,
        grouped: bool = False,
        masked: bool = False,
    ):
        # `tensors` gets its own copy on the device; `self.lengths` stays on the host, which must know a batch's width.
        ends = tokens.lengths.cumsum(0)
        offsets = {"starts": ends - tokens.lengths, "lengths": tokens.lengths}
        label_column = {} if labels is None else {"labels": labels}
        super().__init__(
            {**tokens.columns, **offsets, **label_column},
            examples=len(tokens.lengths),
            batch_size=batch_size,
            seed=seed,
        )
        self.lengths = tokens.lengths
        self.fills, self.longest, self.pad_to = dict(fills), longest, pad_to
        self.grouped, self.masked = grouped, masked

    def width(self, longest: int) -> int:
        """Return the padded length of a batch whose longest example has ``longest`` tokens."""
        if self.pad_to is not None:
            return self.pad_to
        if self.model_device.type == "cpu":
            return longest
        at_least = bisect.bisect_left(WIDTHS, longest)
        return max(longest, min(self.longest, WIDTHS[at_least])) if at_least < len(WIDTHS) else longest

    def batch(self, indices: Tensor, device_indices: Tensor) -> Batch:
        lengths = self.lengths[indices]
        width = self.width(int(lengths.max()))
        starts = self.tensors["starts"][device_indices].unsqueeze(-1)  # (batch, 1)
        sizes = self.tensors["lengths"][device_indices].unsqueeze(-1)
        columns = torch.arange(width, device=self.device)
        padding = columns >= sizes  # (batch, width)
        positions = (starts + columns).masked_fill_(padding, 0)
        batch = {name: self.tensors[name][positions].masked_fill_(padding, fill) for name, fill in self.fills.items()}
        if self.masked or int(lengths.min()) < width:
            batch["attention_mask"] = (~padding).long()
        if "labels" not in batch:
            batch["labels"] = self.tensors["labels"][device_indices]
        return batch

    def fixed_order(self) -> Tensor:
        return self.lengths.argsort(stable=True)

    def random_order(self, generator: torch.Generator) -> Tensor:
        order = super().random_order(generator)
        if not self.grouped:
            return order
        groups = order.split(GROUPED_BATCHES * self.batch_size)
        return torch.cat([group[self.lengths[group].argsort(descending=True, stable=True)] for group in groups])


class TensorBatches(Batches):
    """Batches of examples that are already tensors: one row of ``inputs`` and ``labels`` per example."""

    def __init__(self, inputs: Tensor, labels: Tensor, *, batch_size: int, seed: int | None = None):
        super().__init__({"inputs": inputs, "labels": labels}, examples=len(labels), batch_size=batch_size, seed=seed)


def encode(
    rows: list[Row],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    batch_size: int,
    seed: int | None = None,
    pad_to_max: bool = False,
    grouped: bool = False,
) -> TokenBatches:
    """Tokenise rows and truncate them to ``max_length`` tokens (the longer text of a pair first).

    Logs how many rows may have been truncated. Labels become int64 classes or float32 values, depending on their type.
    With ``pad_to_max`` every batch is padded to ``max_length`` instead of its longest example.

    Raises `UserError` if ``max_length`` leaves no room for text, or the tokenizer has no padding token.
    """
    if tokenizer.pad_token_id is None:
        raise UserError("the model's tokenizer has no padding token, so texts cannot be batched; set its pad_token")
    tokens = tokenise(rows, tokenizer, max_length=max_length)
    longest = int(tokens.lengths.max())
    if longest > max_length:
        raise UserError(f"max_length={max_length} leaves no room for text besides the special tokens; use a larger one")
    if cut := int((tokens.lengths == max_length).sum()):
        log.info("%d of %d examples reach max_length=%d and may have been truncated", cut, len(rows), max_length)
    known = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    return TokenBatches(
        tokens,
        torch.tensor([row.label for row in rows]),
        fills={name: known.get(name, 0) for name in tokens.columns},
        longest=max_length,
        batch_size=batch_size,
        seed=seed,
        pad_to=max_length if pad_to_max else None,
        grouped=grouped,
    )


def parts(batch: Batch, count: int) -> list[Batch]:
    """Split a batch by examples into ``count`` parts of nearly equal size, or fewer if the batch is small."""
    chunks = {name: tensor.tensor_split(min(count, len(tensor))) for name, tensor in batch.items()}
    return [dict(zip(chunks, part, strict=True)) for part in zip(*chunks.values(), strict=True)]


def targets(batch: Batch) -> Tensor:
    """Count the labels that enter the loss, as a tensor on the batch's device. The model's loss is a mean over them.

    Labels that are fractions, those of a regression, all do.
    """
    labels = batch["labels"]
    return (torch.ones_like(labels) if labels.is_floating_point() else labels != IGNORED).sum()


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Copy the batch to ``device``."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
