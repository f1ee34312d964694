"""What each method trains by name, and settings of methods. The laws of all methods are in test_matrix.py."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
)

from rosa_bench.config.build import build
from rosa_bench.config.files.folder import conf_folder
from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.adapter import Adapter
from rosa_bench.methods.base import Method
from rosa_bench.methods.lora import Lora
from rosa_bench.methods.rosa import Rosa
from rosa_bench.system.errors import UserError

# PEFT's tuners are held to the same laws in float32 (peft/test_tuner.py): some of them refuse float64.
METHODS = sorted(
    path.stem for path in (conf_folder() / "method").glob("*.yaml") if "peft_type" not in OmegaConf.load(path)
)
ADAPTERS = [name for name in METHODS if "train_biases" in OmegaConf.load(conf_folder() / f"method/{name}.yaml")]
MODELS = ("tiny_roberta", "tiny_bert")

# What each protocol trains in addition to a method's own parameters (README.md, The two protocols).
TRAIN_HEAD = {"paper": False, "fair": True}
TRAIN_BIASES = {"paper": True, "fair": False}

# Explicit names in the two small models. Each has two layers, under the name of its architecture.
STACK = {"tiny_roberta": "roberta.encoder.layer", "tiny_bert": "bert.encoder.layer"}
HEAD = {"tiny_roberta": ("classifier.dense", "classifier.out_proj"), "tiny_bert": ("bert.pooler.dense", "classifier")}
ATTENTION = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
FEED_FORWARD = ("intermediate.dense", "output.dense")
NORMS = ("attention.output.LayerNorm", "output.LayerNorm")


def in_stack(model: str, modules: Iterable[str]) -> set[str]:
    modules = list(modules)
    return {f"{STACK[model]}.{layer}.{module}" for layer in (0, 1) for module in modules}


def suffixed(modules: Iterable[str], *suffixes: str) -> set[str]:
    return {f"{module}.{suffix}" for module in modules for suffix in suffixes}


def head(model: str) -> set[str]:
    return suffixed(HEAD[model], "weight", "bias")


def beside(model: str, protocol: str) -> set[str]:
    """What a method that replaces attention layers trains in addition to its own parameters."""
    biases = suffixed(in_stack(model, ATTENTION), "bias") if TRAIN_BIASES[protocol] else set()
    return biases | (head(model) if TRAIN_HEAD[protocol] else set())


def biases(model: str, protocol: str) -> set[str]:
    body = in_stack(model, (*ATTENTION, *FEED_FORWARD, *NORMS)) | {f"{STACK[model].split('.')[0]}.embeddings.LayerNorm"}
    return suffixed(body, "bias") | (head(model) if TRAIN_HEAD[protocol] else set())


def prompt(model: str, protocol: str) -> set[str]:
    return {"virtual_tokens.encoder.embedding.weight"} | (head(model) if TRAIN_HEAD[protocol] else set())


def inserted(model: str, protocol: str, modules: Iterable[str], *ends: str) -> set[str]:
    return suffixed(modules, *(f"adapter.{end}" for end in ends)) | (head(model) if TRAIN_HEAD[protocol] else set())


def bottleneck(model: str, protocol: str, modules: Iterable[str]) -> set[str]:
    return inserted(model, protocol, modules, "down.weight", "down.bias", "up.weight", "up.bias")


def houlsby(model: str, protocol: str) -> set[str]:
    """Two adapters per block, and every layer normalisation."""
    norms = in_stack(model, NORMS) | {f"{STACK[model].split('.')[0]}.embeddings.LayerNorm"}
    places = in_stack(model, ("attention.output.dense", "output.dense"))
    return bottleneck(model, protocol, places) | suffixed(norms, "weight", "bias")


def lin(model: str, protocol: str) -> set[str]:
    blocks = {f"{STACK[model]}.{number}" for number in (0, 1)}
    return bottleneck(model, protocol, blocks) | inserted(model, protocol, blocks, "norm.weight", "norm.bias")


def prefix(model: str, protocol: str) -> set[str]:
    own = suffixed(in_stack(model, ["attention.self.prefix"]), "keys", "values")
    return own | (head(model) if TRAIN_HEAD[protocol] else set())


# Method -> function from model, protocol and all the model's own parameter names to the names that train.
TRAINED: dict[str, Callable[[str, str, set[str]], set[str]]] = {
    "ft": lambda _model, _protocol, own: own,
    "head_only": lambda model, _protocol, _own: head(model),
    "bitfit": lambda model, protocol, _own: biases(model, protocol),
    "ia3": lambda model, protocol, _own: suffixed(in_stack(model, ATTENTION), "factor") | beside(model, protocol),
    "lora": lambda model, protocol, _own: suffixed(in_stack(model, ATTENTION), "a", "b") | beside(model, protocol),
    "rosa": lambda model, protocol, _own: suffixed(in_stack(model, ATTENTION), "a", "b") | beside(model, protocol),
    "lora_plus": lambda model, protocol, _own: suffixed(in_stack(model, ATTENTION), "a", "b") | beside(model, protocol),
    "relora": lambda model, protocol, _own: suffixed(in_stack(model, ATTENTION), "a", "b") | beside(model, protocol),
    "lora_fa": lambda model, protocol, _own: suffixed(in_stack(model, ATTENTION), "a") | beside(model, protocol),
    "rso": lambda model, protocol, _own: suffixed(in_stack(model, ATTENTION), "a") | beside(model, protocol),
    "blockwise": lambda _model, _protocol, own: own,  # by default two blocks, and these models have two
    **dict.fromkeys(("galore", "fira", "apollo", "flora"), lambda _model, _protocol, own: own),
    "prompt_tuning": lambda model, protocol, _own: prompt(model, protocol),
    "houlsby": lambda model, protocol, _own: houlsby(model, protocol),
    "pfeiffer": lambda model, protocol, _own: bottleneck(model, protocol, in_stack(model, ["output.dense"])),
    "lin": lambda model, protocol, _own: lin(model, protocol),
    "p_tuning_v2": lambda model, protocol, _own: prefix(model, protocol),
}
# These start from random numbers.
DRAWING = (
    "lora", "lora_plus", "lora_fa", "relora", "rosa", "rso",
    "prompt_tuning", "houlsby", "pfeiffer", "lin", "p_tuning_v2",
)  # fmt: skip

Attach = Callable[..., tuple[PreTrainedModel, Method]]


@pytest.fixture
def untouched(
    tiny_model: Callable[..., PreTrainedModel], roughened: Callable[..., Any]
) -> Callable[[str], PreTrainedModel]:
    """A small model in float64, so that laws hold to 1e-9, without zeros that could hide errors."""
    return lambda name: roughened(tiny_model(name).double())


@pytest.fixture
def method_of(compose: Callable[..., RunConfig]) -> Callable[..., Method]:
    """A method as the command line makes it, with changed settings. This is faster than composing each one."""

    def make(model: str, method: str, protocol: str = "paper", **changes: Any) -> Method:
        config = compose("task=grammar", f"model={model}", f"method={method}", f"protocol={protocol}", "rank=4")
        return replace(config.method, **changes)

    return make


@pytest.fixture
def attach(untouched: Callable[[str], PreTrainedModel], method_of: Callable[..., Method]) -> Attach:
    def make(model: str, method: str, protocol: str = "paper", **changes: Any) -> tuple[PreTrainedModel, Method]:
        chosen = method_of(model, method, protocol, **changes)
        net: Any = chosen.attach(untouched(model))
        return net, chosen

    return make


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, 261, (4, 10), generator=generator)
    lengths = torch.tensor([10, 7, 3, 10]).unsqueeze(1)
    mask = (torch.arange(10) < lengths).long()
    return {"input_ids": ids * mask + (1 - mask), "attention_mask": mask, "labels": torch.tensor([0, 1, 1, 0])}


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(**batch()).logits


def trained_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def train(model: nn.Module, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0)
    for _ in range(steps):
        model(**batch()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("rosa", {"select": "block"}),
        ("rosa", {"select": "top"}),
        ("rosa", {"select": "bottom"}),
        ("rosa", {"init": "zero"}),
        ("rosa", {"rank": 32}),
        ("rosa", {"init": "balanced"}),
        ("rosa", {"basis": "random"}),
        ("rosa", {"basis": "gradient", "init": "zero"}),
        ("rosa", {"train": "a"}),
        ("rosa", {"train": "a", "moments": "rotate"}),
        ("rosa", {"stagger": True}),
        ("lora", {"resample_every": 1.0, "rewarm_steps": 2}),
        ("lora", {"init": "normal", "alpha": 7.0}),
        ("lora", {"init": "kaiming"}),
        ("ia3", {"side": "output"}),
        *((method, {"targets": "all-linear"}) for method in ADAPTERS),
    ],
    ids=str,
)
def test_attaching_variants_keeps_the_function(
    attach: Attach, untouched: Any, method: str, changes: dict[str, Any]
) -> None:
    net, chosen = attach("tiny_bert", method, **changes)
    assert_close(logits(net), logits(untouched("tiny_bert")))
    train(net)
    trained = logits(net)
    chosen.merge(net)
    assert_close(logits(net), trained)


@pytest.mark.parametrize("protocol", TRAIN_HEAD)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", TRAINED)
def test_the_parameters_that_train_are_those_of_the_list(
    attach: Attach, untouched: Any, method: str, model: str, protocol: str
) -> None:
    own = {name for name, _ in untouched(model).named_parameters()}
    net, _ = attach(model, method, protocol)
    assert trained_names(net) == TRAINED[method](model, protocol, own)


@pytest.mark.parametrize("protocol", TRAIN_HEAD)
@pytest.mark.parametrize("method", TRAINED)
def test_another_seed_draws_other_numbers_if_any(attach: Attach, method: str, protocol: str) -> None:
    first, other = (attach("tiny_roberta", method, protocol, seed=seed)[0].state_dict() for seed in (0, 1))
    differing = {name for name in first if not torch.equal(first[name], other[name])}
    assert bool(differing) == (method in DRAWING)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ADAPTERS)
def test_targets(attach: Attach, method: str, model: str) -> None:
    def adapted(targets: str) -> set[str]:
        net, _ = attach(model, method, targets=targets)
        return {name for name, module in net.named_modules() if isinstance(module, Adapter)}

    assert adapted("attention") == in_stack(model, ATTENTION)
    assert adapted("all-linear") == in_stack(model, (*ATTENTION, *FEED_FORWARD))  # all but the head
    assert adapted("query|value") == in_stack(model, ("attention.self.query", "attention.self.value"))
    assert adapted(r"1\.attention\.self\.key") == {f"{STACK[model]}.1.attention.self.key"}


@pytest.mark.parametrize("method", ADAPTERS)
def test_targets_that_match_nothing(attach: Attach, method: str) -> None:
    with pytest.raises(
        UserError, match=r"targets=c_attn matches no.*roberta\.encoder\.layer\.\*\.attention\.self\.key"
    ):
        attach("tiny_roberta", method, targets="c_attn")


@pytest.mark.parametrize("method", ADAPTERS)
@pytest.mark.parametrize(
    "targets",
    ["(query", "query|(?i)key", "(?i)query"],  # flags must come first, and this is the end of a pattern
)
def test_targets_that_are_not_a_regular_expression(attach: Attach, method: str, targets: str) -> None:
    with pytest.raises(UserError, match="is not a regular expression"):
        attach("tiny_roberta", method, targets=targets)


@pytest.mark.parametrize("method", ["lora", "rosa"])
def test_a_rank_that_does_not_fit_names_the_layer(attach: Attach, untouched: Any, method_of: Any, method: str) -> None:
    with pytest.raises(UserError, match=r"rank=33 does not fit roberta\.encoder\.layer\.0\.\S+\.query, a 32 x 32"):
        attach("tiny_roberta", method, rank=33)
    net = untouched("tiny_roberta")
    with pytest.raises(UserError):
        method_of("tiny_roberta", method, rank=33).attach(net)
    assert not [name for name, module in net.named_modules() if isinstance(module, Adapter)]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("protocol", TRAIN_HEAD)
@pytest.mark.parametrize("train_head", [True, False])
@pytest.mark.parametrize("method", [*ADAPTERS, "bitfit"])
def test_train_head_overrides_the_protocol(
    attach: Attach, method: str, train_head: bool, protocol: str, model: str
) -> None:
    net, _ = attach(model, method, protocol, train_head=train_head)
    assert trained_names(net) & head(model) == (head(model) if train_head else set())


@pytest.mark.parametrize("train_biases", [True, False])
@pytest.mark.parametrize("method", ADAPTERS)
def test_train_biases_covers_the_replaced_layers(attach: Attach, method: str, train_biases: bool) -> None:
    net, _ = attach("tiny_bert", method, train_biases=train_biases, targets="output.dense")
    replaced = in_stack("tiny_bert", ("attention.output.dense", "output.dense"))
    trained = {name for name in trained_names(net) if name.endswith(".bias")}
    assert trained == (suffixed(replaced, "bias") if train_biases else set())


def test_head_only_requires_a_head(untouched: Any, compose: Callable[..., RunConfig]) -> None:
    method = compose("task=grammar", "model=tiny_roberta", "model.head=score", "method=head_only").method
    with pytest.raises(UserError, match=r"model\.head=score matches no module"):
        method.attach(untouched("tiny_roberta"))


@pytest.mark.parametrize(
    ("init", "zero", "drawn", "deviation"),
    [
        # LoRA's code: kaiming_uniform_(a=sqrt(5)), which is U(-1/sqrt(in), 1/sqrt(in)), of deviation 1/sqrt(3 in).
        ("kaiming", "a", "b", (3 * 32) ** -0.5),
        # The ROSA authors': zeros, and torch.randn.
        ("normal", "b", "a", 1.0),
    ],
)
def test_lora_initialisation(attach: Attach, init: str, zero: str, drawn: str, deviation: float) -> None:
    net, _ = attach("tiny_roberta", "lora", init=init, rank=32)
    factors = {
        kind: torch.cat([factor.flatten() for name, factor in net.named_parameters() if name.endswith(f".{kind}")])
        for kind in "ab"
    }
    assert not factors[zero].any()
    assert factors[drawn].std().item() == pytest.approx(
        deviation, rel=0.05
    )  # 8192 numbers: one standard deviation is 1.1 %
    assert factors[drawn].mean().item() == pytest.approx(0, abs=0.05 * deviation)
    assert init == "normal" or factors[drawn].abs().max() <= 32**-0.5


def test_loras_scale_is_alpha_over_rank(attach: Attach) -> None:
    net, _ = attach("tiny_roberta", "lora", alpha=6.0)  # rank 4
    layer: Any = net.get_submodule("roberta.encoder.layer.0.attention.self.query")
    with torch.no_grad():
        layer.a.copy_(torch.eye(32, 4))
        layer.b.copy_(torch.eye(4, 32))
    assert_close(layer.merged_weight() - layer.residual, 6 / 4 * torch.eye(32, 4).double() @ torch.eye(4, 32).double())


@pytest.mark.parametrize(("side", "length"), [("input", 32), ("output", 64)])
def test_ia3_scales_the_chosen_side(attach: Attach, side: str, length: int) -> None:
    net, _ = attach("tiny_bert", "ia3", side=side, targets="intermediate.dense")  # 64 x 32
    assert [p.shape for name, p in net.named_parameters() if name.endswith("factor")] == [(length,)] * 2


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("rosa_bench.methods.lora.Laro", "cannot be imported"),
        ("rosa_bench.methods.none.Lora", "cannot be imported"),
        ("Lora", "is not a rosa_bench Method"),
        ("rosa_bench.system.errors.UserError", "is not a rosa_bench Method"),
    ],
)
def test_a_target_that_is_not_a_method(target: str, message: str) -> None:
    with pytest.raises(UserError, match=f"{target} {message}"):
        build(Method, {"_target_": target}, at="method")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("method=lora", "method.init=gaussian"), "method.init=gaussian is not known; choose one of: kaiming, normal"),
        (("method=lora", "method.alpha=0"), "method.alpha=0.* must be above 0"),
        (("method=ia3", "method.side=left"), "method.side=left is not known; choose one of: input, output"),
        (("method=rosa", "method.select=best"), "method.select=best is not known; choose one of: random, block"),
        (("method=rosa", "method.init=svd_sub"), "method.init=svd_sub is not known; choose one of: svd, svd_add, zero"),
        (("method=rosa", "method.resample_every=-1"), "method.resample_every=-1.* must be at least 0"),
        (("method=rosa", "method.resample_unit=hours"), "method.resample_unit=hours is not known"),
        (("method=rosa", "rank=0"), "rank=0 is out of range; it must be at least 1"),
    ],
)
def test_settings_out_of_range(compose: Callable[..., RunConfig], overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose("task=grammar", "model=tiny_roberta", *overrides)


# The paper's counts on full-size models. On the meta device nothing is allocated or computed.


@pytest.fixture
def no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip initialisation, because a meta tensor has no values to factorise."""
    for kind in (Lora, Rosa):
        monkeypatch.setattr(kind, "initialise", lambda *_: None)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.usefixtures("no_values")
@pytest.mark.parametrize(
    ("method", "rank", "expected"),
    [  # Table 2 of the paper, exactly
        ("lora", 2, 184_320),
        ("rosa", 2, 184_320),
        ("lora", 8, 626_688),
        ("rosa", 8, 626_688),
        ("ia3", 8, 73_728),
    ],
)
def test_counts_on_roberta_base(compose: Callable[..., RunConfig], method: str, rank: int, expected: int) -> None:
    # The other defaults of transformers are RoBERTa-base's.
    shape = RobertaConfig(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1)
    config = compose(f"method={method}", f"rank={rank}", "model=roberta_base", "protocol=paper")
    with torch.device("meta"):
        body, model = RobertaModel(shape), RobertaForSequenceClassification(shape)
    assert sum(parameter.numel() for parameter in body.parameters()) == config.model.parameters
    config.method.attach(model)
    assert count(model) == expected


@pytest.mark.usefixtures("no_values")
@pytest.mark.parametrize(
    ("method", "rank", "targets", "expected"),
    [  # Table 3 of the paper, exactly; the low-rank ones with an adapter on the untied lm_head
        ("lora", 4, r"attn\.c_attn|attn\.c_proj|lm_head", 893_252),
        ("rosa", 4, r"attn\.c_attn|attn\.c_proj|lm_head", 893_252),
        ("lora", 8, r"attn\.c_attn|attn\.c_proj|lm_head", 1_688_200),
        ("ia3", 8, r"attn\.c_attn|attn\.c_proj", 196_608),
        ("ia3", 8, r"attn\.c_attn|attn\.c_proj|lm_head", 246_865),
    ],
)
def test_counts_on_gpt2_medium(
    compose: Callable[..., RunConfig], method: str, rank: int, targets: str, expected: int
) -> None:
    side = ["method.side=output"] if method == "ia3" else []
    config = compose(f"method={method}", f"rank={rank}", "protocol=paper", f"method.targets='{targets}'", *side)
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_embd=1024, n_layer=24, n_head=16, tie_word_embeddings=False))
    config.method.attach(model)
    assert count(model) == expected


def test_bitfit_trains_a_bias_that_is_no_layers_own(method_of: Callable[..., Method]) -> None:
    attention = nn.MultiheadAttention(4, 2)
    trained = {id(parameter) for parameter in method_of("tiny_roberta", "bitfit").trainable(attention)}
    assert {name for name, p in attention.named_parameters() if id(p) in trained} == {"in_proj_bias", "out_proj.bias"}
