from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from rosa_bench.data.batches import IGNORED
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.language_modelling.packing import Packed, PackedBatches, join, pack

TOKENIZER = byte_tokenizer(max_length=64)
END: Any = TOKENIZER.eos_token_id

shapes = st.tuples(st.integers(2, 9), st.integers(1, 3)).filter(lambda shape: shape[1] < shape[0])


def labels_of(packed: Packed) -> Tensor:
    return packed.labels[packed.labels != IGNORED]


@given(st.integers(0, 60), shapes)
def test_with_the_rest_every_token_is_a_label_once_and_in_order(size: int, shape: tuple[int, int]) -> None:
    length, context = shape
    stream = torch.arange(100, 100 + size)
    packed = pack(stream, length, context=context, keep_rest=True, filler=7)
    assert packed.input_ids.shape == packed.labels.shape == (len(packed.labels), length)
    assert labels_of(packed).tolist() == stream[context:].tolist()
    assert packed.tokens == max(0, size - context)


@given(st.integers(0, 60), shapes)
def test_without_the_rest_less_than_a_row_is_lost_at_the_end(size: int, shape: tuple[int, int]) -> None:
    length, context = shape
    stream = torch.arange(100, 100 + size)
    packed = pack(stream, length, context=context)
    kept = labels_of(packed)
    assert kept.tolist() == stream[context : context + len(kept)].tolist()
    assert 0 <= max(0, size - context) - len(kept) < length - context
    assert bool((packed.labels[:, context:] != IGNORED).all())  # no padding: rows differ in nothing but their tokens


@given(st.integers(0, 60), shapes, st.booleans())
def test_a_row_is_a_piece_of_the_stream_and_each_label_is_its_own_token(
    size: int, shape: tuple[int, int], keep_rest: bool
) -> None:
    length, context = shape
    stream = list(range(100, 100 + size))
    for tokens, labels in zip(*pack(torch.tensor(stream, dtype=torch.int64), length, context=context,
                                    keep_rest=keep_rest, filler=7), strict=True):  # fmt: skip
        written = [token for token in tokens.tolist() if token != 7]
        assert written == stream[written[0] - 100 : written[0] - 100 + len(written)]
        assert labels[:context].eq(IGNORED).all()
        counted = labels != IGNORED
        assert torch.equal(labels[counted], tokens[counted])
        assert int(counted.sum()) == len(written) - context


@given(st.lists(st.text(max_size=6), min_size=1, max_size=6))
def test_joined_documents_can_be_told_apart_again(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    stream = join(texts, TOKENIZER).tolist()
    assert stream[0] == stream[-1] == END
    ends = [place for place, token in enumerate(stream) if token == END]
    pieces = [stream[start + 1 : end] for start, end in pairwise(ends)]
    assert [TOKENIZER.decode(piece) for piece in pieces] == texts


def test_many_documents_are_joined_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [str(number) for number in range(23)]
    whole = join(texts, TOKENIZER)
    monkeypatch.setattr("rosa_bench.tasks.language_modelling.packing.BATCH", 5)
    assert torch.equal(join(texts, TOKENIZER), whole)


def test_a_tokenizer_without_an_end_is_refused() -> None:
    endless = byte_tokenizer(max_length=64)
    endless.eos_token = None
    with pytest.raises(UserError, match="no EOS token"):
        join(["a"], endless)


def test_batches_have_one_width_and_no_mask() -> None:
    packed = pack(torch.arange(50), 8)
    batches = list(PackedBatches(packed, batch_size=3, seed=1).epoch())
    assert all(set(batch) == {"input_ids", "labels"} for batch in batches)
    assert {batch["input_ids"].shape[1] for batch in batches} == {8}
    rows = torch.cat([batch["input_ids"] for batch in batches])
    assert sorted(rows[:, 0].tolist()) == packed.input_ids[:, 0].tolist()
    assert rows[:, 0].tolist() != packed.input_ids[:, 0].tolist()  # shuffled


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama"])
def test_the_filler_of_a_last_row_changes_nothing(
    tiny_model: Callable[..., PreTrainedModel], loud: Callable[[PreTrainedModel], PreTrainedModel], name: str
) -> None:
    model = loud(tiny_model(name))
    stream = torch.randint(5, 261, (14,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        losses = []
        for filler in (0, END, 200):
            packed = pack(stream, 20, keep_rest=True, filler=filler)
            losses.append(model(input_ids=packed.input_ids, labels=packed.labels).loss.item())
        alone = model(input_ids=stream[None], labels=stream[None]).loss.item()
    assert losses == pytest.approx([alone] * 3, rel=1e-6)
