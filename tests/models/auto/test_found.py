"""``model=auto``: what is found about a model is enough to fine-tune it, whatever its architecture."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from rosa_bench.adapters.attach import attached
from rosa_bench.adapters.attached import Attached
from rosa_bench.adapters.compose import Chosen
from rosa_bench.config.composing.chosen_model import model_overrides
from rosa_bench.config.composing.compose import composing
from rosa_bench.config.identity.deviations import deviations_of
from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.adapter import adapters
from rosa_bench.methods.base import RunLength
from rosa_bench.models.auto.found import size
from rosa_bench.models.decoder import load_decoder
from rosa_bench.models.encoder import load_encoder
from rosa_bench.models.spec import Decoder, Encoder
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.models.weights.source import locate
from rosa_bench.system.errors import UserError

BLOCKS = 2
SMALL = {
    "vocab_size": 261, "hidden_size": 32, "num_hidden_layers": BLOCKS, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
LAYERS = 4 * BLOCKS  # queries, keys, values and output in every block
FUSED = 2 * BLOCKS


class Family(NamedTuple):
    """An architecture: how many layers its attention has, its head, and settings that differ from `SMALL`."""

    layers: int
    head: str = "classifier"
    settings: Mapping[str, Any] = MappingProxyType({})
    saved_as: Any = AutoModelForMaskedLM


def decoder(layers: int = LAYERS, **settings: Any) -> Family:
    return Family(layers, "", settings, AutoModelForCausalLM)


FAMILIES = {
    "bert": Family(LAYERS, "bert.pooler classifier"),  # a masked language model's weights have no pooler
    "roberta": Family(LAYERS),
    "xlm-roberta": Family(LAYERS),
    "distilbert": Family(LAYERS, "classifier pre_classifier"),
    "deberta-v2": Family(LAYERS, "classifier pooler", {
        "relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
    }),
    "electra": Family(LAYERS, settings={"embedding_size": 16}),  # a projection between embedding and body
    "albert": Family(4, "albert.pooler classifier", {"embedding_size": 16}),  # one block, used twice
    "modernbert": Family(FUSED, "classifier head", {"cls_token_id": 0, "sep_token_id": 2}),
    "mpnet": Family(LAYERS),
    "gpt2": decoder(FUSED),
    "gpt_neox": decoder(FUSED),
    "opt": decoder(word_embed_proj_dim=32, ffn_dim=64),
    "llama": decoder(**GROUPED),
    "qwen2": decoder(**GROUPED),
    "qwen3": decoder(**GROUPED),
    "gemma": decoder(**GROUPED),
    "phi": decoder(),
    "mistral": decoder(**GROUPED),
}  # fmt: skip
METHODS = ("rosa", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ft", "lora", "ia3")))
IDS = torch.tensor([[0, 40, 41, 42, 43, 2], [0, 50, 51, 2, 1, 1]])
MASK = (IDS != 1).long()


def saved(name: str, folder: Path, kind: Any = None, **more: Any) -> Path:
    """Save a tiny random model of a family as anybody would, with a tokenizer."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[name](**{**SMALL, **FAMILIES[name].settings, **more})  # pyrefly: ignore[bad-argument-type]
    (kind or FAMILIES[name].saved_as).from_config(config).save_pretrained(folder)
    byte_tokenizer(max_length=64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """An architecture, and the folder with a model of it."""
    yield request.param, saved(request.param, tmp_path_factory.mktemp("model"))


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    return saved("qwen2", tmp_path / "model")


def settings_for(compose: Callable[..., RunConfig], name: str, folder: Path, *more: str) -> RunConfig:
    task = "grammar" if FAMILIES[name].head else "restaurants"
    return compose(f"task={task}", "model=auto", f"model.path={folder}", "protocol=fair", "rank=2", *more)


def loaded(config: RunConfig) -> PreTrainedModel:
    torch.manual_seed(1)
    spec, source = config.model, locate(config.model)
    if isinstance(spec, Decoder):
        return load_decoder(spec, source).model.eval()
    assert isinstance(spec, Encoder)
    return load_encoder(spec, source, num_outputs=2).model.eval()


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=MASK).logits


def train(handle: Attached, steps: int) -> None:
    optimizer = torch.optim.SGD(handle.trainable_parameters, lr=0.1)
    for step in range(steps):
        if handle.is_due(step):
            handle.before_step(step, optimizer)
        output = handle.model(input_ids=IDS, attention_mask=MASK).logits
        (output - torch.arange(output.shape[-1])).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("method", METHODS)
def test_every_family_trains_with_every_kind_of_method(
    compose: Callable[..., RunConfig], family: tuple[str, Path], method: str
) -> None:
    name, folder = family
    resampling = ["method.resample_every=1", "method.resample_unit=steps"] if method == "rosa" else []
    config = settings_for(compose, name, folder, f"method={method}", *resampling)
    model = loaded(config)
    before = logits(model)
    handle = attached(model, Chosen(config.method, "factors"), RunLength(3, 1))
    assert len(list(adapters(model))) == (0 if method == "ft" else FAMILIES[name].layers)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    train(handle, 3)
    trained = logits(model)
    assert (trained - before).abs().max() > 1e-4
    torch.testing.assert_close(logits(handle.merge()), trained, rtol=0, atol=1e-4)
    assert not list(adapters(model))


def test_the_declaration_says_what_the_model_is(compose: Callable[..., RunConfig], family: tuple[str, Path]) -> None:
    name, folder = family
    config = settings_for(compose, name, folder)
    spec, model = config.model, loaded(config)
    assert isinstance(spec, Encoder if FAMILIES[name].head else Decoder)
    heads = {id(parameter) for parameter in config.method.head_parameters(model)}
    expected = [
        parameter for part in FAMILIES[name].head.split() for parameter in model.get_submodule(part).parameters()
    ]
    assert heads == {id(parameter) for parameter in expected}
    assert spec.parameters == sum(it.numel() for it in model.parameters()) - sum(it.numel() for it in expected)
    assert spec.parameters is not None
    assert spec.name == f"{name.replace('-', '_')}_{size(spec.parameters)}"
    assert size(spec.parameters).upper() in spec.title
    if isinstance(spec, Decoder):
        assert model.get_submodule(spec.lm_head) is model.get_output_embeddings()


def test_only_thirds_that_are_queries_keys_and_values_are_split(
    compose: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """GPT-NeoX sorts the rows of its matrix by head: queries, keys and values of the first, then of the second."""
    gpt2 = settings_for(compose, "gpt2", saved("gpt2", tmp_path / "gpt2"), "method=lora", "method.split_qkv=true")
    handle = attached(loaded(gpt2), Chosen(gpt2.method, "factors"))
    assert len(list(adapters(handle.model))) == 4 * BLOCKS
    with pytest.raises(UserError, match="split_qkv"):
        settings_for(compose, "gpt_neox", saved("gpt_neox", tmp_path / "x"), "method=lora", "method.split_qkv=true")


def test_a_pooler_that_the_weights_have_is_no_head(compose: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = settings_for(compose, "bert", saved("bert", tmp_path, AutoModel))
    assert config.model.head == "classifier"
    stored = load_file(tmp_path / "model.safetensors")["pooler.dense.weight"]
    assert torch.equal(loaded(config).get_parameter("bert.pooler.dense.weight"), stored)


def test_nothing_that_auto_finds_is_a_deviation(compose: Callable[..., RunConfig], qwen: Path) -> None:
    config = settings_for(compose, "qwen2", qwen, "method=lora")
    assert model_overrides(config.model.name, path=config.model.path, hub=None, revision=None) == {
        "model": "auto",
        "model.path": str(qwen),
    }
    with composing():
        assert deviations_of(config) == {}


def test_a_setting_of_the_declaration_can_be_corrected(compose: Callable[..., RunConfig], qwen: Path) -> None:
    assert settings_for(compose, "qwen2", qwen, "model.head=score", "model.title=Ours").model.title == "Ours"


# Mistakes: one line each, before any work


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([r"model.attention='self_attn\.(q_proj|v_proj)'"], ["model.attention=", "k_proj", "o_proj"]),
    ],
)  # fmt: skip
def test_a_pattern_that_matches_a_part_shows_what_it_leaves_out(
    compose: Callable[..., RunConfig], qwen: Path, overrides: list[str], words: list[str]
) -> None:
    config = settings_for(compose, "qwen2", qwen, "method=lora", *overrides)
    with pytest.raises(UserError) as error:
        config.method.attach(loaded(config))
    for word in words:
        assert word in str(error.value)


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def changed(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        kept = {key: value for key, value in {**config, **values}.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))

    return change


BAD = {
    "no tokenizer": (no_tokenizer, "has no tokenizer"),
    "no weights": (no_weights, "has no model.safetensors; weights must be in safetensors format"),
    "pickled": (pickled, "pytorch_model.bin is pickled, which could run code, and is never read"),
    "unknown": (changed(model_type="ours"), "transformers has no such model"),
    "own code": (changed(model_type="ours", auto_map={"AutoModel": "x.Y"}), "Python code, which is never run"),
    "encoder and decoder": (changed(model_type="t5"), "is of a t5, which is neither an encoder"),
    "no attention": (changed(model_type="mamba", layer_types=None), "no attention projections are found"),
    "damaged": (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "is damaged"),
}


@pytest.mark.parametrize("spoil, words", BAD.values(), ids=BAD)
def test_a_bad_folder_is_one_line(
    compose: Callable[..., RunConfig], qwen: Path, spoil: Callable[[Path], Any], words: str
) -> None:
    spoil(qwen)
    with pytest.raises(UserError) as error:
        settings_for(compose, "qwen2", qwen)
    assert words in str(error.value)
    assert str(error.value).startswith((f"model.path={qwen}", str(qwen)))
    assert "\n" not in str(error.value)


def test_a_place_is_needed(compose: Callable[..., RunConfig], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model=auto needs model.path=FOLDER or model.hub=ID"):
        compose("model=auto")
    with pytest.raises(UserError, match="is not a model folder"):
        compose("model=auto", f"model.path={tmp_path}/none")


@pytest.mark.parametrize(("declared", "other"), [("roberta_base", "deberta-v2"), ("gpt2", "qwen2")])
def test_a_folder_of_another_architecture_leads_to_auto(
    compose: Callable[..., RunConfig], tmp_path: Path, declared: str, other: str
) -> None:
    folder = saved(other, tmp_path / "model")
    task = "grammar" if FAMILIES[other].head else "restaurants"
    config = compose(f"task={task}", f"model={declared}", f"model.path={folder}")
    with pytest.raises(UserError, match=f"is a {other}, not a .*; use model=auto"):
        locate(config.model)


def test_a_head_of_another_size_is_refused(compose: Callable[..., RunConfig], tmp_path: Path) -> None:
    folder = saved("roberta", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.out_proj.weight"] = torch.zeros(3, 32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="do not fit a head with 2 outputs; use a model without a head"):
        loaded(settings_for(compose, "roberta", folder))
