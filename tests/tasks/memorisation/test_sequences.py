"""Rows of the phone book as tokens: what a model sees of them is the same as of the rows alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AttentionMaskInterface, PreTrainedModel, PreTrainedTokenizerFast

from rosa_bench.data.batches import IGNORED, parts, targets
from rosa_bench.data.generators import generate
from rosa_bench.models import attention
from rosa_bench.models.logits.kept_logits import keep_logits_by_row
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.memorisation.sequences import NumberBatches, encode

DIGITS = 5
ROWS = generate("phonebook", "train", pairs=23, digits=DIGITS, seed=0)
TOKENIZER = byte_tokenizer(max_length=512)


def tokenizer_of(*tokens: str, pattern: str = "") -> PreTrainedTokenizerFast:
    """Make a tokenizer of single letters and these tokens, which it prefers."""
    letters = [*map(chr, range(32, 127)), *tokens]
    merges = [(token[0], token[1]) for token in tokens]
    tokenizer = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(letters)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, "isolated") if pattern else None
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("keep_logits", [True, False])
def test_a_row_is_the_name_and_one_token_per_digit(keep_logits: bool) -> None:
    tensors = encode(ROWS, TOKENIZER, max_length=64, keep_logits=keep_logits)
    for index, row in enumerate(ROWS):
        start = len(row["name"]) + 2  # BOS and the colon
        ids, labels = tensors["input_ids"][index], tensors["labels"][index]
        assert ids[0] == TOKENIZER.bos_token_id
        assert TOKENIZER.decode(ids[1 : start + DIGITS]) == f"{row['name']}:{row['number']}"
        assert TOKENIZER.decode(labels[labels != IGNORED]) == row["number"]
        positions = tensors["logits_to_keep"][index] if keep_logits else torch.arange(len(ids))
        assert positions[labels != IGNORED].tolist() == list(range(start, start + DIGITS))


def test_digits_are_not_merged() -> None:
    tokens = tokenizer_of("12", "34")
    row = {"name": "Ann Lee", "number": "1234"}
    assert tokens.tokenize(row["number"]) == ["12", "34"]
    [ids] = encode([row], tokens, max_length=64)["input_ids"]
    assert tokens.convert_ids_to_tokens(ids.tolist())[-4:] == ["1", "2", "3", "4"]


def test_all_batches_have_one_shape_and_no_mask() -> None:
    tensors = encode(ROWS, TOKENIZER, max_length=64)
    batches = list(NumberBatches(tensors, batch_size=23, seed=0, passes=3).epoch())
    longest = max(len(row["name"]) for row in ROWS) + 2 + DIGITS
    assert [{name: tuple(tensor.shape) for name, tensor in batch.items()} for batch in batches] == [
        {"input_ids": (23, longest), "labels": (23, DIGITS + 1), "logits_to_keep": (23, DIGITS + 1)}
    ] * 3
    padded = encode(ROWS, TOKENIZER, max_length=64, pad_to_max=True)
    assert padded["input_ids"].shape == (23, 64)
    assert sum(int(targets(part)) for part in parts(batches[0], 4)) == int(targets(batches[0])) == 23 * DIGITS


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama"])
def test_padding_changes_nothing_and_makes_no_mask(tiny_model: Callable[..., PreTrainedModel], name: str) -> None:
    masks: list[Tensor | None] = []

    def noting(**options: Any) -> Tensor | None:
        masks.append(attention.bias_mask(**options))
        return masks[-1]

    model = tiny_model(name).double()
    assert keep_logits_by_row(model)
    tensors = encode(ROWS, TOKENIZER, max_length=64, pad_to_max=True)
    with torch.inference_mode():
        AttentionMaskInterface.register(attention.NAME, noting)
        try:
            together = model(tensors["input_ids"], logits_to_keep=tensors["logits_to_keep"]).logits
        finally:
            AttentionMaskInterface.register(attention.NAME, attention.bias_mask)
        assert masks and all(mask is None for mask in masks)
        for index, positions in enumerate(tensors["logits_to_keep"]):
            alone = model(input_ids=tensors["input_ids"][index : index + 1, : positions[-1] + 1]).logits[0, positions]
            torch.testing.assert_close(together[index], alone, rtol=1e-9, atol=1e-11)


def test_an_epoch_makes_its_passes_in_new_orders_that_seed_and_epoch_determine() -> None:
    def order(seed: int, epoch: int, start: int = 0) -> list[int]:
        batches = NumberBatches({"labels": torch.arange(10)}, batch_size=4, seed=seed, passes=3)
        assert (len(batches), batches.examples) == (8, 30)
        return torch.cat([batch["labels"] for batch in batches.epoch(epoch, start=start)]).tolist()

    first = order(0, 0)
    passes = [first[:10], first[10:20], first[20:]]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert passes[0] != passes[1] != passes[2]
    assert order(0, 0) == first
    assert order(0, 1) != first != order(1, 0)
    assert order(0, 0, start=3) == first[12:]


def test_rows_that_do_not_fit_are_refused() -> None:
    longest = max(len(row["name"]) for row in ROWS) + 2 + DIGITS
    encode(ROWS, TOKENIZER, max_length=longest)
    with pytest.raises(UserError, match=rf"max_length={longest - 1} .* {longest} tokens"):
        encode(ROWS, TOKENIZER, max_length=longest - 1)


def test_tokenizers_without_single_digits_or_letters_are_refused() -> None:
    blind = Tokenizer(models.WordLevel({"?": 0, **{str(digit): digit + 1 for digit in range(10)}}, unk_token="?"))
    with pytest.raises(UserError, match="different names to the same tokens"):
        encode(ROWS, PreTrainedTokenizerFast(tokenizer_object=blind), max_length=64)
    unable = Tokenizer(models.WordLevel({"?": 0, "1": 1}, unk_token="?"))
    with pytest.raises(UserError, match="no token for each single digit"):
        encode(ROWS, PreTrainedTokenizerFast(tokenizer_object=unable), max_length=64)
