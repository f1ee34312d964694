"""Bottleneck adapters: where they are, what they compute, and how many parameters they have."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaForSequenceClassification

from rosa_bench.layers.bottleneck import Bottleneck
from rosa_bench.system.errors import UserError

Compose = Callable[..., Any]

MODELS = ("tiny_roberta", "tiny_bert", "mpnet_base", "tiny_gpt2", "tiny_llama")
METHODS = ("houlsby", "pfeiffer", "lin")
# Explicit names: the last projection of the attention part, that of the feed-forward part, and the whole block.
PLACES = {
    "tiny_roberta": ("roberta.encoder.layer.{}", "attention.output.dense", "output.dense"),
    "tiny_bert": ("bert.encoder.layer.{}", "attention.output.dense", "output.dense"),
    "mpnet_base": ("mpnet.encoder.layer.{}", "attention.attn.o", "output.dense"),
    "tiny_gpt2": ("transformer.h.{}", "attn.c_proj", "mlp.c_proj"),
    "tiny_llama": ("model.layers.{}", "self_attn.o_proj", "mlp.down_proj"),
}
NORMS = {
    "tiny_roberta": (("attention.output.LayerNorm", "output.LayerNorm"), "roberta.embeddings.LayerNorm"),
    "tiny_bert": (("attention.output.LayerNorm", "output.LayerNorm"), "bert.embeddings.LayerNorm"),
    "mpnet_base": (("attention.LayerNorm", "output.LayerNorm"), "mpnet.embeddings.LayerNorm"),
    "tiny_gpt2": (("ln_1", "ln_2"), "transformer.ln_f"),
    "tiny_llama": (("input_layernorm", "post_attention_layernorm"), "model.norm"),
}


def adapted(model: str, method: str) -> list[str]:
    """The names of the modules after which the method's paper has an adapter."""
    block, attention, feed_forward = PLACES[model]
    ends = {
        "houlsby": [f".{attention}", f".{feed_forward}"], "pfeiffer": [f".{feed_forward}"], "lin": [""],
    }[method]  # fmt: skip
    return [block.format(number) + end for number in (0, 1) for end in ends]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_comes_after_the_papers_modules_and_starts_as_the_identity(
    small: Any, method: str, model: str
) -> None:
    net = small.attach(model, method)
    found = {name.removesuffix(".adapter") for name, module in net.named_modules() if isinstance(module, Bottleneck)}
    assert found == set(adapted(model, method))
    before = small.logits(small.model(model))
    assert torch.equal(small.logits(net), before)
    assert not torch.allclose(small.logits(small.move(net)), before, atol=1e-2)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_computes_the_papers_formula(small: Any, method: str, model: str) -> None:
    net = small.move(small.attach(model, method))
    plain = small.model(model)
    state = net.state_dict()
    plain.load_state_dict({name: tensor for name, tensor in state.items() if ".adapter." not in name})  # trained norms

    def formula(x: Tensor, name: str) -> Tensor:
        own = {
            key.removeprefix(f"{name}.adapter."): t for key, t in state.items() if key.startswith(f"{name}.adapter.")
        }
        z = x
        if method == "lin":  # Lin et al., section 3: the adapter has a layer normalisation
            centred = x - x.mean(-1, keepdim=True)
            z = (
                centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * own["norm.weight"]
                + own["norm.bias"]
            )
        z = z @ own["down.weight"].T + own["down.bias"]
        z = z * (1 + torch.erf(z / 2**0.5)) / 2 if method == "houlsby" else z.clamp(min=0)
        return x + z @ own["up.weight"].T + own["up.bias"]

    for name in adapted(model, method):

        def hook(_module: nn.Module, _given: Any, output: Any, name: str = name) -> Any:
            return (formula(output[0], name),) if isinstance(output, tuple) else formula(output, name)

        plain.get_submodule(name).register_forward_hook(hook)
    torch.testing.assert_close(small.logits(net), small.logits(plain), rtol=0, atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_only_adapters_train_and_with_houlsby_the_normalisation(small: Any, method: str, model: str) -> None:
    net = small.attach(model, method, "protocol=paper")
    ends = ("down.weight", "down.bias", "up.weight", "up.bias", *(("norm.weight", "norm.bias") * (method == "lin")))
    expected = {f"{name}.adapter.{end}" for name in adapted(model, method) for end in ends}
    if method == "houlsby":
        inside, outside = NORMS[model]
        names = [f"{PLACES[model][0].format(number)}.{name}" for number in (0, 1) for name in inside] + [outside]
        expected |= {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
        expected &= {name for name, _ in net.named_parameters()}  # Llama's normalisation has no bias
        assert len(names) == 5
    assert {name for name, p in net.named_parameters() if p.requires_grad} == expected


def test_an_adapters_own_normalisation_trains_once_if_the_models_trains_too(small: Any) -> None:
    method = small.method("tiny_roberta", "houlsby", "method.own_norm=true")
    found = [id(parameter) for parameter in method.trainable(method.attach(small.model("tiny_roberta")))]
    assert len(set(found)) == len(found)


D = 768  # width of the base models
COUNTS = [
    ("houlsby", "roberta_base", 12 * 2 * (2 * D * 64 + D + 64) + 25 * 2 * D),
    ("pfeiffer", "roberta_base", 12 * (2 * D * 48 + D + 48)),
    ("lin", "gpt2", 12 * (2 * D * 100 + D + 100 + 2 * D)),
    ("houlsby", "gpt2", 12 * 2 * (2 * D * 64 + D + 64) + 25 * 2 * D),
]


@pytest.mark.parametrize(("method", "model", "expected"), COUNTS)
def test_counts_follow_the_papers_formula(compose: Compose, method: str, model: str, expected: int) -> None:
    task = "grammar" if model == "roberta_base" else "restaurants"
    shape = RobertaConfig(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1)
    with torch.device("meta"):
        net: Any = RobertaForSequenceClassification(shape) if task == "grammar" else GPT2LMHeadModel(GPT2Config())
    compose(f"task={task}", f"model={model}", f"method={method}", "protocol=paper").method.attach(net)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == expected


def test_the_first_weights_depend_only_on_the_seed(small: Any) -> None:
    def weights(*overrides: str) -> Tensor:
        net = small.attach("tiny_roberta", "houlsby", *overrides)
        return torch.stack([m.down.weight.flatten() for m in net.modules() if isinstance(m, Bottleneck)])

    first, state = weights(), torch.get_rng_state()
    torch.manual_seed(99)
    assert torch.equal(weights(), first)
    assert not torch.equal(weights("seed=1"), first)
    assert len(first.unique(dim=0)) == 4  # no two adapters start alike
    assert first.abs().max() <= 32**-0.5
    assert first.std().item() == pytest.approx((3 * 32) ** -0.5, rel=0.05)
    torch.set_rng_state(state)
    model = small.model("tiny_roberta")
    state = torch.get_rng_state()
    small.method("tiny_roberta", "houlsby").attach(model)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.places=[]", "must name at least one place"),
        ("method.places=[block,block]", "and none twice"),
        ("method.places=[head]", "choose one of: attention_output, feed_forward_output, block"),
        ("method.size=0", "method.size=0 is out of range"),
    ],
)
def test_wrong_settings(small: Any, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small.method("tiny_roberta", "houlsby", override)


@pytest.mark.parametrize("method", [*METHODS, "p_tuning_v2"])
def test_a_model_that_is_not_a_transformer_is_refused(compose: Compose, method: str) -> None:
    chosen = compose("task=synthetic", "model=mlp1", f"method={method}").method
    with pytest.raises(UserError, match=r"is for transformers; choose one with model=|does not declare; add it, or"):
        chosen.check_shapes(nn.Sequential(nn.Linear(3, 3)))


def test_parts_that_match_nothing_are_refused(small: Any) -> None:
    chosen = small.method("tiny_roberta", "pfeiffer", "method.parts={feed_forward_output: mlp}")
    with pytest.raises(UserError, match=r"model\.parts\.feed_forward_output=mlp matches no module"):
        chosen.attach(small.model("tiny_roberta"))
