"""From rows to batches of tensors. Texts are tokenised once, held where the model is, and padded batch by batch."""

import bisect
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rosa_bench.data.rows import Row
from rosa_bench.data.token_cache import Tokens, tokenise
from rosa_bench.system.device import has_room
from rosa_bench.system.errors import UserError
from rosa_bench.system.seeds import generator

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]

IGNORED = -100  # a label that counts for nothing, by Hugging Face's convention
# To these lengths batches are padded on a GPU: few kinds of batches, and above 16 less than a third of one is padding.
WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
GROUPED_BATCHES = 50  # so many are drawn at random, and put in order by length, as transformers' Trainer does it


class Batches(ABC):
    """Examples in the order that a seed and an epoch say. A batch holds ``labels`` and the model's inputs.

    The order is a pure function of seed and epoch, so that any epoch can be had again. ``tensors`` are what batches are
    gathered from; they lie on ``device``, and so do the batches. The model that they are for is on ``model_device``.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, examples: int, batch_size: int, seed: int | None = None):
        self.tensors = dict(tensors)
        self.device = self.model_device = torch.device("cpu")
        self.examples = examples  # in an epoch
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        """Batches in an epoch; the last one may be smaller."""
        return math.ceil(self.examples / self.batch_size)

    def to(self, device: torch.device) -> Self:
        """Be for a model on ``device``, and hold the examples there from now on, if they fit beside it."""
        self.model_device = device
        if has_room(device, sum(tensor.nbytes for tensor in self.tensors.values())):
            self.device = device
            self.tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return self

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch ``number``, from the one numbered ``start`` on."""
        order = self._order(number)
        places = order.to(self.device)  # in one go, so that no batch makes the host wait
        for first in range(start * self.batch_size, self.examples, self.batch_size):
            part = slice(first, first + self.batch_size)
            yield self.batch(order[part], places[part])

    @abstractmethod
    def batch(self, indices: Tensor, places: Tensor) -> Batch:
        """The examples named: the model's inputs, and ``labels``. ``places`` are the indices too, on `device`."""

    def fixed_order(self) -> Tensor:
        """The order without a seed."""
        return torch.arange(self.examples)

    def random_order(self, generator: torch.Generator) -> Tensor:
        """An order with one."""
        return torch.randperm(self.examples, generator=generator)

    def _order(self, epoch: int) -> Tensor:
        if self.seed is None:
            return self.fixed_order()
        return self.random_order(generator(self.seed, "epoch order", epoch))


class TokenBatches(Batches):
    """Tokenised examples, ``(examples, length)``. Without a seed they go by length, which wastes the least padding.

    fills     what fills up each column where an example is shorter than its batch
    labels    of each example; none where they are a column of the tokens
    pad_to    the length of every batch; none: its own longest, on a GPU the next of `WIDTHS`
    longest   the most tokens that the model takes
    grouped   examples of like length come together, as far as `GROUPED_BATCHES` of them reach
    masked    whether a batch without padding has a mask too; there attention is faster without one
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
        # Those on the device by the side of the columns; `lengths` stays, for the host must know how wide a batch is.
        ends = tokens.lengths.cumsum(0)
        own = {"starts": ends - tokens.lengths, "lengths": tokens.lengths}
        given = {} if labels is None else {"labels": labels}
        super().__init__(
            {**tokens.columns, **own, **given}, examples=len(tokens.lengths), batch_size=batch_size, seed=seed
        )
        self.lengths = tokens.lengths
        self.fills, self.longest, self.pad_to = dict(fills), longest, pad_to
        self.grouped, self.masked = grouped, masked

    def width(self, longest: int) -> int:
        """How long a batch is made whose longest example is so long."""
        if self.pad_to is not None:
            return self.pad_to
        if self.model_device.type == "cpu":
            return longest
        at_least = bisect.bisect_left(WIDTHS, longest)
        return max(longest, min(self.longest, WIDTHS[at_least])) if at_least < len(WIDTHS) else longest

    def batch(self, indices: Tensor, places: Tensor) -> Batch:
        lengths = self.lengths[indices]
        width = self.width(int(lengths.max()))
        starts, ends = (self.tensors[name][places].unsqueeze(-1) for name in ("starts", "lengths"))  # (batch, 1)
        columns = torch.arange(width, device=self.device)
        hidden = columns >= ends  # (batch, width)
        found = (starts + columns).masked_fill_(hidden, 0)
        batch = {name: self.tensors[name][found].masked_fill_(hidden, fill) for name, fill in self.fills.items()}
        if self.masked or int(lengths.min()) < width:
            batch["attention_mask"] = (~hidden).long()
        if "labels" not in batch:
            batch["labels"] = self.tensors["labels"][places]
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
    """Examples that are tensors already: ``inputs`` and ``labels``, one row of each an example."""

    def __init__(self, inputs: Tensor, labels: Tensor, *, batch_size: int, seed: int | None = None):
        super().__init__({"inputs": inputs, "labels": labels}, examples=len(labels), batch_size=batch_size, seed=seed)

    def batch(self, indices: Tensor, places: Tensor) -> Batch:  # noqa: ARG002 - both are the same
        return {name: tensor.index_select(0, places) for name, tensor in self.tensors.items()}


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
    """Tokenise rows, cutting what is longer than ``max_length`` tokens (the longer text of a pair first).

    With ``pad_to_max`` every batch is padded to ``max_length``, and not to its own longest.

    Says in the log how many were cut. Labels become int64 classes or float32 values, as their type is. Raises
    `UserError` for a ``max_length`` that leaves texts no room, and a tokenizer that has nothing to fill up with.
    """
    if tokenizer.pad_token_id is None:
        raise UserError("the model's tokenizer has no padding token (pad_token), without which no batch can be made")
    tokens = tokenise(rows, tokenizer, max_length=max_length)
    longest = int(tokens.lengths.max())
    if longest > max_length:
        raise UserError(f"max_length={max_length} has no room beside the tokens that join texts; use a larger one")
    if cut := int((tokens.lengths == max_length).sum()):
        log.info("%d of %d examples fill the %d tokens there are, and may have been cut", cut, len(rows), max_length)
    known = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    return TokenBatches(
        tokens,
        torch.tensor([row.label for row in rows]),
        fills={name: known.get(name, 0) for name in tokens.columns},  # pyright: ignore[reportArgumentType]
        longest=max_length,
        batch_size=batch_size,
        seed=seed,
        pad_to=max_length if pad_to_max else None,
        grouped=grouped,
    )


def parts(batch: Batch, count: int) -> list[Batch]:
    """Split a batch by examples into ``count`` parts as equal as can be, fewer if it is small."""
    chunks = {name: tensor.tensor_split(min(count, len(tensor))) for name, tensor in batch.items()}
    return [dict(zip(chunks, part, strict=True)) for part in zip(*chunks.values(), strict=True)]


def targets(batch: Batch) -> Tensor:
    """How many labels of the batch count, on its device: what the model's loss is the mean over."""
    return (batch["labels"] != IGNORED).sum()


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
