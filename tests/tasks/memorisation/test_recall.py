"""Recall by teacher forcing, compared with transformers' greedy decoding, and the law of stored bits."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from rosa_bench.data.generators import generate
from rosa_bench.models.logits.kept_logits import keep_logits_by_row
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.tasks.memorisation.recall import CountDigits, recall
from rosa_bench.tasks.memorisation.sequences import NumberBatches, digit_tokens, encode

CPU = torch.device("cpu")
PAIRS, DIGITS = 24, 3
ROWS = generate("phonebook", "train", pairs=PAIRS, digits=DIGITS, seed=0)
TOKENIZER = byte_tokenizer(max_length=512)
BITS = PAIRS * DIGITS * math.log2(10)


def scored(model: nn.Module, *, batch_size: int = 7, keep_logits: bool = True) -> dict[str, float]:
    tensors = encode(ROWS, TOKENIZER, max_length=64, keep_logits=keep_logits)
    return recall(model, NumberBatches(tensors, batch_size=batch_size), digits=DIGITS, device=CPU, autocast=nullcontext)


def train(model: PreTrainedModel, steps: int) -> None:
    tensors = encode(ROWS, TOKENIZER, max_length=64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        model(**tensors).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama"])
def test_recall_is_what_greedy_decoding_writes(tiny_model: Callable[..., PreTrainedModel], name: str) -> None:
    model = tiny_model(name)
    assert keep_logits_by_row(model)
    train(model, 45)
    found = scored(model)

    greedy = GenerationConfig(max_new_tokens=DIGITS, do_sample=False, pad_token_id=1)
    right = 0
    for row in ROWS:
        ids = torch.tensor([[0, *TOKENIZER(f"{row['name']}:", add_special_tokens=False)["input_ids"]]])
        [tokens] = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=greedy)  # pyrefly: ignore[not-callable]
        right += TOKENIZER.decode(tokens[ids.shape[1] :]) == row["number"]
    assert found["recall"] == right / PAIRS
    assert 0 < found["recall"] < 1  # some are right and some are wrong
    assert found["recall"] < found["digit_accuracy"] < 1
    assert scored(model.train()) == found  # without dropout


def test_scores_do_not_depend_on_batches_or_kept_logits(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model("tiny_llama")
    assert keep_logits_by_row(model)
    train(model, 60)
    expected = scored(model, batch_size=PAIRS)
    for found in (scored(model, batch_size=5), scored(model, keep_logits=False)):
        assert found == pytest.approx(expected, rel=1e-5)


class Certain(nn.Module):
    """Predicts each digit's label with logit ``height`` above the other digits; tokens that are no digits have none."""

    def __init__(self, height: float):
        super().__init__()
        self.height = height

    def forward(self, input_ids: Tensor, logits_to_keep: Tensor) -> SimpleNamespace:
        logits = torch.full((*logits_to_keep.shape, 261), -torch.inf)
        logits[..., list(digit_tokens(TOKENIZER).values())] = 0.0
        following = input_ids.gather(1, logits_to_keep[:, 1:])
        logits[:, :-1].scatter_(-1, following[..., None], self.height)
        return SimpleNamespace(logits=logits)


def test_stored_bits_are_none_for_a_guess_and_all_for_a_certain_model() -> None:
    guess, certain, wrong = scored(Certain(0.0)), scored(Certain(50.0)), scored(Certain(-50.0))
    assert guess["bits_stored"] == pytest.approx(0, abs=1e-4)
    assert guess["loss"] == pytest.approx(math.log(10))
    assert certain["bits_stored"] == pytest.approx(BITS)
    assert (certain["recall"], certain["digit_accuracy"]) == (1, 1)
    assert (wrong["recall"], wrong["digit_accuracy"], wrong["bits_stored"]) == (0, 0, 0)
    half = math.log(9)  # the right digit has probability 1/2: one bit is missing per digit
    assert scored(Certain(half))["bits_stored"] == pytest.approx(BITS - PAIRS * DIGITS, rel=1e-5)


def test_equal_evaluations_of_a_model_are_equal_steps(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model("tiny_llama")
    assert CountDigits(model, nullcontext) == CountDigits(model, nullcontext)
    assert len({CountDigits(model, nullcontext), CountDigits(model, nullcontext)}) == 1
