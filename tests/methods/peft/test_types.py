"""Every type of tuner that the installed PEFT registers: it serves or is refused in one line, and its laws hold."""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from rosa_bench.layers.adapter import adapters
from rosa_bench.methods.peft.behaviour import TOKEN_TYPES, behaviour_of
from rosa_bench.methods.peft.config import tuner_types
from rosa_bench.methods.peft.tuner import move
from rosa_bench.methods.size import UnsizedError
from rosa_bench.system.errors import UserError

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),  # PEFT about norms, which it tunes itself
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # PEFT's own wrapper
]
# Settings without which a type does not fit a model as small as this one.
SMALL: dict[str, dict[str, Any]] = {
    "C3A": {"block_size": 4}, "FOURIERFT": {"n_frequency": 20}, "LILY": {"r": 4}, "MISS": {"r": 4},
    "OFT": {"oft_block_size": 4}, "OSF": {"effective_rank": 8}, "PSOFT": {"r": 4}, "ROAD": {"group_size": 4},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"token_indices": [5, 6, 7]}, "VBLORA": {"vector_length": 4, "num_vectors": 16},
    "WAVEFT": {"n_frequency": 20}, **{kind: {"num_virtual_tokens": 3} for kind in TOKEN_TYPES},
}  # fmt: skip
REFUSED = {  # as long as this list is true, no type is refused without a reason that is known here
    "ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "POLY", "SHADOW", "XLORA",
}  # fmt: skip
TIED = {"TRAINABLE_TOKENS"}  # refused where the output layer shares the embeddings
UNSIZED = {"BOFT", "FROD", "UNILORA"}  # they compute with weights when they are attached
# Settings under which a type starts from another function than it usually does.
MOVED = [
    ("ADAMSS", {"init_weights": None}), ("C3A", {"init_weights": True}), ("DEFT", {"para": True}), ("HRA", {"r": 7}),
    ("HRA", {"r": 6}), ("IA3", {"init_ia3_weights": False}), ("LORA", {"kasa_config": {}, "r": 4}),
    ("LORA", {"init_lora_weights": False}), ("DEFT", {"para": False}),
]  # fmt: skip
TOKENS = torch.randint(5, 261, (4, 12), generator=torch.Generator().manual_seed(1))
BATCH = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS), "labels": TOKENS}


def logits(net: nn.Module) -> Tensor:
    with torch.no_grad():
        return net.eval()(**{**BATCH, "labels": None}).logits.clone()


def train(method: Any, net: nn.Module, steps: int = 2) -> None:
    torch.manual_seed(3)  # some tuners sample in a step
    optimizer = torch.optim.AdamW(method.parameter_groups(net), lr=1e-2, weight_decay=0)
    for _ in range(steps):
        net.train()(**BATCH).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def held(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """All tensors that modules hold, also outside parameters and buffers."""
    if isinstance(value, Tensor):
        yield value
    elif id(value) not in seen and isinstance(value, nn.Module | dict | list | tuple):
        seen.add(id(value))
        inner = vars(value) if isinstance(value, nn.Module) else value
        for one in inner.values() if isinstance(inner, dict) else inner:
            yield from held(one, seen)


@pytest.fixture
def method_of(compose: Callable[..., Any]) -> Callable[..., Any]:
    def make(model: str = "tiny_llama", **changes: Any) -> Any:
        task = "grammar" if model == "tiny_roberta" else "restaurants"
        chosen = compose(f"task={task}", f"model={model}", "method=peft", "protocol=fair").method
        assert chosen.targets == "attention"  # of what was typed: no file, and LoRA
        return replace(chosen, **{"targets": "auto", "peft_type": None, **changes})  # much faster than composing

    return make


@pytest.fixture
def typed(method_of: Callable[..., Any]) -> Callable[..., Any]:
    def make(kind: str, model: str = "tiny_llama", **config: Any) -> Any:
        return method_of(model, peft_type=kind, config={**SMALL.get(kind, {}), **config})

    return make


@pytest.fixture
def plain(tiny_model: Callable[..., Any], roughened: Callable[..., Any]) -> Callable[..., Any]:
    return lambda model="tiny_llama": roughened(tiny_model(model), by=0.1)


@pytest.fixture
def filed(method_of: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    def make(targets: str = "auto", **values: Any) -> Any:
        path = tmp_path / "adapter_config.json"
        path.write_text(json.dumps(values))
        return method_of(adapter_config=str(path), targets=targets)

    return make


def ends(net: nn.Module) -> set[str]:
    """The last parts of the names of what is tuned."""
    return {name.rpartition(".")[2] for name, _ in adapters(net)}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind == "ADAMSS" else kind for kind in tuner_types()]
)  # ADAMSS imports scikit-learn
def test_each_type_serves_by_its_laws_or_is_refused(typed: Any, plain: Any, kind: str) -> None:
    base = plain()
    try:
        method = typed(kind)
        net = method.attach(copy.deepcopy(base), [BATCH] * 2)
    except UserError as error:
        assert kind in REFUSED | TIED
        assert "\n" not in str(error)
        assert f"method.peft_type={kind} cannot be used: " in str(error)
        return
    assert kind not in REFUSED | TIED
    trained = [id(parameter) for parameter in method.trainable(net)]
    assert len(trained) == len(set(trained))
    assert set(trained) == {id(parameter) for parameter in net.parameters() if parameter.requires_grad}
    assert all(base.get_submodule(name).weight.ndim == 2 for name in method.watched_names(base, r".*q_proj"))
    assert torch.allclose(logits(net), logits(base), atol=1e-5, rtol=1e-5) is method.keeps_function

    train(method, net)
    reached = logits(net)
    assert not torch.allclose(reached, logits(base), atol=1e-4)
    state = {key: tensor.detach().clone() for key, tensor in method.state(net).items()}
    torch.manual_seed(99)
    again = method.attach(copy.deepcopy(base), [BATCH] * 2)
    with torch.no_grad():
        for key, tensor in method.state(again).items():
            tensor.copy_(state[key])
    assert torch.equal(logits(again), reached)
    if kind not in TOKEN_TYPES:
        move(again, torch.device("meta"))
        assert {tensor.device.type for tensor in held(again, set())} == {"meta"}

    assert method.merge(net) is method.mergeable
    torch.testing.assert_close(logits(net), reached, atol=2e-5, rtol=2e-5)
    if method.mergeable:
        assert [(name, type(it)) for name, it in net.named_modules()] == [
            (name, type(it)) for name, it in base.named_modules()
        ]


@pytest.mark.parametrize(
    ("kind", "config"), [pytest.param(*it, marks=pytest.mark.slow) if it[0] == "ADAMSS" else it for it in MOVED]
)
def test_settings_that_decide_where_a_tuner_starts(typed: Any, plain: Any, kind: str, config: dict[str, Any]) -> None:
    base, method = plain(), typed(kind, **config)
    net = method.attach(copy.deepcopy(base))
    assert torch.allclose(logits(net), logits(base), atol=1e-5, rtol=1e-5) is method.keeps_function


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("LORA", {"alora_invocation_tokens": [1, 2]}, "with alora_invocation_tokens it needs the place"),
        ("LORA", {"arrow_config": {}}, "loads other adapters"),
        ("LORA", {"monteclora_config": {}}, "needs a loss of its own"),
        ("LORA", {"target_parameters": ["q_proj.weight"]}, "tunes parameters, not layers"),
        ("ADAMSS", {"use_asa": True}, "a schedule of its own"),
        ("LORA", {"init_lora_weights": "loftq"}, "needs a quantised model"),
    ],
)
def test_settings_that_need_more_than_a_run_has(kind: str, config: dict[str, Any], message: str) -> None:
    assert behaviour_of(kind, {}).refused is None
    assert message in str(behaviour_of(kind, config).refused)


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("LORA", {"lora_bias": True}, r"lora_bias=true cannot be merged into .*q_proj, which has no bias"),
        ("OSF", {"effective_rank": 32}, "OSF with these settings has nothing to train"),
        ("LORA", {"layers_to_transform": [7]}, "matches no layer of this model"),
        ("LORA", {"target_modules": ["to_q"]}, "matches no layer of this model; use names of its layers"),
    ],
)
def test_settings_that_do_not_fit_the_model(
    typed: Any, plain: Any, kind: str, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        typed(kind, **config).attach(plain())


@pytest.mark.parametrize(("kind", "buffer", "stays"), [("TINYLORA", "tinylora_A", True), ("VERA", "vera_A", False)])
def test_a_models_state_has_the_buffers_of_single_layers_but_not_shared_ones(
    typed: Any, plain: Any, kind: str, buffer: str, *, stays: bool
) -> None:
    net = typed(kind).attach(plain())
    assert any(f".{buffer}." in name for name, _ in net.named_buffers())
    assert any(f".{buffer}." in name for name in net.state_dict()) is stays


STARTS: list[tuple[str, dict[str, Any]]] = [
    *(("LORA", {"init_lora_weights": it}) for it in ("olora", "orthogonal", "pissa")),
    ("LORA", {"init_lora_weights": "eva", "eva_config": {"rho": 1.0}, "r": 4}),  # each layer has r directions
    ("LORA", {"init_lora_weights": "lora_ga", "lora_ga_config": {}, "r": 4}),
    ("LORA", {"use_dora": True}),
]


@pytest.mark.parametrize(
    ("kind", "config"),
    [*((kind, {}) for kind in tuner_types() if kind not in REFUSED | TIED | {"ADAMSS", "ROSA"}), *STARTS],
)
def test_the_size_of_a_tuner_is_known_without_weights_unless_it_computes_with_them(
    typed: Any, plain: Any, kind: str, config: dict[str, Any]
) -> None:
    def sizes(net: nn.Module) -> list[torch.Size]:
        return [parameter.shape for parameter in net.parameters() if parameter.requires_grad]

    method, base = typed(kind, **config), plain().to("meta")
    expected = sizes(method.attach(plain(), [BATCH] * 2))
    with pytest.raises(UnsizedError, match="needs weights") if kind in UNSIZED else nullcontext(), torch.device("meta"):
        assert sizes(method.attach(base)) == expected


def test_a_bias_of_lora_is_merged_into_layers_that_have_one(typed: Any, plain: Any) -> None:
    assert typed("LORA", "tiny_gpt2", lora_bias=True).attach(plain("tiny_gpt2"))


@pytest.mark.parametrize("kind", ["LORA", "P_TUNING", "PROMPT_TUNING"])
def test_the_start_depends_on_the_methods_seed(typed: Any, plain: Any, kind: str) -> None:
    def start(seed: int) -> Tensor:
        net = replace(typed(kind), seed=seed).attach(plain())
        return torch.cat([p.detach().flatten() for p in net.parameters() if p.requires_grad])

    assert torch.equal(start(0), start(0))
    assert not torch.equal(start(0), start(1))


def test_steps_that_make_sparse_or_complex_tensors_are_not_captured(typed: Any) -> None:
    kinds = ("FOURIERFT", "LORA", "SHIRA", "VERA", "WAVEFT")
    assert [kind for kind in kinds if not typed(kind).supports_graphs] == ["FOURIERFT", "SHIRA", "WAVEFT"]


# Which layers are tuned


@pytest.mark.parametrize("kind", ["LORA", "LN_TUNING", "IA3", "LILY", "OSF", "RANDLORA"])
def test_a_file_without_targets_tunes_what_peft_tunes(filed: Any, plain: Any, kind: str) -> None:
    net = filed(peft_type=kind).attach(plain())
    theirs = peft.get_peft_model(plain(), peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)]())
    tuned = {name for name, it in theirs.named_modules() if isinstance(it, BaseTunerLayer)}
    assert {f"base_model.model.{name}" for name, _ in adapters(net)} == tuned
    count, of_theirs = (sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (net, theirs))
    assert count == of_theirs


def test_targets_that_are_typed_come_before_pefts_own(filed: Any, method_of: Any, plain: Any) -> None:
    four = {f"{letter}_proj" for letter in "qkvo"}
    assert ends(filed("attention", peft_type="LORA").attach(plain())) == four
    assert ends(filed("attention", peft_type="LORA", target_modules=["v_proj"]).attach(plain())) == {"v_proj"}
    assert ends(method_of().attach(plain())) == four  # without a file
    assert ends(method_of(targets="peft").attach(plain())) == {"q_proj", "v_proj"}
    with pytest.raises(UserError, match=r"PEFT has no targets of its own for LORA.*method\.targets=attention"):
        method_of(targets="peft").attach(nn.Sequential(nn.Linear(2, 2)))


def test_a_file_may_name_all_linear_layers(filed: Any, plain: Any) -> None:
    found = ends(filed(peft_type="LORA", target_modules="all-linear").attach(plain()))
    assert found == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_the_whole_model_is_no_target(filed: Any, plain: Any) -> None:
    net = filed(peft_type="LORA", target_modules=r"(.*\.q_proj)?").attach(plain())  # matches an empty name
    assert ends(net) == {"q_proj"}


def test_layer_normalisation_is_found_in_models_that_peft_does_not_know(typed: Any, plain: Any) -> None:
    assert ends(typed("LN_TUNING", "tiny_roberta").attach(plain("tiny_roberta"))) == {"LayerNorm"}
    assert ends(typed("LN_TUNING", "tiny_gpt2").attach(plain("tiny_gpt2"))) == {"ln_1", "ln_2", "ln_f"}


def test_tokens_train_where_the_embeddings_are_the_models_own(typed: Any, plain: Any) -> None:
    method, base = typed("TRAINABLE_TOKENS", "tiny_roberta"), plain("tiny_roberta")
    before = base.get_input_embeddings().weight.detach().clone()
    net = method.attach(base)
    optimizer = torch.optim.SGD(method.parameter_groups(net), lr=1.0)
    net(input_ids=TOKENS, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    optimizer.step()
    assert method.merge(net) is True
    changed = (net.get_input_embeddings().weight != before).any(1).nonzero().flatten()
    assert set(changed.tolist()) == {5, 6, 7} & set(TOKENS.flatten().tolist())


def test_settings_that_leave_layers_out_act_on_our_targets(typed: Any, plain: Any) -> None:
    net = typed("LORA", layers_to_transform=[1], exclude_modules=["q_proj"]).attach(plain())
    assert {name for name, _ in adapters(net)} == {f"model.layers.1.self_attn.{it}_proj" for it in "kvo"}
    chosen = replace(typed("LORA", exclude_modules=["q_proj"]), targets=r"layers\.0\.self_attn\.(q|k)_proj").attach(
        plain()
    )
    assert [name for name, _ in adapters(chosen)] == ["model.layers.0.self_attn.k_proj"]


@pytest.mark.parametrize("targets", ["attention", "all-linear", r"layers\.1\..*_proj"])
def test_layers_whose_names_end_alike_share_lilys_factors(typed: Any, plain: Any, targets: str) -> None:
    method = replace(typed("LILY"), targets=targets)
    net = method.attach(plain())
    layers = dict(adapters(net))
    config: Any = method.configuration(plain(), list(layers))
    others = {name.replace(".1.", ".0.") for name in layers} if targets.startswith("layers") else set()
    assert config.exclude_modules == others
    shared: dict[str, set[int]] = {}
    for name, layer in layers.items():
        shared.setdefault(name.split(".", 3)[3], set()).add(id(layer.get_submodule("tuned.lily_B.default")))
    assert {len(factors) for factors in shared.values()} == {1}
    assert len(set.union(*shared.values())) == len(shared)
    assert {name.split(".")[2] for name in layers} == ({"1"} if targets.startswith("layers") else {"0", "1"})


@pytest.mark.parametrize("feedforward", [["down_proj"], r".*\.down_proj"])
def test_ia3_scales_the_inputs_of_the_feed_forward_part(filed: Any, plain: Any, feedforward: Any) -> None:
    given = {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": feedforward}
    net = filed(peft_type="IA3", **given).attach(plain())
    assert {name.split(".")[-1]: vars(it.get_submodule("tuned"))["is_feedforward"] for name, it in adapters(net)} == {
        "k_proj": False, "down_proj": True,
    }  # fmt: skip


def test_empty_settings_of_another_version_are_left_out(filed: Any, plain: Any) -> None:
    kept = {"peft_type": "C3A", "block_size": 4, "target_modules": ["q_proj"]}
    assert filed(**kept, exclude_modules=None, rank_pattern={}, new_switch=False).attach(plain())
    with pytest.raises(UserError, match=r"config\.new_switch is not known to PEFT's C3A"):
        filed(**kept, new_switch=True).attach(plain())


def test_the_spectra_of_tuned_linear_layers_are_watched(typed: Any, plain: Any) -> None:
    """What is watched has a matrix: a tuned normalisation layer has none."""
    model = plain()
    lora = typed("LORA", target_modules=["q_proj"])
    assert lora.watched_names(model, "") == [f"model.layers.{number}.self_attn.q_proj" for number in range(2)]
    assert typed("LN_TUNING").watched_names(model, "") == []
