import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from rosa_bench.cli.commands.models import load_specs
from rosa_bench.config.files.folder import files_in
from rosa_bench.config.schema import RunConfig
from rosa_bench.models.decoder import is_causal, load_decoder
from rosa_bench.models.loading.pretrained import Loaded, max_input_length
from rosa_bench.models.spec import Decoder
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.models.weights.source import locate
from rosa_bench.system.errors import UserError

Compose = Callable[..., RunConfig]
SpecOf = Callable[[str], Decoder]

RANDOM = ("tiny_gpt2", "tiny_llama")
OTHER = {
    "vocab_size": 261, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 66, "pad_token_id": 1, "type_vocab_size": 2,
}  # fmt: skip


@pytest.fixture
def spec_of(compose: Compose) -> SpecOf:
    def spec(name: str) -> Decoder:
        model = compose("task=restaurants", f"model={name}").model
        assert isinstance(model, Decoder)
        return model

    return spec


def load(spec: Decoder, seed: int = 0) -> Loaded:
    torch.manual_seed(seed)
    return load_decoder(spec, locate(spec))


def save(model: PreTrainedModel, folder: Path) -> None:
    model.save_pretrained(folder)
    byte_tokenizer(max_length=512).save_pretrained(folder)


def at(spec: Decoder, folder: Path, **changes: Any) -> Decoder:
    """The same model, loaded from a folder."""
    return replace(spec, random=None, path=str(folder), **changes)


ANY_BERT = {"model_type": None, "attention": r"attention\.self\.(query|key|value)|attention\.output\.dense"}


def drawn(model_type: str, **settings: Any) -> PreTrainedModel:
    """A bare model with random weights."""
    return AutoModel.from_config(AutoConfig.for_model(model_type, **{**OTHER, **settings}))


def logits(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=tokens).logits


def tokens_of(length: int) -> torch.Tensor:
    return torch.randint(5, 261, (2, length), generator=torch.Generator().manual_seed(0))


# Random weights


@pytest.mark.parametrize("name", RANDOM)
def test_random_weights_depend_on_the_seed(spec_of: SpecOf, name: str) -> None:
    one, again, other = (load(spec_of(name), seed=seed).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert {key for key in one if not torch.equal(one[key], other[key])} >= {"lm_head.weight"}


@pytest.mark.parametrize("name", RANDOM)
def test_a_model_is_loaded_in_float32_on_the_cpu(spec_of: SpecOf, name: str) -> None:
    loaded = load(spec_of(name))
    assert {(p.dtype, p.device.type) for p in loaded.model.parameters()} == {(torch.float32, "cpu")}
    assert loaded.commit is None
    assert loaded.missing == ()


@pytest.mark.parametrize("name", RANDOM)
def test_the_longest_input_is_the_models_limit(spec_of: SpecOf, name: str) -> None:
    loaded = load(spec_of(name))
    assert max_input_length(loaded) == 512
    assert logits(loaded.model, tokens_of(512)).isfinite().all()
    if name == "tiny_gpt2":  # Llama has rotary positions, not a table
        with pytest.raises((IndexError, RuntimeError)):
            logits(loaded.model, tokens_of(513))
    assert max_input_length(loaded._replace(tokenizer=byte_tokenizer(max_length=100))) == 100
    assert max_input_length(loaded._replace(tokenizer=byte_tokenizer(max_length=10**30))) == 512


# Declarations

# The published configurations: huggingface.co/<id>/raw/main/config.json.
PUBLISHED = {
    "gpt2": GPT2Config(),
    "gpt2_medium": GPT2Config(n_embd=1024, n_layer=24, n_head=16),
    "smollm2_135m": LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    ),
}  # fmt: skip


def config_of(spec: Decoder) -> PretrainedConfig:
    if spec.name in PUBLISHED:
        return PUBLISHED[spec.name]
    assert spec.random is not None
    return AutoConfig.for_model(**spec.random)


@pytest.mark.parametrize("name", [*RANDOM, *PUBLISHED])
def test_declared_size_of_every_model(spec_of: SpecOf, name: str) -> None:
    with torch.device("meta"):
        bare, whole = (kind.from_config(config_of(spec_of(name))) for kind in (AutoModel, AutoModelForCausalLM))
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (bare, whole)]
    assert counts == [spec_of(name).parameters] * 2  # a tied head adds nothing


def test_every_decoders_size_is_tested() -> None:
    specs = load_specs(files_in("model"))
    assert {name for name, spec in specs.items() if isinstance(spec, Decoder)} == {*RANDOM, *PUBLISHED}


@pytest.mark.parametrize("name", [*RANDOM, *PUBLISHED])
def test_declared_names_exist_in_the_model(spec_of: SpecOf, name: str) -> None:
    spec = spec_of(name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(spec))

    def found(pattern: str) -> list[str]:
        matrices = [key for key, module in model.named_modules() if isinstance(module, (torch.nn.Linear, Conv1D))]
        return [key for key in matrices if re.fullmatch(rf"(.*\.)?({pattern})", key)]

    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    assert found(spec.lm_head) == ["lm_head"]
    assert model.get_output_embeddings() is model.get_submodule("lm_head")
    assert found(spec.head) == []
    fused = {key: count for end, count in spec.fused.items() for key in found(end)}
    held = {key: fused.get(key, 1) for key in found(spec.attention)}
    assert sum(held.values()) == 4 * layers  # queries, keys, values and output of every block
    for key, count in held.items():
        weight = model.get_parameter(f"{key}.weight")
        if count > 1:
            assert sorted(weight.shape) == [width, count * width]
        else:
            assert width in weight.shape


# Local folders


@pytest.mark.parametrize("name", RANDOM)
def test_a_saved_model_is_restored(spec_of: SpecOf, tmp_path: Path, name: str) -> None:
    saved = load(spec_of(name))
    save(saved.model, tmp_path)
    back = load(at(spec_of(name), tmp_path), seed=1)
    assert torch.equal(logits(back.model, tokens_of(9)), logits(saved.model, tokens_of(9)))
    assert back.missing == ()
    assert max_input_length(back) == max_input_length(saved)
    assert back.model.get_output_embeddings().weight is back.model.get_input_embeddings().weight  # pyrefly: ignore[missing-attribute]


@pytest.mark.parametrize("name", RANDOM)
def test_a_saved_body_with_a_tied_head_is_complete(spec_of: SpecOf, tmp_path: Path, name: str) -> None:
    saved = load(spec_of(name)).model
    body = saved.base_model
    assert isinstance(body, PreTrainedModel)
    save(body, tmp_path)
    assert not any("lm_head" in key for key in load_file(tmp_path / "model.safetensors"))
    back = load(at(spec_of(name), tmp_path), seed=1)
    assert torch.equal(logits(back.model, tokens_of(9)), logits(saved, tokens_of(9)))


def test_a_model_without_its_head_is_an_error(spec_of: SpecOf, tmp_path: Path) -> None:
    spec = replace(spec_of("tiny_llama"), random={**(spec_of("tiny_llama").random or {}), "tie_word_embeddings": False})
    save(load(spec).model, tmp_path)
    assert load(at(spec, tmp_path), seed=1).missing == ()
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack lm_head\.weight; only the head"):
        load(at(spec, tmp_path))


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_encoder_with_a_language_model_head_is_an_error(spec_of: SpecOf, tmp_path: Path, kind: str) -> None:
    """transformers would load it as a decoder, which it is not."""
    config = AutoConfig.for_model(kind, **OTHER)
    save(AutoModelForCausalLM.from_config(config), tmp_path)
    with pytest.raises(UserError, match=f"model=tiny_gpt2 is a {kind}, which attends to later tokens.*gpt2"):
        load(at(spec_of("tiny_gpt2"), tmp_path, **ANY_BERT))


def test_an_encoders_body_is_an_error(spec_of: SpecOf, tmp_path: Path) -> None:
    save(drawn("bert"), tmp_path)
    with pytest.raises(UserError, match=r"lack cls\..*; only the head"):
        load(at(spec_of("tiny_gpt2"), tmp_path, **ANY_BERT))


@pytest.mark.parametrize("kind", ["mpnet", "distilbert"])
def test_a_model_type_without_a_causal_head_is_an_error(spec_of: SpecOf, tmp_path: Path, kind: str) -> None:
    save(drawn(kind, **({"dim": 32, "n_layers": 1, "n_heads": 4} if kind == "distilbert" else {})), tmp_path)
    with pytest.raises(UserError, match=f"model=tiny_gpt2 is a {kind}, which has no causal head.*gpt2"):
        load(at(spec_of("tiny_gpt2"), tmp_path, model_type=None))
    with pytest.raises(UserError, match=f"is a {kind}, which has no causal head"):
        load(replace(spec_of("tiny_gpt2"), random={"model_type": kind}))


@pytest.mark.parametrize("name", RANDOM)
def test_is_causal_detects_attention_to_later_tokens_and_keeps_the_mode(spec_of: SpecOf, name: str) -> None:
    model = load(spec_of(name)).model
    for training in (True, False):
        model.train(training)
        assert is_causal(model)
        assert model.training is training
    assert not is_causal(AutoModelForCausalLM.from_config(AutoConfig.for_model("bert", **OTHER)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("name", "key"), [("tiny_gpt2", "h.1.attn.c_attn.weight"), ("tiny_llama", "layers.1.self_attn.k_proj.weight")]
)
def test_damaged_weights_error_names_the_weight(
    spec_of: SpecOf, tmp_path: Path, name: str, key: str, value: float
) -> None:
    saved = load(spec_of(name)).model
    [found] = [full for full, _ in saved.named_parameters() if full.endswith(key)]
    with torch.no_grad():
        saved.get_parameter(found)[3, 4] = value
    save(saved, tmp_path)
    with pytest.raises(UserError, match=rf"model={name} is damaged: {re.escape(found)} contains NaN or Inf"):
        load(at(spec_of(name), tmp_path))


def test_weights_of_another_shape_are_an_error(spec_of: SpecOf, tmp_path: Path) -> None:
    saved = load(spec_of("tiny_gpt2")).model
    save(saved, tmp_path)
    saved.config.n_embd = 16
    saved.config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path))} do not fit its config\.json"):
        load(at(spec_of("tiny_gpt2"), tmp_path))


def test_a_folder_without_a_tokenizer_is_an_error(spec_of: SpecOf, tmp_path: Path) -> None:
    load(spec_of("tiny_gpt2")).model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path))} has no tokenizer"):
        load(at(spec_of("tiny_gpt2"), tmp_path))


# Incompatible tasks and models


@pytest.mark.parametrize(("task", "model", "expected"), [
    ("cola", "gpt2", "task=cola is not for model=gpt2; it needs an encoder, such as roberta_base"),
    ("e2e_nlg", "roberta_base", "task=e2e_nlg is not for model=roberta_base; it needs a decoder, such as gpt2"),
    ("restaurants", "mlp1", "task=restaurants is not for model=mlp1; it needs a decoder, such as gpt2"),
    ("synthetic", "gpt2", "task=synthetic is not for model=gpt2; it needs a perceptron, such as mlp1"),
])  # fmt: skip
def test_wrong_kind_of_model_error_is_one_line(compose: Compose, task: str, model: str, expected: str) -> None:
    with pytest.raises(UserError) as raised:
        compose(f"task={task}", f"model={model}")
    assert str(raised.value) == expected
