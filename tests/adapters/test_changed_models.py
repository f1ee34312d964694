"""Laws of handles when something is done to the model in between: resized, converted, wrapped, inference."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rosa_bench import attach, load_adapter
from rosa_bench.system.errors import UserError

IDS = torch.arange(5, 21).reshape(2, 8)
exactly = partial(torch.testing.assert_close, rtol=0, atol=0)


@pytest.mark.parametrize("method", ["rosa", "ft"])
@pytest.mark.parametrize(("change", "words"), [
    (lambda model: model.resize_token_embeddings(1000), r"wte.weight is float32 \(1000, 32\), and was .*32\)"),
    (lambda model: model.half(), r"is float16 .* and was float32"),
])  # fmt: skip
def test_an_adapter_that_would_fit_no_model_is_not_saved(
    tiny_model: Callable[..., Any], tmp_path: Path, method: str, change: Callable[[nn.Module], object], words: str
) -> None:
    attached = attach(tiny_model("tiny_gpt2"), method)
    change(attached.model)
    with pytest.raises(UserError, match=f"{words}.*no model would fit this adapter; make such changes before"):
        attached.save(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    assert attached.merge() is attached.model  # the other way out


def test_another_head_may_be_given_after_attaching(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model, again = tiny_model("tiny_roberta"), tiny_model("tiny_roberta")
    attached = attach(model, "rosa", rank=2)
    for it in (model, again):
        it.classifier.out_proj = nn.Linear(32, 5)
    attached.save(tmp_path / "adapter")
    assert torch.equal(
        load_adapter(again, tmp_path / "adapter").model(input_ids=IDS).logits, model(input_ids=IDS).logits
    )


def test_a_model_of_other_sizes_is_not_detached(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("tiny_gpt2")
    plain, rows = copy.deepcopy(model.state_dict()), model.config.vocab_size
    attached = attach(model, "rosa", rank=2, keep_base=True)
    model.resize_token_embeddings(rows + 8)
    resized = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=rf"wte.weight is \({rows + 8}, 32\), and was \({rows}, 32\) when the method"):
        attached.detach()
    exactly(model.state_dict(), resized)
    model.resize_token_embeddings(rows)
    exactly(attached.detach().state_dict(), plain)
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize("method", ["fish_mask", "diff_pruning"])
@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_roberta"])  # whose output weights are the embedding, or have none
def test_a_model_whose_weights_are_formed_is_resized_only_before_or_after(
    tiny_model: Callable[..., Any], name: str, method: str
) -> None:
    model = tiny_model(name)
    rows, labels = model.config.vocab_size, IDS if name == "tiny_gpt2" else torch.tensor([0, 1])
    batches = [{"input_ids": IDS, "labels": labels}]
    attached = attach(model, method, calibration=batches, keep_base=True)
    before = copy.deepcopy(model.state_dict())
    for it in (model, model.base_model, copy.deepcopy(model)):
        with pytest.raises(UserError, match=r"^the embeddings cannot be resized.*before attaching, or merge first$"):
            it.resize_token_embeddings(rows + 8)
    exactly(model.state_dict(), before)
    assert model.get_input_embeddings().num_embeddings == rows
    for way_out in (attached.detach, lambda: attach(model, method, calibration=batches).merge()):
        assert way_out() is model
        rows += 8
        model.resize_token_embeddings(rows)
        assert model.get_input_embeddings().weight.shape[0] == model.config.vocab_size == rows
        assert model(input_ids=IDS + rows - 21).logits.isfinite().all()


@pytest.mark.parametrize("wrap", [pytest.param(torch.compile, marks=pytest.mark.slow), nn.DataParallel])
def test_a_wrapped_model_is_refused(
    tiny_model: Callable[..., Any], tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]
) -> None:
    """Names of parameters would differ from the model's own, and DistributedDataParallel would not see new ones."""
    attach(tiny_model("tiny_roberta"), "lora", rank=2).save(tmp_path / "adapter")
    whole = wrap(tiny_model("tiny_roberta"))
    for call in (lambda: attach(whole, "lora", rank=2), lambda: load_adapter(whole, tmp_path / "adapter")):
        with pytest.raises(UserError, match=r"the model is wrapped by .*; attach to the model itself, and wrap"):
            call()


@pytest.mark.parametrize("method", ["rosa", "diff_pruning", "dora", "houlsby", "prompt_tuning"])
def test_new_layers_are_in_the_mode_of_what_holds_them(
    tiny_model: Callable[..., Any], tmp_path: Path, method: str
) -> None:
    """Pretrained models are in evaluation mode, in which gates have no noise and nothing is dropped out."""
    model = tiny_model("tiny_roberta").eval()
    attached = attach(model, method)
    assert not any(module.training for module in attached.model.modules())
    attached.save(tmp_path / "adapter")
    loaded = load_adapter(tiny_model("tiny_roberta").eval(), tmp_path / "adapter").model
    assert torch.equal(loaded(input_ids=IDS).logits, loaded(input_ids=IDS).logits)
    model = tiny_model("tiny_roberta").train()
    model.roberta.encoder.layer[0].eval()
    attached = attach(model, method, keep_base=True)
    for change in (lambda: model, attached.merge, attached.detach):
        if change != attached.merge or attached.method.mergeable:
            change()
        first, second = model.roberta.encoder.layer
        assert not any(module.training for module in first.modules())
        assert all(module.training for module in second.modules())


def test_what_is_attached_or_merged_in_inference_mode_still_trains(
    tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    model, other = tiny_model("tiny_roberta"), tiny_model("tiny_roberta")
    with torch.inference_mode():
        attached = attach(model, "rosa", rank=2)
        attached.save(tmp_path / "adapter")
        attached.merge()
        attached = load_adapter(other, tmp_path / "adapter", keep_base=True)
        plain = attached.detach()
        attached = attach(plain, "lora", rank=2)
    for it in (model, attached.model):
        it(input_ids=IDS, labels=torch.tensor([0, 1])).loss.backward()
        assert any(parameter.grad is not None for parameter in it.parameters())
