import re
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

from rosa_bench.cli.commands.models import load_specs
from rosa_bench.config.files.folder import files_in
from rosa_bench.config.schema import RunConfig
from rosa_bench.models.encoder import load_encoder
from rosa_bench.models.loading.pretrained import Loaded, max_input_length
from rosa_bench.models.spec import Encoder
from rosa_bench.models.weights.random import SPECIAL, byte_tokenizer
from rosa_bench.models.weights.source import locate
from rosa_bench.system.errors import UserError

Compose = Callable[..., RunConfig]
SpecOf = Callable[[str], Encoder]

RANDOM = ("tiny_bert", "tiny_roberta")
MPNET = {
    "model_type": "mpnet", "vocab_size": 261, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 66, "pad_token_id": 1,
}  # fmt: skip


@pytest.fixture
def spec_of(compose: Compose) -> SpecOf:
    def spec(name: str) -> Encoder:
        model = compose("task=grammar", f"model={name}").model
        assert isinstance(model, Encoder)
        return model

    return spec


def load(spec: Encoder, num_outputs: int = 2, seed: int = 0) -> Loaded:
    torch.manual_seed(seed)
    return load_encoder(spec, locate(spec), num_outputs=num_outputs)


def outputs(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=tokens).logits


def tokens_of(length: int) -> torch.Tensor:
    return torch.randint(5, 261, (2, length), generator=torch.Generator().manual_seed(0))


# Heads


@pytest.mark.parametrize("name", RANDOM)
def test_one_output_means_regression_and_more_mean_classes(spec_of: SpecOf, name: str) -> None:
    labels = {1: torch.tensor([0.5, 3.0]), 2: torch.tensor([0, 1]), 3: torch.tensor([2, 0])}
    for count, truth in labels.items():
        model = load(spec_of(name), num_outputs=count).model.eval()
        result = model(input_ids=tokens_of(6), labels=truth)
        assert result.logits.shape == (2, count)
        if count == 1:
            expected = ((result.logits.squeeze(-1) - truth) ** 2).mean()
        else:
            expected = -result.logits.log_softmax(-1)[torch.arange(2), truth].mean()
        torch.testing.assert_close(result.loss, expected)


@pytest.mark.parametrize("name", RANDOM)
def test_random_weights_depend_on_the_seed(spec_of: SpecOf, name: str) -> None:
    one, again, other = (load(spec_of(name), seed=seed).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], again[key]) for key in one)
    differing = {key for key in one if not torch.equal(one[key], other[key])}
    assert any(key.startswith("classifier") for key in differing)  # the head
    assert any(key.endswith("query.weight") for key in differing)  # and the body


@pytest.mark.parametrize("name", RANDOM)
def test_a_model_is_loaded_in_float32_on_the_cpu(spec_of: SpecOf, name: str) -> None:
    loaded = load(spec_of(name))
    assert {(p.dtype, p.device.type) for p in loaded.model.parameters()} == {(torch.float32, "cpu")}
    assert loaded.commit is None


# Positions


@pytest.mark.parametrize("spec_name", [*RANDOM, "mpnet"])
def test_the_longest_input_is_the_models_limit(spec_of: SpecOf, spec_name: str) -> None:
    mpnet = replace(spec_of("tiny_bert"), random=MPNET, attention=r"attention\.attn\.(q|k|v|o)")
    spec = mpnet if spec_name == "mpnet" else spec_of(spec_name)
    loaded = load(spec)
    longest = max_input_length(loaded)
    assert longest == (64 if spec_name == "mpnet" else 512)  # of 66, 514 and 512 rows
    assert outputs(loaded.model, tokens_of(longest)).isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        outputs(loaded.model, tokens_of(longest + 1))


def test_the_tokenizers_limit_also_applies(spec_of: SpecOf) -> None:
    loaded = load(spec_of("tiny_bert"))
    assert max_input_length(loaded._replace(tokenizer=byte_tokenizer(max_length=100))) == 100
    assert max_input_length(loaded._replace(tokenizer=byte_tokenizer(max_length=10**30))) == 512


# Declarations


@pytest.mark.parametrize("name", RANDOM)
def test_declared_size_of_every_random_model(spec_of: SpecOf, name: str) -> None:
    spec = spec_of(name)
    assert spec.random is not None
    assert spec.parameters == size(type(load(spec).model.config)(**spec.random))


# The published configurations: huggingface.co/<id>/raw/main/config.json.
PUBLISHED = {
    "roberta_base": RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1),
    "roberta_large": RobertaConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, hidden_size=1024, num_hidden_layers=24,
        num_attention_heads=16, intermediate_size=4096,
    ),
    "mpnet_base": MPNetConfig(vocab_size=30527, max_position_embeddings=514),
    "minilm": BertConfig(vocab_size=30522, hidden_size=384, num_hidden_layers=6, intermediate_size=1536),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_declared_size_of_every_published_model(spec_of: SpecOf, name: str) -> None:
    assert spec_of(name).parameters == size(PUBLISHED[name])


def test_every_encoders_size_is_tested() -> None:
    specs = load_specs(files_in("model"))
    assert {name for name, spec in specs.items() if isinstance(spec, Encoder)} == {*RANDOM, *PUBLISHED}


def size(config: PretrainedConfig) -> int:
    """Number of parameters without a head."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())


@pytest.mark.parametrize("name", [*RANDOM, *PUBLISHED])
def test_attention_matches_the_four_projections_of_every_block(spec_of: SpecOf, name: str) -> None:
    spec = spec_of(name)
    if name in PUBLISHED:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(PUBLISHED[name])
    else:
        model = load(spec).model
    linears = [key for key, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    found = [key for key in linears if re.fullmatch(rf"(.*\.)?({spec.attention})", key)]
    assert len(found) == 4 * model.config.num_hidden_layers
    width = model.config.hidden_size
    assert {tuple(model.get_parameter(f"{key}.weight").shape) for key in found} == {(width, width)}
    heads = [key for key, _ in model.named_modules() if re.fullmatch(rf"(.*\.)?({spec.head})", key)]
    assert any(key.endswith("classifier") for key in heads)
    assert not [key for key in heads if ".layer." in key]


# Local folders


@pytest.mark.parametrize("name", RANDOM)
def test_a_saved_model_is_restored(spec_of: SpecOf, tmp_path: Path, name: str) -> None:
    saved = load(spec_of(name))
    saved.model.save_pretrained(tmp_path)
    saved.tokenizer.save_pretrained(tmp_path)
    spec = replace(spec_of(name), random=None, path=str(tmp_path))
    back = load(spec, seed=1)
    assert torch.equal(outputs(back.model, tokens_of(9)), outputs(saved.model, tokens_of(9)))
    assert back.tokenizer("a pair", "é 漢")["input_ids"] == saved.tokenizer("a pair", "é 漢")["input_ids"]
    assert max_input_length(back) == max_input_length(saved)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_a_model_without_a_head_gets_one_of_the_tasks_size(spec_of: SpecOf, tmp_path: Path, num_outputs: int) -> None:
    saved = load(spec_of("tiny_bert"))
    body = saved.model.base_model
    assert isinstance(body, PreTrainedModel)
    body.save_pretrained(tmp_path)
    saved.tokenizer.save_pretrained(tmp_path)
    back = load(replace(spec_of("tiny_bert"), random=None, path=str(tmp_path)), num_outputs=num_outputs, seed=1)
    assert outputs(back.model, tokens_of(5)).shape == (2, num_outputs)
    before = body.state_dict()
    assert all(torch.equal(tensor, before[key]) for key, tensor in back.model.base_model.state_dict().items())


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_a_head_of_another_size_is_an_error_or_replaced(spec_of: SpecOf, tmp_path: Path, num_outputs: int) -> None:
    saved = load(spec_of("tiny_bert"), num_outputs=2)
    saved.model.save_pretrained(tmp_path)
    saved.tokenizer.save_pretrained(tmp_path)
    spec = replace(spec_of("tiny_bert"), random=None, path=str(tmp_path))
    try:
        model = load(spec, num_outputs=num_outputs).model
    except UserError as error:
        assert str(tmp_path) in str(error)
    else:
        assert outputs(model, tokens_of(5)).shape == (2, num_outputs)


def test_a_folder_without_a_tokenizer_is_an_error(spec_of: SpecOf, tmp_path: Path) -> None:
    load(spec_of("tiny_bert")).model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=str(tmp_path)):
        load(replace(spec_of("tiny_bert"), random=None, path=str(tmp_path)))


def test_pickled_weights_are_not_loaded(spec_of: SpecOf, tmp_path: Path) -> None:
    saved = load(spec_of("tiny_bert"))
    saved.model.save_pretrained(tmp_path)
    saved.tokenizer.save_pretrained(tmp_path)
    spec = replace(spec_of("tiny_bert"), random=None, path=str(tmp_path))
    source = locate(spec)
    torch.save(saved.model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="is pickled, which could run code"):
        load_encoder(spec, source, num_outputs=2)


def test_an_unknown_model_type_is_an_error(spec_of: SpecOf) -> None:
    spec = replace(spec_of("tiny_bert"), random={"model_type": "unheard_of"})
    with pytest.raises(UserError, match=r"model\.random with model_type=unheard_of"):
        load(spec)


# The byte tokenizer


@given(st.text(max_size=60).filter(lambda text: not any(special in text for special in SPECIAL)))
def test_the_byte_tokenizer_is_lossless(text: str) -> None:
    tokenizer = byte_tokenizer(max_length=512)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(ids) == len(text.encode()) + 2  # one for each byte, <s> and </s>


def test_the_byte_tokenizer_has_robertas_special_tokens() -> None:
    tokenizer = byte_tokenizer(max_length=512)
    assert len(tokenizer) == 261
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.convert_ids_to_tokens(tokenizer("a", "b")["input_ids"]) == [
        "<s>",
        "a",
        "</s>",
        "</s>",
        "b",
        "</s>",
    ]
    assert len(tokenizer(string.printable * 20, truncation=True)["input_ids"]) == 512


def test_the_byte_tokenizer_is_restored_from_a_folder(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(max_length=77)
    tokenizer.save_pretrained(tmp_path)
    back: Any = AutoTokenizer.from_pretrained(tmp_path)
    assert back.model_max_length == 77
    assert back("a é", "漢")["input_ids"] == tokenizer("a é", "漢")["input_ids"]
    assert back.decode(back("a , b .")["input_ids"], skip_special_tokens=True) == "a , b ."


def test_damaged_weights_error_names_the_weight(spec_of: SpecOf, tmp_path: Path) -> None:
    saved = load(spec_of("tiny_bert"))
    with torch.no_grad():
        saved.model.get_parameter("bert.encoder.layer.1.attention.self.query.weight")[3, 4] = float("inf")
    saved.model.save_pretrained(tmp_path)
    saved.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"layer\.1\.attention\.self\.query\.weight contains NaN or Inf"):
        load(replace(spec_of("tiny_bert"), random=None, path=str(tmp_path)))
