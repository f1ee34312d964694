"""Prompt tuning with PEFT, beyond the laws of every method: how the prompt starts, and which texts it refuses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rosa_bench.config.schema import RunConfig
from rosa_bench.methods.peft.prompt_tuning import INITS, PromptTuning
from rosa_bench.system.errors import UserError

Compose = Callable[..., RunConfig]
Tiny = Callable[..., PreTrainedModel]


def method_of(compose: Compose, **changes: Any) -> PromptTuning:
    chosen = compose("task=grammar", "model=tiny_roberta", "method=prompt_tuning").method
    assert isinstance(chosen, PromptTuning)
    return replace(chosen, **changes)


def prompt_of(model: Any) -> Tensor:
    return model.get_parameter("virtual_tokens.encoder.embedding.weight")


def weight_of_embeddings(model: PreTrainedModel) -> Tensor:
    return model.get_parameter("roberta.embeddings.word_embeddings.weight").detach()


def test_the_prompt_precedes_the_embedded_text(compose: Compose, tiny_model: Tiny) -> None:
    base, ids = tiny_model("tiny_roberta"), torch.tensor([[0, 17, 30, 2], [0, 9, 2, 1]])
    vocabulary = weight_of_embeddings(base)
    mask = (ids != 1).long()
    model: Any = method_of(compose, tokens=3).attach(tiny_model("tiny_roberta"))
    embedded = torch.cat([prompt_of(model).expand(2, -1, -1), vocabulary[ids]], 1)
    whole_mask = torch.cat([torch.ones(2, 3).long(), mask], 1)
    with torch.no_grad():
        expected = base(inputs_embeds=embedded, attention_mask=whole_mask).logits
        found = model.eval()(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_prompt_starts_from_vocabulary_embeddings_or_at_their_scale(compose: Compose, tiny_model: Tiny) -> None:
    vocabulary = weight_of_embeddings(tiny_model("tiny_roberta"))
    start = prompt_of(method_of(compose, tokens=9).attach(tiny_model("tiny_roberta")))
    assert all(any(torch.equal(row, token) for token in vocabulary) for row in start)
    normal = prompt_of(method_of(compose, tokens=90, init="normal").attach(tiny_model("tiny_roberta")))
    assert normal.std().item() == pytest.approx(vocabulary.std().item(), rel=0.1)  # 2,880 numbers: 1.3 % is one sigma


@pytest.mark.parametrize("init", INITS)
def test_the_prompt_depends_only_on_the_methods_seed(compose: Compose, tiny_model: Tiny, init: str) -> None:
    method = method_of(compose, init=init)
    first = prompt_of(method.attach(tiny_model("tiny_roberta")))
    torch.manual_seed(99)
    assert torch.equal(prompt_of(method.attach(tiny_model("tiny_roberta"))), first)
    assert not torch.equal(prompt_of(replace(method, seed=1).attach(tiny_model("tiny_roberta"))), first)


def test_a_prompt_and_text_that_exceed_the_positions_are_refused(compose: Compose, tiny_model: Tiny) -> None:
    with pytest.raises(UserError, match=r"tokens=1000 leaves no room for text"):
        method_of(compose, tokens=1000).attach(tiny_model("tiny_roberta"))
    model: Any = method_of(compose, tokens=20).attach(tiny_model("tiny_roberta"))
    longest = model.config.max_position_embeddings - 2 - 20  # RoBERTa skips two positions
    model(input_ids=torch.full((1, longest), 7))
    with pytest.raises(UserError, match=rf"use max_length={longest} or fewer method\.tokens"):
        model(input_ids=torch.full((1, longest + 1), 7))


def test_missing_peft_is_reported_in_one_line(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = method_of(compose)
    monkeypatch.setattr("rosa_bench.methods.peft.tuner.find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"needs the package peft; install it: pip install 'rosa-bench\[peft\]'"):
        replace(chosen, tokens=5)
