"""Laws of ROSA in PEFT: what is saved is exact, what is loaded continues to the bit, and the base model comes back."""

import copy
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rosa_bench.config.schema import RunConfig
from rosa_bench.integrations.peft import RosaConfig, RosaLinear, RosaModel
from rosa_bench.layers.low_rank import low_rank_layers
from rosa_bench.system.errors import UserError

# PEFT's own calls of transformers, on which we have no influence.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

RANK, EVERY, STEPS = 2, 2, 5  # draws before steps 2 and 4
TASK = {"tiny_roberta": "SEQ_CLS", "tiny_gpt2": "CAUSAL_LM", "tiny_llama": "CAUSAL_LM"}
IDS = torch.randint(5, 200, (4, 10), generator=torch.Generator().manual_seed(3))

each_model = pytest.mark.parametrize("name", TASK)
Make = Callable[[str], PreTrainedModel]


@pytest.fixture
def base(tiny_model: Callable[..., PreTrainedModel], loud: Callable[[PreTrainedModel], PreTrainedModel]) -> Make:
    return lambda name: loud(tiny_model(name))


def config(name: str = "tiny_llama", **changes: Any) -> RosaConfig:
    return RosaConfig(**{"r": RANK, "resample_every": EVERY, "task_type": TASK[name], "seed": 3, **changes})  # pyrefly: ignore[bad-argument-type]


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-2)


def loss_of(model: Any, step: int = 0) -> Tensor:
    ids = torch.randint(5, 200, (4, 10), generator=torch.Generator().manual_seed(step))
    is_language_model = model.get_output_embeddings() is not None
    return model(input_ids=ids, labels=ids if is_language_model else torch.tensor([0, 1, 1, 0])).loss


def train(model: Any, optimizer: torch.optim.Optimizer, first: int = 0, last: int = STEPS) -> None:
    for step in range(first, last):
        model.resample_if_due(step, optimizer)
        loss_of(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def layers(model: nn.Module) -> dict[str, RosaLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, RosaLinear)}


def trained(model: PreTrainedModel, settings: RosaConfig) -> tuple[Any, torch.optim.Optimizer]:
    found = get_peft_model(model, settings)
    optimizer = optimizer_of(found)
    train(found, optimizer)
    return found, optimizer


close = partial(torch.testing.assert_close, rtol=1e-5, atol=2e-5)
same = partial(torch.testing.assert_close, rtol=0, atol=0)


# The round trip


@each_model
def test_attaching_and_drawing_keep_the_function(base: Make, name: str) -> None:
    plain = logits(base(name))
    model = get_peft_model(base(name), config(name))
    close(logits(model), plain)
    optimizer = optimizer_of(model)
    train(model, optimizer)
    before = logits(model)
    assert (before - plain).abs().max() > 1e-2, "training has changed nothing, so this test shows nothing"
    places = [(id(parameter), parameter.data_ptr()) for parameter in model.parameters()]
    replaced = model.resample(optimizer=optimizer)
    assert len(replaced) == 2 * len(layers(model))
    close(logits(model), before)
    assert [(id(parameter), parameter.data_ptr()) for parameter in model.parameters()] == places
    assert all(not value.any() for factor in replaced for value in optimizer.state[factor].values())


@each_model
@pytest.mark.parametrize("init", ["svd", "balanced"])
def test_peft_alone_loads_what_is_saved(base: Make, name: str, init: str, tmp_path: Path) -> None:
    model, _ = trained(base(name), config(name, init=init))
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["peft_type"] == "LORA"
    assert settings["r"] == settings["lora_alpha"] == 2 * RANK * 3  # two draws after the first
    assert set(settings) == set(LoraConfig().to_dict()), "PEFT warns of settings that it does not know"
    loaded = PeftModel.from_pretrained(base(name), str(tmp_path))
    assert type(loaded.base_model) is LoraModel and not layers(loaded)
    close(logits(loaded), logits(model))


def test_the_saved_factors_are_the_whole_change_of_each_weight(base: Make, tmp_path: Path) -> None:
    model, _ = trained(base("tiny_gpt2").double(), config("tiny_gpt2"))
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    plain, merged = base("tiny_gpt2").double(), copy.deepcopy(model).merge_and_unload()
    for name in layers(model.base_model.model):
        a, b = (saved[f"base_model.model.{name}.{part}.weight"] for part in ("lora_B", "lora_A"))
        change = merged.get_submodule(name).weight.T - plain.get_submodule(name).weight.T  # Conv1D is (in, out)
        torch.testing.assert_close(a @ b, change, rtol=0, atol=1e-12)
    assert all(".lora_A." in name or ".lora_B." in name for name in saved)


@each_model
def test_a_loaded_adapter_continues_to_the_bit(base: Make, name: str, tmp_path: Path) -> None:
    model, optimizer = trained(base(name), config(name))
    model.save_pretrained(tmp_path)
    settings = RosaConfig.from_pretrained(str(tmp_path))
    assert settings.to_dict() | {"inference_mode": False} == model.peft_config["default"].to_dict()
    again = PeftModel.from_pretrained(base(name), str(tmp_path), config=settings, is_trainable=True)
    # As Trainer does: into a model that has an adapter already.
    third = get_peft_model(base(name), config(name))
    third.load_adapter(str(tmp_path), "default", is_trainable=True)
    state = copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, STEPS, 2 * STEPS)
    for other in (again, third):
        resumed = optimizer_of(other)
        resumed.load_state_dict(copy.deepcopy(state))
        train(other, resumed, STEPS, 2 * STEPS)
        same(logits(other), logits(model))
        for layer, reference in zip(layers(other).values(), layers(model).values(), strict=True):
            same(layer.get_base_layer().weight, reference.get_base_layer().weight)
            assert layer.draws == reference.draws == {"default": 4}


def test_layers_may_have_ranks_of_their_own(base: Make, tmp_path: Path) -> None:
    model, _ = trained(base("tiny_llama"), config(rank_pattern={"v_proj": 3}))
    assert {layer.current("default").rank for layer in layers(model).values()} == {2, 3}
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["r"], settings["rank_pattern"]) == (2 * 3 * 3, {})
    close(logits(PeftModel.from_pretrained(base("tiny_llama"), str(tmp_path))), logits(model))
    again = RosaConfig.from_pretrained(str(tmp_path))
    same(logits(PeftModel.from_pretrained(base("tiny_llama"), str(tmp_path), config=again)), logits(model))


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_a_second_save_is_the_same(base: Make, low_cpu_mem_usage: bool, tmp_path: Path) -> None:
    model, _ = trained(base("tiny_llama"), config())
    model.save_pretrained(tmp_path / "one")
    again = PeftModel.from_pretrained(
        base("tiny_llama"), str(tmp_path / "one"), config=RosaConfig.from_pretrained(str(tmp_path / "one")),
        low_cpu_mem_usage=low_cpu_mem_usage,
    )  # fmt: skip
    again.save_pretrained(str(tmp_path / "two"))
    for file in ("adapter_model.safetensors", "adapter_config.json", "rosa_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@each_model
def test_the_base_model_comes_back_to_the_bit(base: Make, name: str) -> None:
    plain = logits(base(name))
    model, _ = trained(base(name), config(name, modules_to_save=[]))
    with model.disable_adapter():
        if TASK[name] != "SEQ_CLS":  # whose head trained too, as PEFT has it
            same(logits(model), plain)
    after = logits(model)
    close(logits(copy.deepcopy(model).merge_and_unload()), after)
    merged = copy.deepcopy(model)
    merged.merge_adapter()
    close(logits(merged), after)
    merged.unmerge_adapter()
    same(logits(merged), after)
    unloaded = model.unload()
    for parameter, (other, original) in zip(unloaded.parameters(), base(name).named_parameters(), strict=True):
        if "classifier" not in other:
            same(parameter, original)


# The mathematics


@each_model
def test_the_subspaces_are_those_of_method_rosa(base: Make, name: str, compose: Callable[..., RunConfig]) -> None:
    task = "grammar" if TASK[name] == "SEQ_CLS" else "restaurants"
    method: Any = compose(f"task={task}", f"model={name}", "method=rosa", f"rank={RANK}", "seed=3").method
    own, targets = base(name), ["query", "value", "c_attn", "q_proj", "v_proj"]
    method = replace(method, targets="|".join(targets))
    method.attach(own)
    model = get_peft_model(base(name), config(name, target_modules=targets))
    pairs = list(zip(layers(model).values(), low_rank_layers(own), strict=True))
    assert pairs
    for layer, reference in pairs:
        close(layer.current("default").delta().float(), (reference.a @ reference.b))
    model.resample(step=4)
    method.resample(own, 4)
    for layer, reference in pairs:
        close(layer.current("default").delta().float(), (reference.a @ reference.b))


@pytest.mark.parametrize("autocast", [False, True])
@each_model
def test_one_product_equals_the_two_branches_of_lora(base: Make, name: str, autocast: bool) -> None:
    model, _ = trained(base(name), config(name))
    model.eval()
    found = []
    for forward in (RosaLinear.forward, LoraLinear.forward):
        for layer in layers(model).values():
            layer.forward = partial(forward, layer)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(model, 7)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    rtol, atol = (0.2, 2e-2) if autocast else (1e-3, 1e-4)
    torch.testing.assert_close(found[0], found[1], rtol=rtol, atol=atol)


def test_a_base_weight_that_trains_gets_its_gradient(base: Make) -> None:
    model = get_peft_model(base("tiny_llama"), config())
    weights: list[Any] = [layer.get_base_layer().weight for layer in layers(model).values()]
    for weight in weights:
        weight.requires_grad_()
    loss_of(model).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in weights)


def test_dropout_acts_on_the_factors_alone(base: Make) -> None:
    model = get_peft_model(base("tiny_llama"), config(lora_dropout=0.5))
    close(logits(model), logits(base("tiny_llama")))
    model.train()
    assert not torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_a_disabled_pass_between_forward_and_backward_leaves_the_gradients_alone(base: Make) -> None:
    model, _ = trained(
        base("tiny_llama"), config(lora_dropout=1e-9)
    )  # the branches of LoRA, which keep the base weight
    found = []
    for between in (False, True):
        model.train().zero_grad()
        torch.manual_seed(0)
        loss = loss_of(model, 7)
        if between:
            with torch.no_grad(), model.disable_adapter():
                model(input_ids=IDS)
        loss.backward()
        found.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    same(found[0], found[1])


def test_bfloat16_is_rounded_once_however_often_is_drawn(base: Make) -> None:
    model = get_peft_model(base("tiny_llama").bfloat16(), config())
    optimizer = optimizer_of(model)
    for step in range(8):
        loss_of(model, step).backward()
        optimizer.step()
        model.resample(optimizer=optimizer)
    for layer in layers(model).values():
        exact = layer.formed(["default"], current=False)
        same(layer.get_base_layer().weight, exact.bfloat16())
        update = layer.exact("default").delta()
        assert torch.linalg.norm(exact + layer.current("default").a.double() @ layer.current("default").b.double()
                                 - layer.original.double() - update) < 1e-5  # fmt: skip


def test_adapters_do_not_see_each_other(base: Make) -> None:
    alone, _ = trained(base("tiny_llama"), config(seed=9))
    model, _ = trained(base("tiny_llama"), config())
    first = logits(model)
    model.add_adapter("other", config(seed=9))
    model.set_adapter("other")
    train(model, optimizer_of(model))
    close(logits(model), logits(alone))
    model.set_adapter("default")
    same(logits(model), first)
    model.base_model.set_adapter(["default", "other"])
    both = {name: layer.get_delta_weight("default") + layer.get_delta_weight("other")
            for name, layer in layers(model.base_model.model).items()}  # fmt: skip
    plain = base("tiny_llama")
    with torch.no_grad():
        for name, delta in both.items():
            plain.get_parameter(f"{name}.weight").add_(delta)
    close(logits(model), logits(plain))
    model.delete_adapter("other")
    model.set_adapter("default")
    same(logits(model), first)


def test_a_tied_output_layer_gets_a_weight_of_its_own(base: Make) -> None:
    plain: Any = base("tiny_gpt2")
    assert plain.lm_head.weight is plain.transformer.wte.weight
    before, embedding = logits(plain), plain.transformer.wte.weight.clone()
    model, _ = trained(plain, config("tiny_gpt2", target_modules=["lm_head"]))
    same(model.base_model.model.transformer.wte.weight, embedding)
    with model.disable_adapter():
        same(logits(model), before)


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning")  # what PEFT thinks of its own LoRA
@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama"])
def test_an_adapted_output_layer_is_saved_as_it_was(base: Make, name: str, tmp_path: Path) -> None:
    model, _ = trained(base(name), config(name, target_modules=["lm_head"]))
    with pytest.warns(UserWarning, match="save_embedding_layers"):  # PEFT saves its whole weight too
        model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base(name), str(tmp_path))
    close(logits(loaded), logits(model))
    settings = RosaConfig.from_pretrained(str(tmp_path))
    same(logits(PeftModel.from_pretrained(base(name), str(tmp_path), config=settings)), logits(model))


# Mistakes


class Odd(nn.Module):
    """A layer of each kind that cannot be adapted, and two that can."""

    def __init__(self) -> None:
        super().__init__()
        self.fits, self.conv1d, self.narrow = nn.Linear(6, 6), Conv1D(6, 6), nn.Linear(6, 1)
        self.embedding, self.convolution = nn.Embedding(7, 6), nn.Conv2d(6, 6, 3)
        self.attention, self.bilinear = nn.MultiheadAttention(6, 2), nn.Bilinear(6, 6, 6)
        self.quantised = nn.Linear(6, 6)
        self.quantised.weight = nn.Parameter(torch.ones(6, 6, dtype=torch.int8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1d(self.fits(x))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("embedding", "embedding is a Embedding, but ROSA adapts Linear and Conv1D"),
        ("convolution", "convolution is a Conv2d"),
        ("attention", "attention is a MultiheadAttention"),
        ("out_proj", "attention.out_proj is a NonDynamicallyQuantizableLinear"),
        ("bilinear", "bilinear is a Bilinear"),
        ("quantised", "quantised is quantised, and ROSA writes into the weights"),
        ("narrow", "r=2 does not fit narrow, a weight of 1 x 6; use at most 1"),
        ("nothing", "not found in the base model"),  # PEFT's own words
    ],
)
def test_a_layer_that_does_not_fit_is_refused_before_any_is_replaced(target: str, message: str) -> None:
    model = Odd()
    with pytest.raises(ValueError, match=message) as caught:
        get_peft_model(model, RosaConfig(r=2, target_modules=["fits", target] if target != "nothing" else [target]))
    assert "\n" not in str(caught.value)
    assert not layers(model)


def test_an_unknown_architecture_needs_target_modules() -> None:
    with pytest.raises(ValueError, match="Please specify `target_modules`"):
        get_peft_model(Odd(), RosaConfig(r=2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "r=0 is out of range"),
        ({"lora_alpha": 16}, "lora_alpha=16 is not for ROSA"),
        ({"use_dora": True}, "use_dora=True is a setting of LoRA that ROSA does not have"),
        ({"use_rslora": True}, "use_rslora=True"),
        ({"target_parameters": ["weight"]}, "target_parameters"),
        ({"layer_replication": [(0, 1)]}, "layer_replication"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' is not for ROSA; use init=svd or balanced"),
        ({"init": "zero"}, "init=zero is not known; choose one of: svd, balanced"),
        ({"select": "tpo"}, "select=tpo is not known"),
        ({"resample_every": -1}, "resample_every=-1 is out of range"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RosaConfig(**settings)


def test_an_adapter_that_does_not_belong_to_the_model_is_refused(base: Make, tmp_path: Path) -> None:
    model, _ = trained(base("tiny_llama"), config())
    model.save_pretrained(tmp_path / "rosa")
    rosa = str(tmp_path / "rosa")

    def load(onto: PreTrainedModel, message: str, folder: str = rosa, settings: RosaConfig | None = None) -> None:
        state = {name: tensor.clone() for name, tensor in onto.state_dict().items()}
        with pytest.raises(UserError, match=message) as caught:
            PeftModel.from_pretrained(onto, folder, config=settings or RosaConfig.from_pretrained(folder))
        assert "\n" not in str(caught.value)
        same(dict(onto.state_dict()), state)
        assert not layers(onto), "the model must be as it was"

    shifted = base("tiny_llama")
    with torch.no_grad():
        for parameter in shifted.parameters():
            parameter.copy_(torch.randn_like(parameter))
    load(shifted, "it was trained on another base model")
    load(base("tiny_llama"), "of another model or has other target_modules", settings=config(target_modules=["o_proj"]))
    load(base("tiny_llama"), "does not fit .* with r=13", settings=config(r=13))
    load(base("tiny_gpt2"), "of another model", settings=config("tiny_gpt2"))

    lora = get_peft_model(base("tiny_llama"), LoraConfig(r=8, task_type="CAUSAL_LM", init_lora_weights=False))
    lora.save_pretrained(str(tmp_path / "lora"))
    with pytest.raises(UserError, match=r"has no rosa_config.json, so ROSA did not save it; load it as LoRA"):
        RosaConfig.from_pretrained(str(tmp_path / "lora"))
    load(base("tiny_llama"), "or ROSA did not save it", str(tmp_path / "lora"), config())


def test_a_mended_adapter_is_loaded_after_a_refusal(base: Make, tmp_path: Path) -> None:
    model, optimizer = trained(base("tiny_llama"), config())
    model.save_pretrained(tmp_path)
    good = load_file(tmp_path / "adapter_model.safetensors")
    save_file({name: 2 * tensor for name, tensor in good.items()}, tmp_path / "adapter_model.safetensors")
    train(model, optimizer, STEPS, STEPS + 3)
    before = logits(model)
    with pytest.raises(UserError, match="another base model"):
        model.load_adapter(tmp_path, "default", is_trainable=True)
    same(logits(model), before)  # a trained adapter is not lost


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_factors_that_are_not_finite_are_refused(base: Make, tmp_path: Path, factor: str, value: float) -> None:
    model: Any = get_peft_model(base("tiny_llama"), config())
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    next(tensor for name, tensor in tensors.items() if factor in name)[0, 0] = value
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"the adapter contains NaN or Inf in \S+; use one that was saved earlier"):
        PeftModel.from_pretrained(base("tiny_llama"), str(tmp_path), config=RosaConfig.from_pretrained(str(tmp_path)))


@pytest.mark.parametrize(("change", "settings", "words"), [
    ({"draws": -1}, {}, "draws=-1 is out of range"),
    ({"draws": float("inf")}, {}, "draws=inf is out of range"),
    ({"draws": "2"}, {}, r"rosa_config\.json has a setting of another type"),
    ({"draws": None}, {}, r"rosa_config\.json has a setting of another type"),
    ({"draws": 1.5}, {}, r"rosa_config\.json has a setting of another type"),
    ({}, {"r": "2"}, r"rosa_config\.json has a setting of another type"),
    ({}, {"lora_alpha": [2]}, r"rosa_config\.json has a setting of another type"),
    ({}, {"init_lora_weights": [1]}, r"rosa_config\.json has a setting of another type"),
])  # fmt: skip
def test_settings_of_other_types_are_refused(
    tmp_path: Path, change: dict[str, Any], settings: dict[str, Any], words: str
) -> None:
    good = {"format": 1, "draws": 0, "config": {"r": RANK}}
    path = tmp_path / "rosa_config.json"
    path.write_text(json.dumps(good))
    assert RosaConfig.from_pretrained(str(tmp_path)).r == RANK
    path.write_text(json.dumps(good | change | {"config": good["config"] | settings}))
    with pytest.raises(UserError, match=words) as caught:
        RosaConfig.from_pretrained(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["{", "[]", "[" * 100_000, '{"format": 1}', '{"format": 2, "draws": 0, "config": {}}',
             '{"format": 1, "draws": 0, "config": {"r": 8, "os": "x"}}'],
)  # fmt: skip
def test_a_broken_settings_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "rosa_config.json").write_text(text)
    with pytest.raises(UserError, match=r"rosa_config.json"):
        RosaConfig.from_pretrained(str(tmp_path))


def test_what_a_model_cannot_do_is_said(base: Make) -> None:
    model: Any = get_peft_model(base("tiny_llama"), config())
    with pytest.raises(UserError, match="there is no ROSA adapter 'other' in this model; it has: default"):
        model.resample("other")
    with pytest.raises(UserError, match="cannot mix them; use set_adapter"):
        model.eval()(input_ids=IDS, adapter_names=["default"] * 4)
    with pytest.raises(UserError, match="cannot be combined"):
        model.add_weighted_adapter(["default"], [1.0], "new")
    with pytest.raises(UserError, match="merged, disabled or scaled"), model.disable_adapter():
        model.resample()
    broken, before = copy.deepcopy(model), [len(layer.pasts["default"].parts) for layer in layers(model).values()]
    layers(broken).popitem()[1].current("default").a.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="adapter 'default' contains NaN or Inf"):
        broken.resample()
    assert [len(layer.pasts["default"].parts) for layer in layers(broken).values()] == before
    model.merge_adapter()
    with pytest.raises(UserError, match="merged, disabled or scaled"):
        model.resample()
    other = get_peft_model(base("tiny_llama"), LoraConfig(r=2, task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="different peft types"):
        other.add_adapter("rosa", config())
    with pytest.raises(UserError, match="has an adapter of another kind"), pytest.warns(UserWarning):
        RosaModel(other.base_model.model, config(), "rosa")


def test_a_base_weight_that_trains_is_not_formed_again(base: Make) -> None:
    """It would be the original weight again, without what it has learned."""
    model: Any = get_peft_model(base("tiny_llama"), config())
    layer = layers(model).popitem()[1]
    layer.get_base_layer().weight.requires_grad_()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, fused=True)
    loss_of(model).backward()
    optimizer.step()
    before, draws = logits(model), len(layer.pasts["default"].parts)
    with pytest.raises(UserError, match="one trains; freeze it"):
        model.resample()
    assert torch.equal(logits(model), before) and len(layer.pasts["default"].parts) == draws
    with pytest.raises(UserError, match="one trains; freeze it"):
        layer.merge()


def test_the_state_of_a_whole_model_is_loaded_if_it_has_the_same_draws(base: Make) -> None:
    """A state dict has the base weight and the current factors, but not the past of which the weight is a function."""
    model, optimizer = trained(base("tiny_llama"), config())
    whole = copy.deepcopy(model.state_dict())
    expected = logits(model)
    train(model.train(), optimizer, STEPS, STEPS + 1)
    assert not torch.equal(logits(model), expected)
    model.load_state_dict(whole)
    assert torch.equal(logits(model), expected)
    fresh = get_peft_model(base("tiny_llama"), config())
    with pytest.raises(RuntimeError, match="draws that this model has not made"):
        fresh.load_state_dict(whole)
    model.resample()
    with pytest.raises(RuntimeError, match="draws that this model has not made"):
        model.load_state_dict(whole)
    with pytest.raises(RuntimeError, match="draws that this model has not made"):
        fresh.load_state_dict(
            {key: it + 1 for key, it in fresh.state_dict().items() if "base_layer" in key}, strict=False
        )


def test_a_refused_resample_of_several_adapters_changes_none(base: Make) -> None:
    model, _ = trained(base("tiny_llama"), config())
    model.add_adapter("broken", config(seed=9))
    model.base_model.set_adapter(["default", "broken"])
    layers(model.base_model.model).popitem()[1].current("broken").a.data.fill_(float("nan"))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="adapter 'broken' contains NaN or Inf"):
        model.resample()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.nan_to_num(), before[name].nan_to_num()), name
    assert {layer.draws["default"] for layer in layers(model.base_model.model).values()} == {2}


def test_without_peft_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rosa_bench.integrations.peft")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"needs the package peft: pip install 'rosa-bench\[peft\]'") as caught:
        importlib.import_module("rosa_bench.integrations.peft")
    assert isinstance(caught.value, UserError)
