import string
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rosa_bench.data.batches import GROUPED_BATCHES, IGNORED, WIDTHS, Batch, TokenBatches, encode, parts, targets
from rosa_bench.data.rows import Row
from rosa_bench.data.token_cache import Tokens
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.system.errors import UserError

TOKENIZER = byte_tokenizer(max_length=512)
PAD = 1  # as in RoBERTa


def batches(
    rows: list[Row],
    *,
    size: int = 4,
    seed: int | None = 0,
    max_length: int = 512,
    tokenizer: PreTrainedTokenizerFast = TOKENIZER,
    **options: bool,
) -> TokenBatches:
    return encode(rows, tokenizer, max_length=max_length, batch_size=size, seed=seed, **options)


def distinct(count: int) -> list[Row]:
    """Rows with distinct texts and lengths. The label is the number in the text."""
    return [Row((f"{number} " + "x" * (7 * number % 19),), number) for number in range(count)]


def examples(data: TokenBatches, epoch: int = 0) -> list[tuple[str, int | float]]:
    """Decoded text and label of each example of an epoch, in order."""
    found = []
    for batch in data.epoch(epoch):
        texts = TOKENIZER.batch_decode(batch["input_ids"], skip_special_tokens=True)
        found += zip(texts, batch["labels"].tolist(), strict=True)
    return found


def test_only_labels_that_enter_the_loss_are_counted() -> None:
    assert targets({"labels": torch.tensor([[IGNORED, 3, 0], [4, IGNORED, IGNORED]])}) == 3


# Order


def test_what_is_computed_by_batch_returns_to_the_order_of_rows() -> None:
    data = batches(distinct(23), seed=None)
    labels = torch.cat([batch["labels"] for batch in data.epoch()])
    assert data.in_row_order(labels).tolist() == list(range(23)) != labels.tolist()


@given(st.integers(1, 23), st.integers(1, 8), st.one_of(st.none(), st.integers(0, 2**31)), st.integers(0, 50))
def test_an_epoch_has_every_example_once_with_its_label(count: int, size: int, seed: int | None, epoch: int) -> None:
    rows = distinct(count)
    data = batches(rows, size=size, seed=seed)
    assert sorted(examples(data, epoch)) == sorted((row.texts[0], row.label) for row in rows)
    sizes = [len(batch["labels"]) for batch in data.epoch(epoch)]
    assert len(data) == len(sizes) == -(-count // size)
    assert sizes[:-1] == [size] * (len(sizes) - 1)
    assert data.examples == count


def test_order_depends_only_on_seed_and_epoch() -> None:
    rows = distinct(40)
    orders = {
        (seed, epoch): tuple(examples(batches(rows, seed=seed), epoch)) for seed in range(3) for epoch in range(3)
    }
    assert len(set(orders.values())) == len(orders)
    data = batches(rows, seed=1)
    for epoch in (2, 0, 1, 2):  # in any order, and repeatedly
        assert tuple(examples(data, epoch)) == orders[1, epoch]


@given(st.integers(1, 23), st.integers(1, 8), st.one_of(st.none(), st.integers(0, 99)), st.integers(0, 5))
def test_an_epoch_can_resume_at_any_batch(count: int, size: int, seed: int | None, epoch: int) -> None:
    data = batches(distinct(count), size=size, seed=seed)
    whole = list(data.epoch(epoch))
    for start in range(len(data) + 1):
        rest = list(data.epoch(epoch, start=start))
        assert len(rest) == len(data) - start
        for found, expected in zip(rest, whole[start:], strict=True):
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_order_does_not_use_the_global_generator() -> None:
    data = batches(distinct(9))
    before = torch.get_rng_state()
    list(data.epoch(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_batches_are_sorted_by_length() -> None:
    rows = distinct(20)
    lengths = [len(text) for text, _ in examples(batches(rows, seed=None))]
    assert lengths == sorted(lengths) != [len(row.texts[0]) for row in rows]
    assert examples(batches(rows, seed=None), 0) == examples(batches(rows, seed=None), 3)


# Padding


@pytest.mark.parametrize("seed", [0, None])
def test_a_batch_is_padded_to_its_longest_example_and_masked(seed: int | None) -> None:
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
def test_pad_to_max_changes_only_the_padding(seed: int | None) -> None:
    plain, padded = (batches(distinct(10), seed=seed, max_length=40, pad_to_max=pad) for pad in (False, True))
    for short, long in zip(plain.epoch(2), padded.epoch(2), strict=True):
        width = short["input_ids"].shape[1]
        assert long["input_ids"].shape == long["attention_mask"].shape == (len(long["labels"]), 40)
        assert torch.equal(long["input_ids"][:, :width], short["input_ids"])
        assert torch.equal(long["attention_mask"][:, :width], short["attention_mask"])
        assert long["input_ids"][:, width:].eq(PAD).all()
        assert not long["attention_mask"][:, width:].any()
        assert torch.equal(long["labels"], short["labels"])


@pytest.mark.parametrize("pad_to_max", [False, True])
def test_only_padded_batches_have_a_mask(pad_to_max: bool) -> None:
    rows = [Row(("x" * length,), 0) for length in (3, 3, 3, 8, 8, 10)]  # alike, alike but for the last; and full
    data = batches(rows, size=3, seed=None, max_length=12, pad_to_max=pad_to_max)
    masked = []
    for batch in data.epoch():
        padded = bool(batch["input_ids"].eq(PAD).any())
        assert set(batch) == {"input_ids", "labels"} | ({"attention_mask"} if padded else set())
        assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
        masked.append(padded)
    assert masked == [pad_to_max, True]


def test_always_masking_changes_nothing_else() -> None:
    rows = [Row(("x" * length,), length) for length in (3, 3, 8, 10)]
    data = batches(rows, size=2, seed=None)
    plain = list(data.epoch())
    data.masked = True
    assert ["attention_mask" in batch for batch in plain] == [False, True]
    for batch, expected in zip(data.epoch(), plain, strict=True):
        assert torch.equal(batch.pop("attention_mask"), (batch["input_ids"] != PAD).long())
        expected.pop("attention_mask", None)
        assert batch.keys() == expected.keys()
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


def typed_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with token types, like BERT's, whose padding type differs from those of both texts."""
    names = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", *string.ascii_lowercase)
    backend = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    tokenizer._pad_token_type_id = 7
    return tokenizer


PAIRS = [Row(("a" * (1 + 3 * number % 5), "b" * (1 + 5 * number % 7)), number) for number in range(11)]


@pytest.mark.parametrize("pad_to_max", [False, True])
@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("rows", [distinct(11), PAIRS], ids=["singles", "pairs"])
@pytest.mark.parametrize("tokenizer", [TOKENIZER, typed_tokenizer()], ids=["bytes", "typed"])
def test_a_batch_equals_the_tokenizers_own_padding(
    tokenizer: PreTrainedTokenizerFast, rows: list[Row], seed: int | None, pad_to_max: bool
) -> None:
    data = batches(rows, seed=seed, max_length=14, tokenizer=tokenizer, pad_to_max=pad_to_max)
    for batch in data.epoch(3):
        texts: Any = [list(column) for column in zip(*(rows[number].texts for number in batch["labels"]), strict=True)]
        encoded = tokenizer(*texts, truncation=True, max_length=14)
        expected = tokenizer.pad(
            encoded, padding="max_length" if pad_to_max else "longest", max_length=14, return_tensors="pt"
        )
        if expected["attention_mask"].all():
            expected.pop("attention_mask")
        assert set(batch) == {*expected, "labels"}
        for name in expected:
            assert torch.equal(batch[name], expected[name]), name


# Widths


def test_on_the_cpu_a_batch_is_as_wide_as_its_longest_example() -> None:
    data = batches(distinct(3))
    assert [data.width(longest) for longest in range(1, 600)] == list(range(1, 600))


@pytest.mark.parametrize("max_length", [1, 7, 8, 50, 128, 500, 512, 2048, 4096])
def test_on_other_devices_batches_have_few_widths_with_little_padding(max_length: int) -> None:
    data = TokenBatches(
        Tokens.of({"input_ids": [[5]]}), None, fills={"input_ids": PAD}, longest=max_length, batch_size=1
    )
    data.model_device = torch.device("meta")  # any device but the CPU; only its type matters
    widths = [data.width(longest) for longest in range(1, max_length + 1)]
    for longest, width in enumerate(widths, start=1):
        assert longest <= width <= max_length
        larger = [known for known in WIDTHS if known >= longest]
        assert width == min([*larger, max_length] if larger else [longest])
        assert longest <= 16 or width - longest < width / 3  # less than a third is padding
    if max_length <= WIDTHS[-1]:
        assert len(set(widths)) <= len(WIDTHS)


def test_a_batch_beyond_the_longest_input_is_as_wide_as_its_tokens() -> None:
    # `longest` is the model's limit. Whether the texts respect it is checked earlier, not here.
    data = batches(distinct(3), max_length=20)
    data.model_device = torch.device("meta")
    assert data.width(30) == 30


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_pad_to_max_gives_one_width(device: str) -> None:
    data = batches(distinct(3), max_length=50, pad_to_max=True)
    data.model_device = torch.device(device)
    assert {data.width(longest) for longest in range(1, 51)} == {50}


@pytest.mark.gpu
@pytest.mark.parametrize("seed", [None, 2])
def test_on_a_gpu_batches_are_only_wider(seed: int | None) -> None:
    rows = distinct(23)
    for here, there in zip(
        batches(rows, seed=seed).epoch(1), batches(rows, seed=seed).to(torch.device("cuda")).epoch(1), strict=True
    ):
        assert {tensor.device.type for tensor in there.values()} == {"cuda"}
        width = here["input_ids"].shape[1]
        assert there["input_ids"].shape[1] in WIDTHS
        assert torch.equal(there["input_ids"][:, :width].cpu(), here["input_ids"])
        assert there["input_ids"][:, width:].eq(PAD).all()
        assert torch.equal(there["labels"].cpu(), here["labels"])


def test_moved_batches_are_equal_and_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    data = batches(distinct(9))
    before = list(data.epoch(1))
    assert data.to(torch.device("cpu")) is data
    for batch, expected in zip(data.epoch(1), before, strict=True):
        assert all(torch.equal(batch[name], expected[name]) for name in expected)
    data.to(torch.device("meta"))
    assert {tensor.device.type for tensor in data.tensors.values()} == {"meta"}
    monkeypatch.setattr("rosa_bench.data.batches.has_room", lambda *_: False)
    stays = batches(distinct(9)).to(torch.device("meta"))
    assert stays.device.type == "cpu"
    assert {tensor.device.type for tensor in stays.tensors.values()} == {"cpu"}
    assert {batch["input_ids"].shape[1] for batch in stays.epoch(1)} <= set(WIDTHS)  # the model's device matters
    assert {batch["input_ids"].shape[1] for batch in before} - set(WIDTHS)


# Grouping by length


def scattered(count: int) -> list[Row]:
    """Rows with lengths from 1 to 30 in random order."""
    return [Row((f"{number} " + "x" * (number * number % 31),), number) for number in range(count)]


def padding(data: TokenBatches, epoch: int = 0) -> int:
    return sum(int(batch["input_ids"].eq(PAD).sum()) for batch in data.epoch(epoch))


@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 2**31), st.integers(0, 5))
def test_a_grouped_epoch_has_every_example_once(count: int, size: int, seed: int, epoch: int) -> None:
    rows = scattered(count)
    found = examples(batches(rows, size=size, seed=seed, grouped=True), epoch)
    assert sorted(found) == sorted((row.texts[0], row.label) for row in rows)


def test_grouped_order_depends_only_on_seed_and_epoch() -> None:
    rows = scattered(60)
    orders = {
        (seed, epoch): tuple(examples(batches(rows, seed=seed, grouped=True), epoch))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(orders.values())) == len(orders)
    data = batches(rows, seed=1, grouped=True)
    for epoch in (2, 0, 1, 2):
        assert tuple(examples(data, epoch)) == orders[1, epoch]
    rest = [batch["labels"].tolist() for batch in data.epoch(2, start=4)]
    assert rest == [batch["labels"].tolist() for batch in data.epoch(2)][4:]


@pytest.mark.parametrize("size", [1, 4])
def test_each_group_is_sorted_longest_first(size: int) -> None:
    rows = scattered(GROUPED_BATCHES * size * 2 + 3)
    # Groups are sampled as without grouping: the same examples are in the same fifty batches.
    plain, grouped = (examples(batches(rows, size=size, seed=5, grouped=grouped), 1) for grouped in (False, True))
    for start in range(0, len(rows), GROUPED_BATCHES * size):
        group = slice(start, start + GROUPED_BATCHES * size)
        lengths = [len(text) for text, _ in grouped[group]]
        assert lengths == sorted(lengths, reverse=True)
        assert sorted(grouped[group]) == sorted(plain[group])
    assert grouped != sorted(grouped, key=lambda example: -len(example[0]))  # fifty batches, but not all


@pytest.mark.parametrize("seed", range(3))
def test_grouping_reduces_padding(seed: int) -> None:
    rows = scattered(500)
    assert 5 * padding(batches(rows, seed=seed, grouped=True)) < padding(batches(rows, seed=seed))


def test_no_grouping_by_default_or_without_a_seed() -> None:
    rows = scattered(40)
    assert examples(batches(rows)) == examples(batches(rows, grouped=False)) != examples(batches(rows, grouped=True))
    assert examples(batches(rows, seed=None, grouped=True)) == examples(batches(rows, seed=None))


def test_values_are_floats_and_classes_are_integers() -> None:
    [values] = batches([Row(("a",), 2.5), Row(("b",), 0.0)], seed=None).epoch()
    assert values["labels"].dtype == torch.float32
    assert values["labels"].tolist() == [2.5, 0.0]
    [classes] = batches([Row(("a",), 1), Row(("b",), 0)], seed=None).epoch()
    assert classes["labels"].dtype == torch.int64


# Pairs and lengths


def test_a_pair_is_joined_by_the_tokenizer() -> None:
    [batch] = batches([Row(("ab", "c"), 1)]).epoch()
    assert TOKENIZER.decode(batch["input_ids"][0]) == "<s>ab</s></s>c</s>"
    assert batch["input_ids"][0].tolist() == TOKENIZER("ab", "c")["input_ids"]


@pytest.mark.parametrize("max_length", [4, 8, 20])
@pytest.mark.parametrize("texts", [("abcdefghij" * 2,), ("abcdefghij" * 2, "xyz"), ("x", "abcdefghij" * 2)])
def test_no_example_exceeds_max_length(texts: tuple[str, ...], max_length: int) -> None:
    [batch] = batches([Row(texts, 1)], max_length=max_length).epoch()
    assert batch["input_ids"].shape[1] <= max_length


@pytest.mark.parametrize(("texts", "max_length"), [(("abc",), 1), (("abc", "d"), 3)])
def test_a_max_length_below_the_special_tokens_is_an_error(texts: tuple[str, ...], max_length: int) -> None:
    with pytest.raises(UserError, match=f"max_length={max_length}"):
        batches([Row(texts, 1)], max_length=max_length)


def test_the_longer_text_of_a_pair_is_truncated_first() -> None:
    [batch] = batches([Row(("a" * 30, "bcd"), 1), Row(("bcd", "a" * 30), 0)], max_length=15, seed=None).epoch()
    for text in TOKENIZER.batch_decode(batch["input_ids"]):
        assert "bcd" in text
        assert text.count("a") == 15 - 4 - 3  # four tokens join the pair


def test_truncated_examples_are_counted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="rosa_bench"):
        batches([Row(("abc",), 1), Row(("a" * 20,), 1), Row(("b" * 30,), 0)], max_length=10)
        batches([Row(("abc",), 1)], max_length=10)
    assert [record.getMessage().split(" reach")[0] for record in caplog.records] == ["2 of 3 examples"]


# Parts


@given(st.integers(1, 12), st.integers(1, 15))
def test_parts_split_the_batch_evenly_and_in_order(count: int, into: int) -> None:
    batch: Batch = {"input_ids": torch.arange(count * 3).reshape(count, 3), "labels": torch.arange(count)}
    split = parts(batch, into)
    assert len(split) == min(into, count)
    for name, tensor in batch.items():
        assert torch.equal(torch.cat([part[name] for part in split]), tensor)
    sizes = [len(part["labels"]) for part in split]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert all(torch.equal(part["input_ids"][:, 0], 3 * part["labels"]) for part in split)


def test_a_part_keeps_the_rows_of_the_batch() -> None:
    [batch] = batches(distinct(6), size=6).epoch()
    for part in parts(batch, 4):
        assert set(part) == set(batch)
        labels: Tensor = part["labels"]
        texts: list[Any] = TOKENIZER.batch_decode(part["input_ids"], skip_special_tokens=True)
        assert [text.split(" ")[0] for text in texts] == [str(label) for label in labels.tolist()]
