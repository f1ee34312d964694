"""P-tuning v2: the attention's formula written out, PEFT's prefix tuning, masks, and generation with a cache."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModelForCausalLM, PrefixTuningConfig
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from rosa_bench import attach
from rosa_bench.layers.prompts.prefix import Prefix, mask_with_prefix, prefixes
from rosa_bench.system.errors import UserError

Compose = Callable[..., Any]

ENCODERS, DECODERS = ("tiny_roberta", "tiny_bert", "mpnet_base"), ("tiny_gpt2", "tiny_llama")
THREE = "method.tokens=3"
# The attention module, and its projections to queries, keys and values.
ATTENTION = {
    "tiny_roberta": ("roberta.encoder.layer.{}.attention.self", "query", "key", "value"),
    "tiny_bert": ("bert.encoder.layer.{}.attention.self", "query", "key", "value"),
    "mpnet_base": ("mpnet.encoder.layer.{}.attention.attn", "q", "k", "v"),
}


def by_hand(projections: list[Any], prefix: Prefix, hidden: Tensor, mask: Tensor, position_bias: Any = 0.0) -> Tensor:
    """softmax(Q [P_k; K]^T / sqrt(d) + bias) [P_v; V], where only padding is hidden. Four heads of size 8."""
    q, k, v = (
        projection(hidden).unflatten(-1, (4, 8)).transpose(1, 2) for projection in projections
    )  # (batch, heads, length, size)
    text = q @ k.mT / 8**0.5 + position_bias
    text = text.masked_fill(mask[:, None, None] == 0, float("-inf"))
    scores = torch.cat([q @ prefix.keys.mT / 8**0.5, text], -1).softmax(-1)
    context = scores[..., : prefix.tokens] @ prefix.values + scores[..., prefix.tokens :] @ v
    return context.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_attends_to_the_prefix_and_the_text(small: Any, name: str) -> None:
    net = small.move(small.attach(name, "p_tuning_v2", THREE))
    plain, pattern = small.model(name), ATTENTION[name]
    plain.load_state_dict({key: tensor for key, tensor in net.state_dict().items() if ".prefix." not in key})
    for number, prefix in enumerate(prefixes(net)):
        module: Any = plain.get_submodule(pattern[0].format(number))
        projections = [module.get_submodule(end) for end in pattern[1:]]

        def forward(
            hidden: Tensor, *given: Any, module: Any = module, how: Any = (projections, prefix), **_: Any
        ) -> Any:
            bias = given[1] if len(given) > 1 and isinstance(given[1], Tensor) else 0.0
            context = by_hand(how[0], how[1], hidden, small.mask, bias)
            return (module.o(context) if hasattr(module, "o") else context), None

        module.forward = forward
    found = small.logits(net)
    torch.testing.assert_close(found, small.logits(plain), rtol=0, atol=1e-9)
    assert not torch.allclose(found, small.logits(small.model(name)), atol=1e-2)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("padded", [False, True])
def test_a_decoder_computes_what_peft_computes_from_equal_prefixes(small: Any, name: str, padded: bool) -> None:
    net = small.attach(name, "p_tuning_v2", "method.tokens=5")
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT uses names that transformers deprecates
        peft: Any = PeftModelForCausalLM(small.model(name), config).double().eval()
        stored = peft.get_parameter("prompt_encoder.default.embedding.weight")
        by_layer = stored.detach().view(5, 2, 2, -1, 8)  # tokens, layers, keys or values, heads, size
        for prefix, both in zip(prefixes(net), by_layer.unbind(1), strict=True):
            with torch.no_grad():
                prefix.keys.copy_(both[:, 0].transpose(0, 1))
                prefix.values.copy_(both[:, 1].transpose(0, 1))
        mask = small.mask if padded else torch.ones_like(small.mask)
        expected = small.logits(peft, small.ids, mask)
    positions = torch.arange(5, 15).expand(4, -1)  # PEFT shifts the text by the prefix
    found = small.logits(net, small.ids, mask, position_ids=positions)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_padding_changes_nothing_and_a_full_mask_is_no_mask(small: Any, name: str) -> None:
    net = small.move(small.attach(name, "p_tuning_v2", THREE))
    together = small.logits(net).split(1 if name in ENCODERS else small.mask.sum(1).tolist())
    for row, length, expected in zip(small.ids, small.mask.sum(1), together, strict=True):
        alone = small.logits(net, row[None, :length])
        torch.testing.assert_close(alone.reshape(expected.shape), expected, rtol=0, atol=1e-9)
        full = small.logits(net, row[None, :length], torch.ones(1, length).long())
        torch.testing.assert_close(full.reshape(expected.shape), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_stays_causal(small: Any, name: str) -> None:
    net = small.move(small.attach(name, "p_tuning_v2", THREE))
    changed = small.ids.clone()
    changed[:, 6:] = 9
    first, second = small.logits(net, small.ids), small.logits(net, changed)
    torch.testing.assert_close(first[:, :6], second[:, :6], rtol=0, atol=1e-9)
    assert not torch.allclose(first[:, 6:], second[:, 6:], atol=1e-2)


def test_the_mask_of_the_text_is_kept_and_the_prefix_is_visible() -> None:
    query = torch.zeros(2, 4, 3, 8)
    assert mask_with_prefix(None, 2, query=query, keys=3, causal=False) is None
    assert mask_with_prefix(None, 2, query=query[:, :, :1], keys=7, causal=True) is None
    causal = mask_with_prefix(None, 2, query=query, keys=3, causal=True)
    assert causal is not None
    assert causal[0, 0].long().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    text = torch.tensor([[0.0, -9.0, 0.0]]).expand(2, 1, 3, 3)  # the same for every query
    padded = mask_with_prefix(text, 2, query=query, keys=3, causal=True)
    assert padded is not None
    assert padded.shape == (2, 1, 3, 5)
    assert padded[0, 0, 1].tolist() == [0.0, 0.0, 0.0, -9.0, 0.0]
    assert padded.stride(-2) == 0


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_only_the_prefixes_train_from_standard_normal_values(small: Any, name: str) -> None:
    net = small.attach(name, "p_tuning_v2", "protocol=paper", "method.tokens=200")
    training = {key for key, parameter in net.named_parameters() if parameter.requires_grad}
    found = torch.cat([parameter.flatten() for prefix in prefixes(net) for parameter in prefix.parameters()])
    assert {key.split(".")[-2] for key in training} == {"prefix"}
    assert len(training) == 2 * 2
    assert found.mean().item() == pytest.approx(0, abs=0.05)
    assert found.std().item() == pytest.approx(1, abs=0.05)
    other = small.attach(name, "p_tuning_v2", "seed=1", "method.tokens=200")
    assert not torch.equal(prefixes(other)[0].keys, prefixes(net)[0].keys)


def test_counts_follow_the_formula(compose: Compose) -> None:
    with torch.device("meta"):
        shape = RobertaConfig(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1)
        roberta: Any = RobertaForSequenceClassification(shape)
        smollm: Any = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                num_attention_heads=9, num_key_value_heads=3,
            )
        )  # fmt: skip
    for net, name, task, expected in (
        (roberta, "roberta_base", "grammar", 12 * 2 * 20 * 768),
        (smollm, "smollm2_135m", "restaurants", 30 * 2 * 20 * 3 * 64),  # three heads of keys, shared by nine
    ):
        compose(f"task={task}", f"model={name}", "method=p_tuning_v2", "protocol=paper").method.attach(net)
        assert sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad) == expected


SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
HYBRID = {
    "layer_types": ["linear_attention", "full_attention"],
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "head_dim": 8,
}


@pytest.mark.parametrize(("name", "attention", "settings"), [
    ("gemma2", "Gemma2Attention", {"head_dim": 8}),  # scores are capped in a function of its own
    ("gpt_neo", "GPTNeoSelfAttention", {"num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]}),
    ("deepseek_v3", "DeepseekV3Attention", {**LATENT, "num_key_value_heads": 4}),  # keys are larger than values
    ("qwen3_next", "Qwen3NextGatedDeltaNet", {**HYBRID, "num_key_value_heads": 2}),  # keys without a softmax
    ("deberta-v2", "DisentangledSelfAttention", {"relative_attention": True, "pos_att_type": ["p2c"]}),
])  # fmt: skip
def test_attention_that_would_not_see_the_prefix_is_refused(name: str, attention: str, settings: Any) -> None:
    kind = AutoModelForSequenceClassification if name == "deberta-v2" else AutoModelForCausalLM
    model = kind.from_config(AutoConfig.for_model(name, **{**SMALL, **settings}))
    implementation = model.config._attn_implementation
    with pytest.raises(UserError, match=f"method=p_tuning_v2 is not for the {attention} of this model"):
        attach(model, "p_tuning_v2")
    assert model.config._attn_implementation == implementation
