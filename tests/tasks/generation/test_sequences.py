"""Encoding of prompts and references: labels, padding and truncation."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from rosa_bench.data.batches import IGNORED, Batch, TokenBatches, targets
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.generation.prompts import Pair
from rosa_bench.tasks.generation.sequences import Encoding

START, PAD, END = 0, 1, 2  # in the byte tokenizer
SEPARATOR = " ||"


def with_start() -> PreTrainedTokenizerFast:
    """A tokenizer that prepends a BOS token, like Llama's."""
    return byte_tokenizer(max_length=512)


def without_start() -> PreTrainedTokenizerFast:
    """A tokenizer that has a BOS token but does not prepend it, like GPT-2's."""
    tokenizer = byte_tokenizer(max_length=512)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def without_padding() -> PreTrainedTokenizerFast:
    tokenizer = without_start()
    tokenizer.pad_token = None
    return tokenizer


def padding_with_eos() -> PreTrainedTokenizerFast:
    tokenizer = with_start()
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


KINDS = {
    make.__name__: make() for make in (with_start, without_start, without_padding, padding_with_eos)
}  # fmt: skip
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def encoding(kind: str = "with_start", *, max_length: int = 512) -> Encoding:
    return Encoding(KINDS[kind], separator=SEPARATOR, max_length=max_length)


def batches(
    pairs: Sequence[Pair],
    kind: str = "with_start",
    *,
    on_prompt: bool = False,
    max_length: int = 512,
    size: int = 4,
    seed: int | None = None,
) -> TokenBatches:
    made = encoding(kind, max_length=max_length)
    return made.sequences(pairs, loss_on_prompt=on_prompt, batch_size=size, seed=seed)


def tokens(text: str) -> list[int]:
    """Tokens of an ASCII text, one per byte."""
    vocabulary = KINDS["with_start"].get_vocab()
    return [vocabulary[letter.replace(" ", "Ġ")] for letter in text]


def prompt_tokens(prompt: str, kind: str) -> list[int]:
    """Tokens before the reference."""
    starts = kind in ("with_start", "padding_with_eos")
    return [*([START] if starts else []), *tokens(prompt + SEPARATOR)]


def distinct(count: int) -> list[Pair]:
    """Pairs with distinct texts and lengths."""
    return [Pair("p" * (1 + 5 * number % 7), f"{number}" + "x" * (7 * number % 19)) for number in range(count)]


def rows(data: TokenBatches, epoch: int = 0) -> list[tuple[list[int], list[int]]]:
    """Tokens and labels of each sequence in an epoch, in order, without padding."""
    found = []
    for batch in data.epoch(epoch):
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), strict=True):
            assert labels[~mask].eq(IGNORED).all()
            found.append((ids[mask].tolist(), labels[mask].tolist()))
    return found


def only(data: TokenBatches) -> Batch:
    [batch] = data.epoch()
    return batch


def test_batches_may_be_of_one_width_and_grouped_by_length() -> None:
    made = Encoding(KINDS["with_start"], separator=SEPARATOR, max_length=64, pad_to_max=True)
    data = made.sequences(distinct(6), loss_on_prompt=False, batch_size=4, seed=0, grouped=True)
    assert [batch["input_ids"].shape for batch in data.epoch()] == [(4, 64), (2, 64)]
    lengths = [len(ids) for ids, _ in rows(data)]
    assert lengths == sorted(lengths, reverse=True)


# Labels


@EVERY_KIND
@pytest.mark.parametrize("pair", [Pair("ab", "cde"), Pair("a", "b"), Pair("name[X], food[Y]", "X has Y, || and so on")])
def test_labels_are_the_reference_and_its_eos_token(kind: str, pair: Pair) -> None:
    [(ids, labels)] = rows(batches([pair], kind))
    before, after = prompt_tokens(pair.prompt, kind), [*tokens(f" {pair.reference}"), END]
    assert ids == [*before, *after]
    assert labels == [*([IGNORED] * len(before)), *after]


@EVERY_KIND
def test_loss_on_prompt_makes_all_tokens_but_the_first_labels(kind: str) -> None:
    for ids, labels in rows(batches(distinct(6), kind, on_prompt=True)):
        assert labels == [IGNORED, *ids[1:]]
        assert ids[-1] == END


@EVERY_KIND
@pytest.mark.parametrize("on_prompt", [False, True])
def test_targets_counts_the_labels_in_the_loss(kind: str, on_prompt: bool) -> None:
    """The model's loss is the mean over them; the shift by one drops none of them."""
    pairs = distinct(5)
    batch = only(batches(pairs, kind, on_prompt=on_prompt, size=5))
    expected = sum(
        len(pair.reference) + 2 + (len(prompt_tokens(pair.prompt, kind)) - 1 if on_prompt else 0) for pair in pairs
    )
    assert targets(batch) == (batch["labels"][:, 1:] != IGNORED).sum() == expected


@pytest.mark.parametrize("max_length", [8, 9])
def test_the_first_token_is_never_a_label(max_length: int) -> None:
    """Nothing precedes it. One or two tokens of the prompt are left, and the reference has seven."""
    [(ids, labels)] = rows(batches([Pair("abc", "defgh")], "without_start", max_length=max_length))
    assert len(ids) == max_length
    assert labels[0] == IGNORED
    assert labels[-7:] == [*tokens(" defgh"), END]


# Padding


@EVERY_KIND
@pytest.mark.parametrize("on_prompt", [False, True])
def test_padding_is_recognised_by_position_not_by_token(kind: str, on_prompt: bool) -> None:
    """If padding is the EOS token, each sequence's own EOS token is still attended to and is a label."""
    batch = only(batches([Pair("a", "b"), Pair("abcdef", "ghijklm")], kind, on_prompt=on_prompt, size=2))
    ids, mask, labels = (batch[name] for name in ("input_ids", "attention_mask", "labels"))
    lengths = [len(prompt_tokens("a", kind)) + 3, len(prompt_tokens("abcdef", kind)) + 9]
    assert mask.sum(1).tolist() == lengths
    for row, length in enumerate(lengths):
        assert mask[row, :length].all()
        assert (ids[row, length - 1], labels[row, length - 1]) == (END, END)
        assert set(ids[row, length:].tolist()) <= {END}
        assert set(labels[row, length:].tolist()) <= {IGNORED}
    assert ids.shape == (2, max(lengths))


def test_a_batch_is_padded_to_its_longest_sequence() -> None:
    widths = [batch["input_ids"].shape[1] for batch in batches(distinct(12), size=3).epoch()]
    assert widths == sorted(set(widths))  # without a seed, short sequences come first
    lengths = [len(ids) for ids, _ in rows(batches(distinct(12), size=3))]
    assert widths == [max(lengths[start : start + 3]) for start in range(0, 12, 3)]


def test_a_batch_has_the_model_inputs() -> None:
    for batch in batches(distinct(5)).epoch():
        assert set(batch) == {"input_ids", "attention_mask", "labels"}
        assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
        assert len({tensor.shape for tensor in batch.values()}) == 1


@EVERY_KIND
def test_a_sequence_does_not_depend_on_its_neighbours(kind: str) -> None:
    pairs = distinct(9)
    alone = {tuple(ids): labels for pair in pairs for ids, labels in rows(batches([pair], kind))}
    assert len(alone) == len(pairs)
    for size, seed in ((4, None), (9, 0), (2, 1)):
        assert {tuple(ids): labels for ids, labels in rows(batches(pairs, kind, size=size, seed=seed))} == alone


# Special tokens


def test_a_tokenizer_without_an_eos_token_is_an_error() -> None:
    tokenizer = byte_tokenizer(max_length=512)
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no EOS token"):
        Encoding(tokenizer, separator=SEPARATOR, max_length=512)


def test_a_tokenizer_needs_no_other_special_token() -> None:
    tokenizer = without_padding()
    tokenizer.bos_token = None
    made = Encoding(tokenizer, separator=SEPARATOR, max_length=512)
    assert made.start == []
    assert made.padding == made.end == END
    assert made.prompts(["a"], limit=9) == [tokens("a ||")]


@EVERY_KIND
def test_a_prompt_to_continue_equals_the_start_of_its_sequence(kind: str) -> None:
    pairs = distinct(8)
    found = encoding(kind).prompts([pair.prompt for pair in pairs], limit=100)
    assert found == [prompt_tokens(pair.prompt, kind) for pair in pairs]
    for pair, prompt in zip(pairs, found, strict=True):
        [(ids, _)] = rows(batches([pair], kind))
        assert ids[: len(prompt)] == prompt


# Truncation


@EVERY_KIND
def test_prompts_are_truncated_from_the_left_and_references_never(kind: str) -> None:
    pair = Pair("abcdefghijklmnop", "qrs")
    whole = prompt_tokens(pair.prompt, kind)
    after = [*tokens(" qrs"), END]
    starts = whole[0] == START
    for max_length in range(len(after) + 2 + starts, len(whole) + len(after) + 3):
        [(ids, labels)] = rows(batches([pair], kind, max_length=max_length))
        assert len(ids) == min(max_length, len(whole) + len(after))
        assert ids[-len(after) :] == labels[-len(after) :] == after
        left = ids[: -len(after)]
        assert starts == (left[0] == START)  # the BOS token is kept
        own = left[starts:]
        assert own == whole[len(whole) - len(own) :]  # and so is the prompt's end, with the separator
        assert set(labels[: len(left)]) == {IGNORED}


@EVERY_KIND
@given(length=st.integers(1, 30), limit=st.integers(1, 30))
def test_a_prompt_to_continue_fits_the_limit(kind: str, length: int, limit: int) -> None:
    text = "".join(chr(97 + number % 26) for number in range(length))
    [found] = encoding(kind).prompts([text], limit=limit)
    whole = prompt_tokens(text, kind)
    assert len(found) == min(limit, len(whole))
    signs = whole[: len(whole) - len(tokens(text + SEPARATOR))]
    assert found == [*signs, *whole[len(signs) :][max(0, len(whole) - limit) :]]


@EVERY_KIND
def test_truncated_prompts_are_counted_in_the_log(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    fits = len(prompt_tokens("abcd", kind))
    with caplog.at_level("INFO", logger="rosa_bench"):
        encoding(kind).prompts(["abcd", "abc"], limit=fits)
        batches([Pair("abcd", "x")], kind, max_length=fits + 3)
        assert caplog.messages == []
        encoding(kind).prompts(["abcde", "abcd", "a" * 50], limit=fits)
        batches([Pair("abcde", "x"), Pair("abcd", "x"), Pair("abcd", "xy")], kind, max_length=fits + 3)
    assert caplog.messages == ["2 of 3 prompts are too long and were truncated from the left"] * 2


@EVERY_KIND
def test_a_reference_that_does_not_fit_is_an_error(kind: str) -> None:
    """It has twelve tokens with the space and EOS, plus BOS. At least one token of the prompt must also fit."""
    pair, signs = Pair("a", "0123456789"), prompt_tokens("", kind)[: -len(SEPARATOR)]
    least = 12 + len(signs) + 1
    [(ids, _)] = rows(batches([pair], kind, max_length=least))
    assert len(ids) == least
    for max_length in (least - 1, 5, 1):
        with pytest.raises(UserError, match=re.escape(f"max_length={max_length}")):
            batches([pair, Pair("a", "b")], kind, max_length=max_length)


# Order


@given(st.integers(1, 17), st.integers(1, 8), st.one_of(st.none(), st.integers(0, 2**31)), st.integers(0, 50))
def test_an_epoch_has_every_sequence_once(count: int, size: int, seed: int | None, epoch: int) -> None:
    pairs = distinct(count)
    data = batches(pairs, size=size, seed=seed)
    expected = [[*prompt_tokens(pair.prompt, "with_start"), *tokens(f" {pair.reference}"), END] for pair in pairs]
    assert sorted(ids for ids, _ in rows(data, epoch)) == sorted(expected)
    sizes = [len(batch["labels"]) for batch in data.epoch(epoch)]
    assert len(data) == len(sizes) == -(-count // size)
    assert sizes[:-1] == [size] * (len(sizes) - 1)
    assert data.examples == count


def test_order_depends_only_on_seed_and_epoch() -> None:
    pairs = distinct(20)

    def order(data: TokenBatches, epoch: int) -> tuple[Any, ...]:
        return tuple(tuple(ids) for ids, _ in rows(data, epoch))

    orders = {(seed, epoch): order(batches(pairs, seed=seed), epoch) for seed in range(3) for epoch in range(3)}
    assert len(set(orders.values())) == len(orders)
    data = batches(pairs, seed=1)
    for epoch in (2, 0, 1, 2):  # in any order, and repeatedly
        assert order(data, epoch) == orders[1, epoch]
    still = batches(pairs, seed=None)
    assert order(still, 0) == order(still, 3)


@given(st.integers(1, 17), st.integers(1, 8), st.one_of(st.none(), st.integers(0, 99)), st.integers(0, 5))
def test_an_epoch_can_resume_at_any_batch(count: int, size: int, seed: int | None, epoch: int) -> None:
    data = batches(distinct(count), size=size, seed=seed)
    whole = list(data.epoch(epoch))
    for start in range(len(data) + 1):
        rest = list(data.epoch(epoch, start=start))
        assert len(rest) == len(data) - start
        for found, expected in zip(rest, whole[start:], strict=True):
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)
