"""Logits at chosen positions only, compared with all logits and with the gradients of the plain loss."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel

from rosa_bench.data.batches import IGNORED
from rosa_bench.models.logits.kept_logits import gather_positions, keep_logits_by_row, takes_positions

MODELS = ("tiny_gpt2", "tiny_llama")
# Both ways: what transformers does by itself, if it can, and the hooks for versions that cannot.
WAYS = {"native": keep_logits_by_row, "hooks": gather_positions}


@pytest.fixture(params=[(model, way) for model in MODELS for way in WAYS], ids=" ".join)
def model(request: pytest.FixtureRequest, tiny_model: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    name, way = request.param
    made = tiny_model(name).double()
    del made.forward  # the loss in chunks keeps no logits
    assert WAYS[way](made)
    return made


def batches() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the same rows twice: with the positions to keep and their labels, and with labels for all positions."""
    ids = torch.randint(5, 261, (3, 12), generator=torch.Generator().manual_seed(0))
    kept = torch.tensor([[1], [4], [8]]) + torch.arange(4)  # the last row has no padding
    every = torch.full_like(ids, IGNORED).scatter_(1, kept[:, 1:], ids.gather(1, kept[:, 1:]))
    chosen = {"input_ids": ids, "labels": every.gather(1, kept), "logits_to_keep": kept}
    return chosen, {"input_ids": ids, "labels": every}


def loss_in_double(logits: Tensor, labels: Tensor, **_: Any) -> Tensor:
    """Compute the mean loss without transformers' conversion to float32."""
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def loss_and_gradients(model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    model.loss_function = loss_in_double
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_loss_and_gradients_are_those_of_all_logits(model: PreTrainedModel) -> None:
    kept, every = batches()
    loss, gradients = loss_and_gradients(model, kept)
    expected, wanted = loss_and_gradients(model, every)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-9, atol=1e-14, msg=name)


def test_logits_are_those_of_the_kept_positions(model: PreTrainedModel) -> None:
    kept, every = batches()
    with torch.inference_mode():
        found, wanted = model(**kept).logits, model(**every).logits
    assert found.shape == (3, 4, 261)
    torch.testing.assert_close(found, wanted.take_along_dim(kept["logits_to_keep"][..., None], 1))
    assert model(input_ids=kept["input_ids"]).logits.shape == (3, 12, 261)  # nothing is left over for the next call


def test_a_copy_keeps_logits_by_itself(model: PreTrainedModel) -> None:
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(1.5)
    assert takes_positions(copied) and takes_positions(model)


def test_the_saved_model_is_a_plain_one(model: PreTrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert [name for name, _ in loaded.named_modules()] == [name for name, _ in model.named_modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in loaded.modules())


def test_a_model_that_cannot_is_left_alone(tiny_model: Callable[..., PreTrainedModel]) -> None:
    assert not keep_logits_by_row(tiny_model("tiny_bert"))  # has no such argument
