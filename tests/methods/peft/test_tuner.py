"""Laws of PEFT's tuners on an encoder and two decoders, and comparisons with PEFT used directly."""

import copy
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from omegaconf import OmegaConf
from peft.tuners.lora.loraga import preprocess_loraga
from torch import Tensor, nn
from transformers import PreTrainedModel

from rosa_bench import attach
from rosa_bench.config.files.folder import conf_folder
from rosa_bench.config.identity.run_id import public_config
from rosa_bench.config.overrides.grammar import spelled
from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.adapter import adapters
from rosa_bench.methods.peft.config import checked_config, configuration
from rosa_bench.methods.peft.tuner import PeftTuner
from rosa_bench.models.perceptron import make_perceptron
from rosa_bench.models.spec import Perceptron
from rosa_bench.system.errors import UserError
from rosa_bench.system.seeds import seed_of
from rosa_bench.training.spectrum import weights

Compose = Callable[..., RunConfig]
Tiny = Callable[..., PreTrainedModel]

TUNERS = sorted(  # of layers: they adapt targets
    p.stem for p in (conf_folder() / "method").glob("*.yaml") if {"peft_type", "targets"} <= set(OmegaConf.load(p))
)
SEEDED = {
    "adalora",
    "dora",
    "hira",
    "lora_ga",
    "peft",
    "randlora",
    "rslora",
    "shira",
    "vera",
}  # the others draw nothing
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # PEFT's own wrapper
]
TOKENS = torch.randint(5, 261, (8, 12), generator=torch.Generator().manual_seed(5))


def batch(model: str) -> dict[str, Tensor]:
    labels = torch.tensor([0, 1] * 4) if model == "tiny_roberta" else TOKENS
    return {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS), "labels": labels}


def logits(net: nn.Module, model: str) -> Tensor:
    with torch.no_grad():
        return net.eval()(**batch(model)).logits


@pytest.fixture
def plain(tiny_model: Tiny, roughened: Callable[..., Any]) -> Callable[[str], PreTrainedModel]:
    """A small model without zeros, which could hide errors."""
    return lambda model: roughened(tiny_model(model), by=0.1)


@pytest.fixture
def method_of(compose: Compose) -> Callable[..., PeftTuner]:
    def make(model: str, method: str, *overrides: str, **changes: Any) -> PeftTuner:
        task = "grammar" if model == "tiny_roberta" else "restaurants"
        chosen = compose(f"task={task}", f"model={model}", f"method={method}", "rank=4", *overrides).method
        assert isinstance(chosen, PeftTuner)
        return replace(chosen, **changes)

    return make


def train(method: PeftTuner, net: nn.Module, model: str, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(method.parameter_groups(net), lr=1e-2, weight_decay=0)
    for _ in range(steps):
        net(**batch(model)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def repeated(net: nn.Module) -> int:
    """Count the names in a model's state beyond the first of each tensor."""
    tensors = net.state_dict().values()
    return len(tensors) - len({(tensor.data_ptr(), tensor.shape) for tensor in tensors if tensor.numel()})


# The matrix has the laws of every method in each of these; here they come with those that only PEFT's tuners have.
@pytest.mark.parametrize(("model", "protocol"), [
    ("tiny_roberta", "paper"),
    ("tiny_gpt2", "fair"),
    *(pytest.param(*cell, marks=pytest.mark.long) for cell in (
        ("tiny_roberta", "fair"), ("tiny_gpt2", "paper"), ("tiny_llama", "paper"), ("tiny_llama", "fair"),
    )),
])  # fmt: skip
@pytest.mark.parametrize("name", TUNERS)
def test_laws_of_every_tuner(plain: Any, method_of: Any, name: str, model: str, protocol: str) -> None:
    method, base = method_of(model, name, f"protocol={protocol}"), plain(model)
    before, types = logits(base, model), {key: type(module) for key, module in base.named_modules()}
    shapes = {key: tensor.shape for key, tensor in base.state_dict().items()}
    generator = torch.get_rng_state()
    net = method.attach(copy.deepcopy(base), [batch(model)] * 2)
    assert torch.equal(torch.get_rng_state(), generator)  # the global generator is left alone
    assert vars(net).keys() == vars(base).keys()  # PEFT leaves nothing behind that transformers would act on
    assert method.keeps_function
    torch.testing.assert_close(logits(net, model), before, atol=1e-5, rtol=1e-5)
    assert repeated(net) <= repeated(base)  # or Trainer could not save it
    net.load_state_dict(net.state_dict())

    kept = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    train(method, net, model)
    changed = {key for key, tensor in net.state_dict().items() if not torch.equal(tensor, kept[key])}
    declared = {key for key, p in net.named_parameters(remove_duplicate=False) if p.requires_grad} & kept.keys()
    assert changed == declared - {key for key in declared - changed if key.endswith("key.bias")}  # it has no gradient
    trained = logits(net, model)
    assert not torch.allclose(trained, before, atol=1e-3)

    state = {key: tensor.detach().clone() for key, tensor in method.state(net).items()}
    torch.manual_seed(99)
    # The state holds all that a start from data has made, except EVA's ranks.
    others = batch(model) | ({} if name == "eva" else {"input_ids": TOKENS.flip(0, 1)})
    again = method.attach(copy.deepcopy(base), [others] * 2)
    with torch.no_grad():
        for key, tensor in method.state(again).items():
            tensor.copy_(state[key])
    assert torch.equal(logits(again, model), trained)

    watched = method.watched_names(plain(model), "")
    merged = weights(net, watched)  # what the spectrum of updates is computed from
    copied = copy.deepcopy(net)
    assert method.merge(copied) is True
    assert not list(adapters(copied))
    assert {key: type(module) for key, module in copied.named_modules()} == types
    assert {key: tensor.shape for key, tensor in copied.state_dict().items()} == shapes
    torch.testing.assert_close(logits(copied, model), trained, atol=2e-5, rtol=2e-5)
    for key, weight in weights(copied, watched).items():
        torch.testing.assert_close(merged[key], weight, rtol=0, atol=1e-6)


def test_an_adapted_output_layer_leaves_the_embeddings_that_it_shared(plain: Any, method_of: Any) -> None:
    base = plain("tiny_llama")
    assert base.lm_head.weight is base.get_input_embeddings().weight
    before = base.get_input_embeddings().weight.detach().clone()
    method = method_of("tiny_llama", "rslora", "protocol=paper")
    net = method.attach(base)
    train(method, net, "tiny_llama")
    trained = logits(net, "tiny_llama")
    assert method.merge(net) is True
    assert torch.equal(net.get_input_embeddings().weight, before)
    torch.testing.assert_close(logits(net, "tiny_llama"), trained, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("head", [False, True])
def test_head_and_biases_train_as_the_settings_say(plain: Any, method_of: Any, *, head: bool, biases: bool) -> None:
    method = method_of("tiny_roberta", "dora", targets="attention", train_head=head, train_biases=biases)
    net = method.attach(plain("tiny_roberta"))
    trained = {id(p) for p in net.parameters() if p.requires_grad}
    for name, layer in adapters(net):
        assert (id(layer.bias) in trained) is biases, name
        trained -= {id(p) for p in layer.parameters()}
    assert trained == ({id(p) for p in net.classifier.parameters()} if head else set())


@pytest.mark.parametrize("name", TUNERS)
def test_the_start_depends_only_on_the_seed(plain: Any, method_of: Any, name: str) -> None:
    def start(seed: int, noise: int) -> dict[str, Tensor]:
        torch.manual_seed(noise)
        method = method_of("tiny_roberta", name, seed=seed)
        net = method.attach(plain("tiny_roberta"), [batch("tiny_roberta")] * 2)
        train(method, net, "tiny_roberta", 1)  # a mask of SHiRA shows only then
        return net.state_dict()

    first, again, other = start(0, 1), start(0, 2), start(1, 1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    differs = any(not torch.equal(first[key], other[key]) for key in first)
    assert differs == (name in SEEDED)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")  # PEFT counts by such hooks
def test_lora_ga_starts_where_peft_does_from_the_first_batches(plain: Any, method_of: Any) -> None:
    tokens = [(TOKENS * times) % 250 + 5 for times in (1, 3, 7)]
    batches = [{"input_ids": ids, "labels": ids} for ids in tokens]
    method = method_of("tiny_llama", "lora_ga", "protocol=fair", calibration_batches=2)
    net, base = method.attach(plain("tiny_llama"), batches), plain("tiny_llama")
    config: Any = method.configuration(base, method.target_names(base))

    def backward() -> None:
        for one in batches[:2]:
            base(**one).loss.backward()

    preprocess_loraga(base, config, backward)
    torch.manual_seed(seed_of(0, "peft"))
    theirs = peft.get_peft_model(base, config)
    for name, layer in adapters(net):
        found = layer.get_parameter("tuned.base_layer.weight")  # what is left after A and B were taken out
        expected = theirs.get_parameter(f"base_model.model.{name}.base_layer.weight")
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_lora_ga_needs_two_directions_of_a_weight_for_each_rank(plain: Any, method_of: Any) -> None:
    fits, too_large = (method_of("tiny_roberta", "lora_ga", f"rank={rank}") for rank in (16, 17))
    fits.attach(plain("tiny_roberta"), [batch("tiny_roberta")])
    with pytest.raises(UserError, match=r"rank=17 does not fit .*, a 32 x 32 weight, .* rank of at most 16"):
        too_large.attach(plain("tiny_roberta"), [batch("tiny_roberta")])


def test_lora_ga_starts_on_a_layer_that_the_loss_does_not_use(plain: Any, method_of: Any) -> None:
    base = plain("tiny_roberta")
    base.spare = nn.Linear(8, 8)
    expected = logits(base, "tiny_roberta")
    net = method_of("tiny_roberta", "lora_ga", targets="query|spare").attach(base, [batch("tiny_roberta")])
    torch.testing.assert_close(logits(net, "tiny_roberta"), expected)
    assert net.spare.merged_weight().isfinite().all()


def test_eva_names_a_layer_that_has_no_inputs(plain: Any, method_of: Any) -> None:
    base = plain("tiny_roberta")
    base.spare = nn.Linear(8, 8)
    with pytest.raises(UserError, match="does not call spare"):
        method_of("tiny_roberta", "eva", targets="query|spare").attach(base, [batch("tiny_roberta")])


def test_eva_has_no_progress_bar_of_its_own(plain: Any, method_of: Any, capsys: pytest.CaptureFixture[str]) -> None:
    method_of("tiny_roberta", "eva").attach(plain("tiny_roberta"), [batch("tiny_roberta")] * 2)
    assert capsys.readouterr() == ("", "")


def test_eva_starts_from_the_inputs_at_all_tokens_and_not_from_padding(plain: Any, method_of: Any) -> None:
    def start(**given: Tensor) -> dict[str, Tensor]:
        method = method_of("tiny_roberta", "eva")
        return method.state(method.attach(plain("tiny_roberta"), [batch("tiny_roberta") | given] * 2))

    mask = (torch.arange(12) < torch.tensor([12, 7, 3, 12, 9, 5, 12, 4])[:, None]).long()
    one, other = (start(attention_mask=mask, input_ids=TOKENS.where(mask.bool(), junk)) for junk in (20, 200))
    for key, tensor in one.items():
        torch.testing.assert_close(tensor, other[key], msg=key)
    whole = start(input_ids=TOKENS)
    assert any(not torch.allclose(tensor, whole[key]) for key, tensor in one.items())


@pytest.mark.parametrize("name", ["eva", "lora_ga"])
@pytest.mark.parametrize("calibration", [None, []])
def test_a_start_from_data_needs_some(plain: Any, method_of: Any, name: str, calibration: Any) -> None:
    with pytest.raises(UserError, match=f"method={name} starts from training data, and there is none"):
        method_of("tiny_roberta", name).attach(plain("tiny_roberta"), calibration)


@pytest.mark.parametrize("name", ["eva", "lora_ga"])
def test_a_start_from_data_is_computed_without_dropout(plain: Any, method_of: Any, name: str) -> None:
    starts = []
    for training in (True, False):
        base = plain("tiny_roberta").train(training)
        for module in base.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.5
        method = method_of("tiny_roberta", name)
        net = method.attach(base, [batch("tiny_roberta")] * 2)
        assert net.training is training
        starts.append(method.state(net))
    for key, tensor in starts[0].items():
        torch.testing.assert_close(tensor, starts[1][key], atol=1e-6, rtol=1e-5, msg=key)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("dora", peft.LoraConfig(r=4, lora_alpha=4, use_dora=True)),
        ("pissa", peft.LoraConfig(r=4, lora_alpha=4, init_lora_weights="pissa")),
        ("rslora", peft.LoraConfig(r=4, lora_alpha=4, use_rslora=True)),
        ("vera", peft.VeraConfig(r=256, projection_prng_key=0)),
        ("oft", peft.OFTConfig(oft_block_size=32)),
        ("hira", peft.HiraConfig(r=4)),
        ("miss", peft.MissConfig(r=4)),
    ],
)
def test_training_equals_peft_used_directly(plain: Any, method_of: Any, name: str, config: peft.PeftConfig) -> None:
    method = method_of("tiny_llama", name, "protocol=fair")
    net = method.attach(plain("tiny_llama"))
    base = plain("tiny_llama")
    config.target_modules = method.target_names(base)  # pyrefly: ignore[missing-attribute]
    torch.manual_seed(seed_of(0, "peft"))
    other = peft.get_peft_model(base, config)
    for one in (net, other):
        optimizer = torch.optim.AdamW([p for p in one.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(2):
            one.eval()(**batch("tiny_llama")).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(logits(net, "tiny_llama"), logits(other, "tiny_llama"), atol=1e-6, rtol=1e-6)


COMPARISON = {  # the form of the files in PEFT's method comparison
    "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": None, "bias": "none", "corda_config": None,
    "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": False,
    "init_lora_weights": True, "layer_replication": None, "layers_pattern": None, "layers_to_transform": None,
    "loftq_config": {}, "lora_alpha": 64, "lora_bias": False, "lora_dropout": 0.0, "megatron_config": None,
    "megatron_core": "megatron.core", "modules_to_save": None, "peft_type": "LORA", "r": 3, "rank_pattern": {},
    "revision": None, "target_modules": ["v_proj", "q_proj"], "task_type": "CAUSAL_LM", "use_dora": False,
    "use_rslora": True,
}  # fmt: skip


def written(folder: Path, **changes: Any) -> str:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(COMPARISON | changes))
    return str(path)


def test_a_file_of_pefts_method_comparison_runs(plain: Any, method_of: Any, compose: Compose, tmp_path: Path) -> None:
    method = method_of("tiny_llama", "peft", adapter_config=written(tmp_path))
    net = method.attach(plain("tiny_llama"))
    assert {name.split(".")[-1] for name, _ in adapters(net)} == {"q_proj", "v_proj"}
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 2 * 3 * (32 + 32 + 32 + 16)
    inline = method_of("tiny_llama", "peft", peft_type="LORA", config=dict(reversed(COMPARISON.items())))
    assert json.dumps(inline.config) == json.dumps(method.config)  # neither place nor order counts
    assert method.config["r"] == 3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"modules_to_save": ["classifier"]}, "head trains by method.train_head"),
        ({"corda_config": {"cache_file": "/tmp/x"}}, r"corda_config\.cache_file would load files"),
        ({"tokenizer_kwargs": {"a": 1}}, "would load files"),
        ({"bias": "all"}, "use method.train_biases"),
        ({"r": float("inf")}, "out of range"),
        ({"lora_alpha": -1e10}, "out of range"),
        ({"target_modules": ["q_proj"] * 10_001}, "has more than 10,000 values"),
        ({"eva_config": {"a": {"b": {"c": {"d": {"e": 1}}}}}}, "nested too deeply"),
        ({"target_modules": [[[[["q_proj"]]]]]}, "nested too deeply"),
        ({"init_lora_weights": "corda"}, "use eva or lora_ga"),
        ({"a.b": 1}, "which is not a name"),
        ({"ensure_weight_tying": True}, "an adapted output layer is untied"),
    ],
)
def test_settings_that_are_refused_at_once(method_of: Any, config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        method_of("tiny_roberta", "peft", config=config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"lora_alhpa": 3}}, r"config\.lora_alhpa is not known to PEFT's LORA; did you mean lora_alpha"),
        ({"config": {"r": "x"}}, "not of the type of PEFT's default"),
        ({"config": {"r": True}}, "not of the type of PEFT's default"),
        ({"peft_type": "NOPE"}, "peft_type=NOPE is not known"),
        ({"peft_type": "MISS", "config": {"r": 64}}, "PEFT refuses it"),
        ({"peft_type": "VERA", "config": {"r": -1}}, "PEFT refuses it: RuntimeError"),
        ({"peft_type": "DELORA", "config": {"rank_pattern": "x"}}, "PEFT refuses it: AttributeError"),
        ({"peft_type": "TRAINABLE_TOKENS", "config": {"token_indices": [10**6]}}, "PEFT refuses it: IndexError"),
        ({"config": {"target_modules": 5}}, "PEFT refuses it"),
        ({"config": {"target_modules": "(*"}}, "PEFT refuses it: error: nothing to repeat"),
        ({"config": {"target_modules": "all-linear", "exclude_modules": "(*"}}, "PEFT refuses it: error"),
        ({"peft_type": "OFT", "config": {"oft_block_size": 7}}, "PEFT would use another value.*Adjusted"),
    ],
)
def test_settings_that_peft_does_not_know(plain: Any, method_of: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        method_of("tiny_roberta", "peft", **changes).attach(plain("tiny_roberta"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("config", [{"lora_alhpa": 3}, {"r": "x"}, {"target_modules": ["nowhere"]}])
def test_mistaken_settings_are_found_without_attaching(plain: Any, method_of: Any, config: dict[str, Any]) -> None:
    model = plain("tiny_roberta")
    with pytest.raises(UserError):
        method_of("tiny_roberta", "peft", config=config).check_shapes(model)
    assert not list(adapters(model))


def test_a_rank_of_its_own_is_refused_where_rank_decides(method_of: Any) -> None:
    with pytest.raises(UserError, match=r"method\.config\.r is not for this method: use rank="):
        method_of("tiny_roberta", "dora", config={"r": 3})


def test_settings_that_are_off_are_left_out() -> None:
    assert checked_config({"ensure_weight_tying": False, "modules_to_save": None, "loftq_config": {}}) == {}


def test_settings_that_are_kept(method_of: Any) -> None:
    patterns = {"rank_pattern": {"kwargs_proj": 2, "attn": 3}}  # keys are names of layers, whatever they look like
    method = method_of("tiny_roberta", "peft", config=patterns)
    assert method.config == patterns
    turned = method_of("tiny_roberta", "peft", config={"rank_pattern": {"attn": 3, "kwargs_proj": 2}})
    assert json.dumps(turned.config) == json.dumps(method.config)
    assert configuration("LORA", {"lora_dropout": 0}, seed=0).to_dict()["lora_dropout"] == 0  # PEFT's default is 0.0


def test_patterns_whose_order_would_count_are_refused(plain: Any, method_of: Any) -> None:
    """PEFT takes the first that matches a layer."""

    def attach(**ranks: int) -> dict[str, int]:
        config = {"r": 4, "rank_pattern": {name.replace("_", "."): rank for name, rank in ranks.items()}}
        model = method_of("tiny_roberta", "peft", config=config).attach(plain("tiny_roberta"))
        return {name: len(tensor) for name, tensor in model.named_parameters() if "lora_A" in name}

    alone = attach(self_query=3)
    assert set(alone.values()) == {3, 4}
    assert attach(self_query=3, query=3) == alone
    message = r"rank_pattern has several values for \S+query: those of query and self.query; PEFT takes the first"
    with pytest.raises(UserError, match=message):
        attach(self_query=3, query=2)


def test_a_draw_has_the_runs_seed_unless_it_has_its_own() -> None:
    def seed(**values: Any) -> int:
        return configuration("VERA", values, seed=5).to_dict()["projection_prng_key"]

    assert seed() == 5
    assert seed(projection_prng_key=7) == 7


def test_settings_that_are_typed_change_those_of_a_file(method_of: Any, tmp_path: Path) -> None:
    method = method_of("tiny_llama", "peft", adapter_config=written(tmp_path), config={"r": 2})
    assert (method.config["r"], method.config["lora_alpha"]) == (2, COMPARISON["lora_alpha"])


def test_a_file_that_is_not_settings(method_of: Any, tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    for text in ("[1]", "{", '{"r": 1, "r": 2}'):
        path.write_text(text)
        with pytest.raises(UserError, match="is not a JSON"):
            method_of("tiny_roberta", "peft", adapter_config=str(path))
    with pytest.raises(UserError, match="cannot be read"):
        method_of("tiny_roberta", "peft", adapter_config=str(tmp_path / "none.json"))


def test_settings_on_the_command_line(compose: Compose) -> None:
    arguments = spelled(["method=dora", "method.config={lora_dropout:0.1}", "method.config.lora_alpha=3"])
    config = compose("task=grammar", "model=tiny_roberta", *arguments)
    expected = {"lora_alpha": 3, "lora_dropout": 0.1, "use_dora": True}
    assert public_config(config)["method"]["config"] == expected
    assert spelled(["method.look=1"]) == ["method.look=1"]


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("tiny_roberta", {"peft_type": "LILY", "config": {"r": 4}, "train_biases": True}),
        ("tiny_roberta", {"peft_type": "BEFT", "train_biases": False}),
        ("tiny_llama", {"peft_type": "LILY", "config": {"r": 4}, "train_biases": True}),  # it has none
    ],
)
def test_an_adapter_that_cannot_be_merged_is_loaded_by_peft(
    plain: Any, method_of: Any, tmp_path: Path, model: str, changes: dict[str, Any]
) -> None:
    method = method_of(model, "peft", "protocol=paper", train_head=True, lm_head=None, **changes)
    net = method.attach(plain(model))
    train(method, net, model)
    trained = logits(net, model)
    assert not method.mergeable
    assert method.merge(net) is False
    method.save(net, tmp_path)
    loaded = peft.PeftModel.from_pretrained(plain(model), str(tmp_path))
    torch.testing.assert_close(logits(loaded, model), trained, atol=1e-6, rtol=1e-6)
    if not (changes["train_biases"] and model == "tiny_roberta"):  # which are written into the model
        with loaded.disable_adapter():  # and with it the head
            assert torch.equal(logits(loaded, model), logits(plain(model), model))


SPLIT = {"fused": {"q_proj": 2}, "split_qkv": True}


@pytest.mark.parametrize(
    ("model", "changes", "reason"),
    [
        ("tiny_gpt2", {"peft_type": "BEFT"}, "PEFT refuses it: Target module Conv1D"),
        ("tiny_gpt2", {"peft_type": "LILY", "config": {"r": 4}}, "PEFT refuses it: .*not support target .*Conv1D"),
        ("tiny_llama", {"peft_type": "LILY", "config": {"r": 4}, **SPLIT}, r"has no model.*q_proj\..* of its own"),
        ("tiny_llama", {"peft_type": "LILY", "config": {"r": 4}}, None),
        ("tiny_roberta", {"peft_type": "BEFT"}, None),
        ("tiny_gpt2", {"peft_type": "LORA"}, None),  # is merged
    ],
)
def test_an_adapter_that_peft_could_not_load_is_refused_before_training(
    plain: Any, method_of: Any, model: str, changes: dict[str, Any], reason: str | None
) -> None:
    base, method = plain(model), method_of(model, "peft", **changes)
    before = copy.deepcopy(base)
    with nullcontext() if reason is None else pytest.raises(UserError, match=f"^save_model=true: .*{reason}"):
        method.check_saves(base)
    assert [*map(str, base.modules())] == [*map(str, before.modules())]
    assert all(map(torch.equal, base.parameters(), before.parameters()))


def test_a_tuner_that_can_be_merged_is_saved_as_a_model(plain: Any, method_of: Any, tmp_path: Path) -> None:
    method = method_of("tiny_roberta", "dora")
    net = method.attach(plain("tiny_roberta"))
    train(method, net, "tiny_roberta")
    trained = logits(net, "tiny_roberta")
    assert method.merge(net) is True
    method.save(net, tmp_path)
    loaded = type(net).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded, "tiny_roberta"), trained, atol=1e-5, rtol=1e-5)


def test_dora_refuses_a_row_of_zeros(tiny_model: Tiny, method_of: Any) -> None:
    with pytest.raises(UserError, match=r"^lm_head has a row of zeros.*use method\.lm_head=null"):
        method_of("tiny_llama", "dora", "protocol=paper").attach(tiny_model("tiny_llama"))  # of the padding token
    assert method_of("tiny_llama", "dora", "protocol=paper", lm_head=None).attach(tiny_model("tiny_llama"))
    assert method_of("tiny_llama", "rslora", "protocol=paper").attach(tiny_model("tiny_llama"))


def test_missing_peft_is_reported_in_one_line(method_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = method_of("tiny_roberta", "dora")
    monkeypatch.setattr("rosa_bench.methods.peft.tuner.find_spec", lambda _name: None)
    with pytest.raises(
        UserError, match=r"method=dora needs the package peft; install it: pip install 'rosa-bench\[peft"
    ):
        replace(chosen, rank=5)


@pytest.mark.parametrize("method", ["rslora", "pissa"])
def test_no_expert_is_tuned_in_place_of_a_layer(tiny_moe: PreTrainedModel, method: str) -> None:
    """PEFT finds the layers of older checkpoints by the ends of their names, and so those of a block without any."""
    before = {name: weight.clone() for name, weight in tiny_moe.state_dict().items()}
    with pytest.raises(UserError, match=r"PEFT would tune the model's experts in place of .*0.mlp.up_proj"):
        attach(tiny_moe, method, rank=2, targets=r"mlp\.(up|down)_proj")
    assert all(torch.equal(weight, before[name]) for name, weight in tiny_moe.state_dict().items())
    attach(tiny_moe, method, rank=2)  # attention can be tuned


def test_a_start_that_fails_leaves_the_weights_of_earlier_layers(tiny_model: Tiny) -> None:
    model = tiny_model("tiny_roberta")
    with torch.no_grad():
        model.get_parameter("roberta.encoder.layer.1.attention.output.dense.weight").fill_(float("nan"))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(UserError, match=r"PEFT refuses it: .*; choose other layers with method.targets=, or another"):
        attach(model, "pissa", rank=2)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("method", ["lora_ga", "eva", "vera", "dora"])
def test_a_perceptron_is_refused_by_our_words_and_not_by_an_error_of_peft(
    compose: Callable[..., RunConfig], method: str
) -> None:
    config = compose("task=synthetic", "model=mlp1", f"method={method}")
    assert isinstance(config.model, Perceptron)
    model = make_perceptron(config.model, inputs=8, outputs=4, replicates=1)
    with pytest.raises(UserError, match=f"method={method} is for transformers; choose one with model="):
        config.method.check_shapes(model)
