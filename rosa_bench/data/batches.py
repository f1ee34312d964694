"""From rows to batches of tensors. Texts are tokenised once, and padded to the longest of each batch, or all alike."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rosa_bench.data.rows import Row
from rosa_bench.errors import UserError

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]

IGNORED = -100  # a label that counts for nothing, by Hugging Face's convention


class Batches(ABC):
    """Examples in the order that a seed and an epoch say. A batch holds ``labels`` and the model's inputs.

    The order is a pure function of seed and epoch, so that any epoch can be had again.
    """

    def __init__(self, examples: int, *, batch_size: int, seed: int | None = None):
        self.examples = examples  # in an epoch
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        """Batches in an epoch; the last one may be smaller."""
        return math.ceil(self.examples / self.batch_size)

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch ``number``, from the one numbered ``start`` on, on the CPU."""
        for indices in self._order(number).split(self.batch_size)[start:]:
            yield self.batch(indices)

    @abstractmethod
    def batch(self, indices: Tensor) -> Batch:
        """The examples named: the model's inputs, and ``labels``."""

    def fixed_order(self) -> Tensor:
        """The order without a seed."""
        return torch.arange(self.examples)

    def _order(self, epoch: int) -> Tensor:
        if self.seed is None:
            return self.fixed_order()
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        return torch.randperm(self.examples, generator=generator)


class TokenBatches(Batches):
    """Tokenised examples, ``(examples, length)``. Without a seed they go by length, which wastes the least padding.

    pad_to  the length of every batch; none: its own longest
    """

    def __init__(
        self,
        inputs: list[dict[str, list[int]]],
        labels: Tensor,
        *,
        batch_size: int,
        tokenizer: PreTrainedTokenizerBase,
        seed: int | None = None,
        pad_to: int | None = None,
    ):
        super().__init__(len(labels), batch_size=batch_size, seed=seed)
        self.inputs = inputs
        self.labels = labels
        self.tokenizer = tokenizer
        self.pad_to = pad_to

    def batch(self, indices: Tensor) -> Batch:
        chosen: list[dict[str, Any]] = [self.inputs[index] for index in indices.tolist()]
        how = "longest" if self.pad_to is None else "max_length"
        padded = self.tokenizer.pad(chosen, padding=how, max_length=self.pad_to, return_tensors="pt")
        return {**padded, "labels": self.labels.index_select(0, indices)}

    def fixed_order(self) -> Tensor:
        lengths = torch.tensor([len(example["input_ids"]) for example in self.inputs])
        return lengths.argsort(stable=True)


class TensorBatches(Batches):
    """Examples that are tensors already: ``inputs`` and ``labels``, one row of each an example."""

    def __init__(self, inputs: Tensor, labels: Tensor, *, batch_size: int, seed: int | None = None):
        super().__init__(len(labels), batch_size=batch_size, seed=seed)
        self.inputs = inputs
        self.labels = labels

    def batch(self, indices: Tensor) -> Batch:
        return {"inputs": self.inputs.index_select(0, indices), "labels": self.labels.index_select(0, indices)}


def encode(
    rows: list[Row],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    batch_size: int,
    seed: int | None = None,
    pad_to_max: bool = False,
) -> TokenBatches:
    """Tokenise rows, cutting what is longer than ``max_length`` tokens (the longer text of a pair first).

    With ``pad_to_max`` every batch is padded to ``max_length``, and not to its own longest.

    Says in the log how many were cut. Labels become int64 classes or float32 values, as their type is. Raises
    `UserError` for a ``max_length`` that leaves texts no room.
    """
    first, *second = ([*column] for column in zip(*(row.texts for row in rows), strict=True))
    encoded = tokenizer(first, second[0] if second else None, truncation=True, max_length=max_length)
    names = [name for name in tokenizer.model_input_names if name in encoded]
    examples = zip(*(encoded[name] for name in names), strict=True)
    inputs = [dict(zip(names, example, strict=True)) for example in examples]
    longest = max(len(example["input_ids"]) for example in inputs)
    if longest > max_length:
        raise UserError(f"max_length={max_length} has no room beside the tokens that join texts; use a larger one")
    cut = sum(len(example["input_ids"]) == max_length for example in inputs)
    if cut:
        log.info("%d of %d examples fill the %d tokens there are, and may have been cut", cut, len(inputs), max_length)
    labels = torch.tensor([row.label for row in rows])
    pad_to = max_length if pad_to_max else None
    return TokenBatches(inputs, labels, batch_size=batch_size, tokenizer=tokenizer, seed=seed, pad_to=pad_to)


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
