from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rosa_bench.data.batches import Batch, Batches, encode, parts
from rosa_bench.data.rows import Row
from rosa_bench.errors import UserError
from rosa_bench.models.random_weights import byte_tokenizer

TOKENIZER = byte_tokenizer(max_length=512)
PAD = 1  # as RoBERTa has it


def batches(
    rows: list[Row], *, size: int = 4, seed: int | None = 0, max_length: int = 512, pad_to_max: bool = False
) -> Batches:
    return encode(rows, TOKENIZER, max_length=max_length, batch_size=size, seed=seed, pad_to_max=pad_to_max)


def distinct(count: int) -> list[Row]:
    """Rows of different texts and lengths; the label is the number in the text."""
    return [Row((f"{number} " + "x" * (7 * number % 19),), number) for number in range(count)]


def examples(data: Batches, epoch: int = 0) -> list[tuple[str, int | float]]:
    """Text and label of each example of an epoch, in order, decoded again."""
    found = []
    for batch in data.epoch(epoch):
        texts = TOKENIZER.batch_decode(batch["input_ids"], skip_special_tokens=True)
        found += zip(texts, batch["labels"].tolist(), strict=True)
    return found


# Order


@given(st.integers(1, 23), st.integers(1, 8), st.one_of(st.none(), st.integers(0, 2**31)), st.integers(0, 50))
def test_an_epoch_is_every_example_once_with_its_own_label(count: int, size: int, seed: int | None, epoch: int) -> None:
    rows = distinct(count)
    data = batches(rows, size=size, seed=seed)
    assert sorted(examples(data, epoch)) == sorted((row.texts[0], row.label) for row in rows)
    sizes = [len(batch["labels"]) for batch in data.epoch(epoch)]
    assert len(data) == len(sizes) == -(-count // size)
    assert sizes[:-1] == [size] * (len(sizes) - 1)
    assert data.examples == count


def test_order_is_a_function_of_seed_and_epoch() -> None:
    rows = distinct(40)
    orders = {
        (seed, epoch): tuple(examples(batches(rows, seed=seed), epoch)) for seed in range(3) for epoch in range(3)
    }
    assert len(set(orders.values())) == len(orders)
    data = batches(rows, seed=1)
    for epoch in (2, 0, 1, 2):  # in whatever order they are asked for, and again
        assert tuple(examples(data, epoch)) == orders[1, epoch]


@given(st.integers(1, 23), st.integers(1, 8), st.one_of(st.none(), st.integers(0, 99)), st.integers(0, 5))
def test_an_epoch_goes_on_from_any_batch(count: int, size: int, seed: int | None, epoch: int) -> None:
    data = batches(distinct(count), size=size, seed=seed)
    whole = list(data.epoch(epoch))
    for start in range(len(data) + 1):
        rest = list(data.epoch(epoch, start=start))
        assert len(rest) == len(data) - start
        for found, expected in zip(rest, whole[start:], strict=True):
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_order_does_not_touch_the_global_random_numbers() -> None:
    data = batches(distinct(9))
    before = torch.get_rng_state()
    list(data.epoch(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_batches_go_by_length() -> None:
    rows = distinct(20)
    lengths = [len(text) for text, _ in examples(batches(rows, seed=None))]
    assert lengths == sorted(lengths) != [len(row.texts[0]) for row in rows]
    assert examples(batches(rows, seed=None), 0) == examples(batches(rows, seed=None), 3)


# Padding


@pytest.mark.parametrize("seed", [0, None])
def test_a_batch_is_padded_to_its_own_longest_and_masked_there(seed: int | None) -> None:
    widths = set()
    for batch in batches(distinct(20), seed=seed).epoch():
        ids, mask = batch["input_ids"], batch["attention_mask"]
        own = [row[row != PAD] for row in ids]
        assert ids.shape[1] == max(map(len, own))
        assert torch.equal(mask, (ids != PAD).long())
        for row, tokens in zip(ids, own, strict=True):
            assert torch.equal(row[: len(tokens)], tokens)  # padded at the end
            assert TOKENIZER(TOKENIZER.decode(tokens, skip_special_tokens=True))["input_ids"] == tokens.tolist()
        widths.add(ids.shape[1])
    assert len(widths) > 1


@pytest.mark.parametrize("seed", [None, 3])
def test_padded_to_the_most_a_batch_is_the_same_but_for_padding(seed: int | None) -> None:
    plain, padded = (batches(distinct(10), seed=seed, max_length=40, pad_to_max=pad) for pad in (False, True))
    for short, long in zip(plain.epoch(2), padded.epoch(2), strict=True):
        width = short["input_ids"].shape[1]
        assert long["input_ids"].shape == long["attention_mask"].shape == (len(long["labels"]), 40)
        assert torch.equal(long["input_ids"][:, :width], short["input_ids"])
        assert torch.equal(long["attention_mask"][:, :width], short["attention_mask"])
        assert long["input_ids"][:, width:].eq(PAD).all()
        assert not long["attention_mask"][:, width:].any()
        assert torch.equal(long["labels"], short["labels"])


def test_a_batch_holds_what_the_model_takes() -> None:
    for batch in batches(distinct(5)).epoch():
        assert set(batch) == {"input_ids", "attention_mask", "labels"}
        assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_values_stay_values_and_classes_classes() -> None:
    [values] = batches([Row(("a",), 2.5), Row(("b",), 0.0)], seed=None).epoch()
    assert values["labels"].dtype == torch.float32
    assert values["labels"].tolist() == [2.5, 0.0]
    [classes] = batches([Row(("a",), 1), Row(("b",), 0)], seed=None).epoch()
    assert classes["labels"].dtype == torch.int64


# Pairs and lengths


def test_a_pair_is_joined_as_the_tokenizer_joins_it() -> None:
    [batch] = batches([Row(("ab", "c"), 1)]).epoch()
    assert TOKENIZER.decode(batch["input_ids"][0]) == "<s>ab</s></s>c</s>"
    assert batch["input_ids"][0].tolist() == TOKENIZER("ab", "c")["input_ids"]


@pytest.mark.parametrize("max_length", [4, 8, 20])
@pytest.mark.parametrize("texts", [("abcdefghij" * 2,), ("abcdefghij" * 2, "xyz"), ("x", "abcdefghij" * 2)])
def test_no_example_is_longer_than_the_most_tokens(texts: tuple[str, ...], max_length: int) -> None:
    [batch] = batches([Row(texts, 1)], max_length=max_length).epoch()
    assert batch["input_ids"].shape[1] <= max_length


@pytest.mark.parametrize(("texts", "max_length"), [(("abc",), 1), (("abc", "d"), 3)])
def test_a_length_that_the_joining_tokens_alone_exceed_is_told(texts: tuple[str, ...], max_length: int) -> None:
    with pytest.raises(UserError, match=f"max_length={max_length}"):
        batches([Row(texts, 1)], max_length=max_length)


def test_the_longer_text_of_a_pair_is_cut_first() -> None:
    [batch] = batches([Row(("a" * 30, "bcd"), 1), Row(("bcd", "a" * 30), 0)], max_length=15, seed=None).epoch()
    for text in TOKENIZER.batch_decode(batch["input_ids"]):
        assert "bcd" in text
        assert text.count("a") == 15 - 4 - 3  # four tokens join them


def test_examples_that_fill_the_length_are_counted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="rosa_bench"):
        batches([Row(("abc",), 1), Row(("a" * 20,), 1), Row(("b" * 30,), 0)], max_length=10)
        batches([Row(("abc",), 1)], max_length=10)
    assert [record.getMessage().split(" fill")[0] for record in caplog.records] == ["2 of 3 examples"]


# Parts


@given(st.integers(1, 12), st.integers(1, 15))
def test_parts_cover_the_batch_in_order_and_evenly(count: int, into: int) -> None:
    batch: Batch = {"input_ids": torch.arange(count * 3).reshape(count, 3), "labels": torch.arange(count)}
    split = parts(batch, into)
    assert len(split) == min(into, count)
    for name, tensor in batch.items():
        assert torch.equal(torch.cat([part[name] for part in split]), tensor)
    sizes = [len(part["labels"]) for part in split]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert all(torch.equal(part["input_ids"][:, 0], 3 * part["labels"]) for part in split)


def test_a_part_is_what_its_rows_were() -> None:
    [batch] = batches(distinct(6), size=6).epoch()
    for part in parts(batch, 4):
        assert set(part) == set(batch)
        labels: Tensor = part["labels"]
        texts: list[Any] = TOKENIZER.batch_decode(part["input_ids"], skip_special_tokens=True)
        assert [text.split(" ")[0] for text in texts] == [str(label) for label in labels.tolist()]
