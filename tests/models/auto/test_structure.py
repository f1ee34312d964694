"""The structure that is found in a model is the one that its declaration says, and holds for other architectures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from rosa_bench.config.files.folder import conf_folder
from rosa_bench.layers.structure.surgery import linear_names, name_matches
from rosa_bench.models.auto.structure import NOTHING, attention_projections, check_adaptable, pattern_of, structure_of
from rosa_bench.system.errors import UserError


def on_meta(kind: Any, model_type: str, **settings: Any) -> nn.Module:
    with torch.device("meta"):
        return kind.from_config(AutoConfig.for_model(model_type, **settings))


def declared() -> list[Path]:
    paths = sorted((conf_folder() / "model").glob("*.yaml"))
    return [path for path in paths if {"random", "shape"} & set(OmegaConf.load(path))]


@pytest.mark.parametrize("path", declared(), ids=lambda path: path.stem)
def test_what_is_found_is_what_the_declaration_says(path: Path) -> None:
    spec: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    kind = AutoModelForCausalLM if spec.get("_target_", "").endswith("Decoder") else AutoModelForSequenceClassification
    shape = {**(spec.get("random") or spec["shape"]), "num_hidden_layers": 2}
    model = on_meta(kind, shape.pop("model_type"), **shape)  # pyrefly: ignore[bad-argument-type]
    found, names = structure_of(model), [name for name, _ in model.named_modules()]
    assert linear_names(model, found.attention) == linear_names(model, spec["attention"])
    head = {name for name in names if name_matches(spec["head"], name)} - {"bert.pooler"}  # pre-trained in other BERTs
    assert {name for name in names if name_matches(found.head, name)} == head
    for part, pattern in spec["parts"].items():
        if part not in ("keys", "values"):
            expected = [name for name in names if name_matches(pattern, name)]
            assert [name for name in names if name_matches(found.parts[part], name)] == expected, part
    assert found.lm_head == spec.get("lm_head")
    fused = spec.get("fused", {})
    assert {linear_names(model, name)[0]: count for name, count in found.fused.items()} == {
        linear_names(model, name)[0]: count for name, count in fused.items()
    }


SMALL = {"num_hidden_layers": 2}
OTHERS = [  # projections of the first attention part, the head, and the layer that ends the feed-forward part
    (AutoModelForSequenceClassification, "distilbert", {}, "q_lin k_lin v_lin out_lin", "pre_classifier|classifier",
     "lin2"),
    (AutoModelForSequenceClassification, "deberta-v2", {}, "query_proj key_proj value_proj dense", "pooler|classifier",
     "dense"),
    (AutoModelForSequenceClassification, "modernbert", {}, "Wqkv Wo", "head|classifier", "Wo"),
    (AutoModelForSequenceClassification, "qwen2", {}, "q_proj k_proj v_proj o_proj", "score", "down_proj"),
    (AutoModelForCausalLM, "gpt_neox", {}, "query_key_value dense", NOTHING, "dense_4h_to_h"),
    (AutoModelForCausalLM, "opt", {}, "k_proj v_proj q_proj out_proj", NOTHING, "fc2"),
    (AutoModelForCausalLM, "phi3", {"pad_token_id": 0}, "o_proj qkv_proj", NOTHING, "down_proj"),
    (AutoModelForSeq2SeqLM, "t5", {"num_layers": 2}, "q k v o", NOTHING, "wo"),
    (AutoModelForImageClassification, "vit", {}, "q_proj k_proj v_proj o_proj", "classifier", "fc2"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name", "more", "layers", "head", "last"), OTHERS, ids=[name for _, name, *_ in OTHERS]
)
def test_other_architectures(  # noqa: PLR0917 - pytest names them
    kind: Any, name: str, more: dict[str, Any], layers: str, head: str, last: str
) -> None:
    model = on_meta(kind, name, **SMALL, **more)
    found, wanted = structure_of(model), layers.split()
    names = attention_projections(model)
    assert [one.rpartition(".")[2] for one in names[: len(wanted)]] == wanted
    assert len(names) % (2 * len(wanted)) == 0, "both blocks"
    assert linear_names(model, found.attention) == names
    assert found.head == head
    assert found.parts["feed_forward_output"].rpartition(".")[2] == last
    output = found.parts["attention_output"].rpartition(".")[2]
    assert output == next(one for one in reversed(wanted) if "qkv" not in one.lower())


@pytest.mark.parametrize(("name", "more", "last"), [
    ("phi3", {"pad_token_id": 0, "num_key_value_heads": 8}, "o_proj"),  # its queries, keys and values come after it
    ("qwen3_5_text", {}, "out_proj"),  # so do the gates of linear attention
    ("deepseek_v32", {"num_hidden_layers": 1}, "o_proj"),  # and the scores of an indexer
])  # fmt: skip
def test_the_output_of_attention_is_as_wide_as_the_hidden_states(name: str, more: Any, last: str) -> None:
    found = structure_of(on_meta(AutoModelForCausalLM, name, **SMALL | more))
    assert found.parts["attention_output"].split("|")[0].rpartition(".")[2] == last


def test_a_block_with_experts_has_no_layer_whose_output_is_theirs(tiny_moe: nn.Module) -> None:
    assert "attention_output" in (parts := structure_of(tiny_moe).parts)
    assert "feed_forward_output" not in parts


def test_a_block_named_after_its_attention_is_not_all_attention() -> None:
    settings: dict[str, Any] = {
        "num_hidden_layers": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 1,
    }
    names = attention_projections(on_meta(AutoModelForCausalLM, "jamba", **settings))
    assert [name.rpartition(".")[2] for name in names] == ["q_proj", "k_proj", "v_proj", "o_proj"]


def test_a_pattern_matches_its_names_alone() -> None:
    names = ["a.0.b", "a.1.b", "a.10.b", "c", "d.2"]
    assert pattern_of(names) == r"a\.\d+\.b|c|d\.\d+"
    assert all(name_matches(pattern_of(names), name) for name in names)
    assert not any(name_matches(pattern_of(names), name) for name in ("a.b", "aa.0.b", "cc", "d.x"))
    assert not name_matches(pattern_of([]), "a")


def test_torchs_own_attention_is_not_taken_apart() -> None:
    model = nn.TransformerEncoderLayer(8, 2)
    assert attention_projections(model) == [] and structure_of(model).attention == NOTHING


def test_weights_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="on the meta device"):
        check_adaptable(nn.Linear(2, 2, device="meta"))
    quantised = nn.Linear(2, 2)
    quantised.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(UserError, match="uint8, a quantised weight"):
        check_adaptable(quantised)
    flagged = nn.Linear(2, 2)
    flagged.is_quantized = True  # pyrefly: ignore[bad-argument-type]
    with pytest.raises(UserError, match="is quantised"):
        check_adaptable(flagged)
