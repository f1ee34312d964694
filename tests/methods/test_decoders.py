"""Laws of methods on language models: fused projections, grouped queries and a tied output layer."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.adapter import adapters
from rosa_bench.layers.low_rank import LowRankLinear, low_rank_layers
from rosa_bench.layers.scaled import ScaledLinear
from rosa_bench.layers.structure.linear import weight_of
from rosa_bench.methods.rosa import Rosa
from rosa_bench.system.errors import UserError

Compose = Callable[..., RunConfig]
Tiny = Callable[..., PreTrainedModel]

ADAPTING = ("lora", "lora_plus", "rosa", "ia3")
TOKENS = torch.randint(5, 261, (3, 11), generator=torch.Generator().manual_seed(1))
ALL = "method.targets=all-linear"


def logits(model: PreTrainedModel) -> Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=TOKENS).logits


def input_weight(model: PreTrainedModel) -> Tensor:
    return model.get_parameter(
        "transformer.wte.weight" if model.config.model_type == "gpt2" else "model.embed_tokens.weight"
    )


def output_weight(model: PreTrainedModel) -> Tensor:
    return model.get_parameter("lm_head.weight")


def attach(compose: Compose, model: PreTrainedModel, name: str, *overrides: str) -> Any:
    spec = "tiny_gpt2" if model.config.model_type == "gpt2" else "tiny_llama"
    method = compose("task=restaurants", f"model={spec}", f"method={name}", "rank=4", *overrides).method
    method.attach(model)
    return method


def move(model: PreTrainedModel) -> None:
    """Change every trainable parameter, so that training has an effect."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


# The same function, before and after


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("protocol", ["paper", "fair"])
@pytest.mark.parametrize("name", ["rosa", "ia3"])
def test_attaching_keeps_the_function(
    tiny_model: Tiny, compose: Compose, name: str, protocol: str, split: bool
) -> None:
    model = tiny_model("tiny_gpt2")
    before = logits(model)
    attach(compose, model, name, f"protocol={protocol}", f"method.split_qkv={split}")
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("overrides", [(), ("method.split_qkv=true",), (ALL,)])
@pytest.mark.parametrize("protocol", ["paper", "fair"])
@pytest.mark.parametrize("name", ADAPTING)
@pytest.mark.parametrize("kind", ["tiny_gpt2", "tiny_llama"])
def test_merging_keeps_the_learnt_function_in_plain_layers(  # noqa: PLR0917 - pytest names them
    tiny_model: Tiny, compose: Compose, kind: str, name: str, protocol: str, overrides: tuple[str, ...]
) -> None:
    if kind == "tiny_llama" and "method.split_qkv=true" in overrides:
        with pytest.raises(UserError, match="split_qkv"):
            attach(compose, tiny_model(kind), name, *overrides)
        return
    model = tiny_model(kind)
    before, shapes = logits(model), {name: p.shape for name, p in model.named_parameters(remove_duplicate=False)}
    method = attach(compose, model, name, f"protocol={protocol}", *overrides)
    move(model)
    trained = logits(model)
    assert not torch.allclose(trained, before, atol=1e-3)
    method.merge(model)
    assert not list(adapters(model))
    torch.testing.assert_close(logits(model), trained, atol=2e-5, rtol=2e-5)
    assert {name: p.shape for name, p in model.named_parameters(remove_duplicate=False)} == shapes


def test_a_resample_keeps_the_function_and_moves_the_subspace(tiny_model: Tiny, compose: Compose) -> None:
    model = tiny_model("tiny_llama")
    method = attach(compose, model, "rosa", "protocol=paper")
    move(model)
    before, [first, *_] = logits(model), [layer.b.clone() for layer in low_rank_layers(model)]
    method.resample(model, 7)
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(low_rank_layers(model)[0].b, first)


# Which layers


def test_grouped_queries_get_factors_of_matching_shape(tiny_model: Tiny, compose: Compose) -> None:
    model = tiny_model("tiny_llama")
    attach(compose, model, "lora", "protocol=fair")
    shapes = {name.rpartition(".")[2]: tuple(layer.shape) for name, layer in adapters(model)}  # pyrefly: ignore[bad-argument-type]
    assert shapes == {"q_proj": (32, 32), "k_proj": (16, 32), "v_proj": (16, 32), "o_proj": (32, 32)}


@pytest.mark.parametrize(("protocol", "adapted"), [("paper", True), ("fair", False)])
@pytest.mark.parametrize("targets", ["attention", "all-linear"])
def test_the_protocol_decides_whether_the_output_layer_is_adapted(
    tiny_model: Tiny, compose: Compose, targets: str, protocol: str, adapted: bool
) -> None:
    model = tiny_model("tiny_gpt2")
    attach(compose, model, "lora", f"protocol={protocol}", f"method.targets={targets}")
    names = {name for name, _ in adapters(model)}
    assert ("lm_head" in names) is adapted
    assert ("transformer.h.0.mlp.c_fc" in names) is (targets == "all-linear")


def test_a_fused_matrix_is_split_into_queries_keys_and_values(tiny_model: Tiny, compose: Compose) -> None:
    model = tiny_model("tiny_gpt2")
    whole = weight_of(model.get_submodule("transformer.h.1.attn.c_attn")).clone()  # pyrefly: ignore[bad-argument-type]
    attach(compose, model, "rosa", "protocol=fair", "method.split_qkv=true")
    blocks = [model.get_submodule(f"transformer.h.1.attn.c_attn.blocks.{number}") for number in range(3)]
    for block, expected in zip(blocks, whole.split(32), strict=True):
        assert isinstance(block, LowRankLinear)
        assert block.shape == (32, 32)
        torch.testing.assert_close(block.merged_weight(), expected)
    assert len(list(adapters(model))) == 2 * (3 + 1)


# An output layer tied to the input embedding


@pytest.mark.parametrize("name", ADAPTING)
@pytest.mark.parametrize("kind", ["tiny_gpt2", "tiny_llama"])
def test_adapting_the_output_layer_leaves_the_input_embedding_unchanged(
    tiny_model: Tiny, compose: Compose, tmp_path: Path, kind: str, name: str
) -> None:
    model = tiny_model(kind)
    embedding = input_weight(model)
    assert output_weight(model) is embedding  # tied
    before = embedding.detach().clone()
    method = attach(compose, model, name, "protocol=paper")
    assert isinstance(model.get_submodule("lm_head"), LowRankLinear | ScaledLinear)
    move(model)
    if name == "rosa":
        method.resample(model, 3)
    method.merge(model)
    assert torch.equal(embedding, before)
    assert not torch.allclose(output_weight(model), before)

    model.save_pretrained(tmp_path)  # it is saved and loaded untied
    back = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(back), logits(model))
    assert torch.equal(input_weight(back), before)


def test_a_tied_output_layer_that_is_not_adapted_stays_tied(tiny_model: Tiny, compose: Compose, tmp_path: Path) -> None:
    model = tiny_model("tiny_gpt2")
    method = attach(compose, model, "rosa", "protocol=fair")
    method.merge(model)
    assert output_weight(model) is input_weight(model)
    model.save_pretrained(tmp_path)
    back = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(back), logits(model))
    assert output_weight(back) is input_weight(back)


def test_full_fine_tuning_trains_a_tied_weight_once(tiny_model: Tiny, compose: Compose) -> None:
    model = tiny_model("tiny_gpt2")
    attach(compose, model, "ft")
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == sum(p.numel() for p in copy.deepcopy(model).parameters())
    assert output_weight(model) is input_weight(model)


@pytest.mark.parametrize("name", ["bitfit", "head_only"])
def test_a_method_with_nothing_to_train_is_refused(tiny_model: Tiny, compose: Compose, name: str) -> None:
    with pytest.raises(UserError, match=name):
        attach(compose, tiny_model("tiny_llama"), name)


# Counts on the full-size architectures. They follow from Tables 2 and 3, which round them, and from the layers that
# the authors' code adapts.

GPT2_MEDIUM = ("task=e2e_nlg", "model=gpt2_medium", "protocol=paper")
ROBERTA_BASE = ("task=cola", "model=roberta_base", "protocol=paper")
COUNTS = [
    (GPT2_MEDIUM, ("method=lora", "rank=4"), 893_252),
    (GPT2_MEDIUM, ("method=rosa", "rank=4"), 893_252),
    (GPT2_MEDIUM, ("method=lora", "rank=8"), 1_688_200),
    (GPT2_MEDIUM, ("method=rosa", "rank=8"), 1_688_200),
    (GPT2_MEDIUM, ("method=ia3",), 246_865),
    (GPT2_MEDIUM, ("method=ia3", "method.lm_head=null"), 196_608),
    (GPT2_MEDIUM, ("method=ft",), 354_823_168),
    (ROBERTA_BASE, ("method=lora", "rank=2"), 184_320),
    (ROBERTA_BASE, ("method=rosa", "rank=2"), 184_320),
    (ROBERTA_BASE, ("method=lora", "rank=8"), 626_688),
    (ROBERTA_BASE, ("method=rosa", "rank=8"), 626_688),
    (ROBERTA_BASE, ("method=ia3",), 73_728),
]


@pytest.mark.parametrize(("setting", "overrides", "expected"), COUNTS)
def test_trainable_parameter_counts_match_the_paper(
    compose: Compose,
    monkeypatch: pytest.MonkeyPatch,
    setting: tuple[str, ...],
    overrides: tuple[str, ...],
    expected: int,
) -> None:
    with torch.device("meta"):  # only shapes: nothing is initialised
        if setting is GPT2_MEDIUM:
            model = GPT2LMHeadModel(GPT2Config(n_embd=1024, n_layer=24, n_head=16))
        else:
            config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
            model = RobertaForSequenceClassification(config)
    monkeypatch.setattr(Rosa, "initialise", lambda *_: None)  # there is nothing to factorise
    compose(*setting, *overrides).method.attach(model)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected
