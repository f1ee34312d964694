"""Laws of LoRA adapters of merged models: base plus adapter is the trained model; PEFT reads the files as we do."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from rosa_bench import attach
from rosa_bench.adapters.lora import (
    LoraAdapter,
    PlainWeights,
    apply_adapter,
    check_called,
    difference,
    known_updates,
    lora_adapter,
)
from rosa_bench.adapters.peft_format import compressed, read_peft, write_peft
from rosa_bench.layers.exact import Update
from rosa_bench.system.errors import UserError
from rosa_bench.system.tensors import check_finite

IDS = torch.arange(5, 21).reshape(2, 8)
PEFT = "base_model.model."  # before the names of tensors in PEFT's files
BASE = {"base_model_name_or_path": None, "revision": None, "task_type": None}
# Each has another way into an adapter: known factors, a difference, a changed function, changed biases, split layers.
CELLS = [
    ("tiny_roberta", "lora", {"rank": 2}, 2),
    ("tiny_roberta", "rosa", {"rank": 2, "resample_every": 2, "resample_unit": "steps"}, 8),
    ("tiny_roberta", "ia3", {"side": "output", "protocol": "paper"}, 32),
    ("tiny_gpt2", "rosa", {"rank": 2, "resample_every": 2, "resample_unit": "steps", "split_qkv": True}, 24),
    ("tiny_gpt2", "lora", {"rank": 2, "protocol": "paper"}, 2),
    ("tiny_llama", "rosa", {"rank": 2, "resample_every": 2, "resample_unit": "steps"}, 8),
    ("tiny_llama", "lora", {"rank": 2, "lm_head": "lm_head"}, 2),  # tied to the embedding
    ("tiny_llama", "rosa", {"rank": 2, "init": "svd_add", "targets": "all-linear"}, 2),
]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def trained(model: Any, method: str, settings: dict[str, Any]) -> tuple[Any, LoraAdapter]:
    """Return the model after four steps, merged, and its adapter."""
    before = PlainWeights(model)
    attached = attach(model, method, **settings)
    before.adapted(attached.method, model)
    optimizer = attached.optimizer(lr=1e-2)
    labels = IDS if model.get_output_embeddings() is not None else torch.tensor([0, 1])
    for step in range(4):
        attached.before_step(step, optimizer)
        model(input_ids=IDS, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        for parameter in attached.method.head_parameters(model):
            parameter.add_(0.01)  # the head of a run is random, so it counts even if it does not train
    known = known_updates(model, before)
    attached.merge()
    return model, lora_adapter(before, model, head=attached.method.head, known=known)


@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore:.*(tie_word_embeddings|fan_in_fan_out|lora_bias).*:UserWarning"
)
@pytest.mark.parametrize(
    ("name", "method", "settings", "rank"),
    [
        pytest.param(*cell, marks=[pytest.mark.slow] if number in (0, 2, 4, 7) else [])
        for number, cell in enumerate(CELLS)
    ],
    ids=lambda it: str(it)[:12],
)
def test_base_and_adapter_are_the_trained_model(  # noqa: PLR0917 - pytest names them
    tiny_model: Callable[..., Any],
    loud: Callable[..., Any],
    name: str,
    method: str,
    settings: dict[str, Any],
    rank: int,
    tmp_path: Path,
) -> None:
    plain = loud(tiny_model(name))
    model, adapter = trained(copy.deepcopy(plain), method, settings)
    expected = logits(model)
    assert not torch.allclose(expected, logits(plain), atol=1e-2)
    written = write_peft(adapter, tmp_path, base=BASE)
    assert written.rank <= rank and written.error == 0
    back, _ = read_peft(tmp_path)
    ours = copy.deepcopy(plain)
    apply_adapter(ours, back)
    rounding = 1e-5 * expected.abs().max().item()  # of float32, whichever way a processor adds up
    torch.testing.assert_close(logits(ours), expected, rtol=0, atol=rounding)
    theirs = PeftModel.from_pretrained(copy.deepcopy(plain), str(tmp_path))
    torch.testing.assert_close(logits(theirs), expected, rtol=0, atol=rounding)
    assert {name.removeprefix("base_model.model.") for name in load_file(tmp_path / "adapter_model.safetensors")} == {
        name.replace(".default", "").replace("modules_to_save.", "").removeprefix("base_model.model.")
        for name, _ in theirs.named_parameters()
        if "lora_" in name or "modules_to_save" in name
    }, "PEFT loads every tensor and misses none"


def test_plain_lora_keeps_its_own_factors(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("tiny_llama")
    before, attached = PlainWeights(model), attach(model, "lora", rank=2, alpha=6.0)
    with torch.no_grad():
        for parameter in attached.trainable_parameters:
            parameter.copy_(normal(*parameter.shape))
    layer = model.model.layers[0].self_attn.q_proj
    update = known_updates(model, before)["model.layers.0.self_attn.q_proj"]
    assert torch.equal(update.a, 3.0 * layer.a.detach()) and torch.equal(update.b, layer.b.detach())
    layer.residual[0, 0] += 1e-3  # as after a merge
    assert "model.layers.0.self_attn.q_proj" not in known_updates(model, before)


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_a_difference_has_the_rank_of_the_update(rank: int) -> None:
    weight, a, b = normal(12, 9), 1e-2 * normal(12, rank, seed=1), normal(rank, 9, seed=2)
    found = difference(weight, weight + a @ b)
    assert found.rank == rank
    torch.testing.assert_close(found.a @ found.b, a @ b, rtol=0, atol=1e-6)
    assert difference(weight, weight).rank == 1


def test_ranks_beyond_a_weights_own_cost_nothing_and_smaller_ones_are_measured() -> None:
    wide = {"x": Update(normal(6, 20), normal(20, 8)), "y": Update(normal(6, 2), normal(2, 8))}
    short, written = compressed(wide, None)
    assert (written.rank, written.full_rank) == (6, 20) and written.error < 1e-6
    torch.testing.assert_close(short["x"].delta(), wide["x"].delta(), rtol=0, atol=1e-4)
    short, written = compressed(wide, 2)
    lost = sum((short[name].delta() - wide[name].delta()).norm() ** 2 for name in wide)
    whole = sum(wide[name].delta().norm() ** 2 for name in wide)
    assert written.rank == 2 and written.error == pytest.approx(float(lost / whole) ** 0.5, rel=1e-4)
    assert written.worst[0] == "x"
    assert short["y"] is wide["y"]


def test_layers_of_other_ranks_are_padded_with_zeros(tmp_path: Path) -> None:
    updates = {"x": Update(normal(6, 3), normal(3, 8)), "y": Update(normal(6, 1), normal(1, 8))}
    write_peft(LoraAdapter(updates=updates, biases={"y": normal(6)}), tmp_path, base=BASE)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    with safe_open(tmp_path / "adapter_model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}  # without which transformers takes no file
    for suffix, shape in (("A.weight", (3, 8)), ("B.weight", (6, 3)), ("B.bias", (6,))):
        assert [tuple(it.shape) for name, it in tensors.items() if name.endswith(suffix)] == [shape] * 2
    back, config = read_peft(tmp_path)
    assert config["r"] == config["lora_alpha"] == 3
    assert [back.updates[name].rank for name in ("x", "y")] == [3, 1]
    assert torch.equal(back.updates["y"].a, updates["y"].a)
    assert torch.equal(back.biases["y"], normal(6)) and "x" not in back.biases


def test_what_lora_cannot_hold_is_refused(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    for method in ("ft", "bitfit", "blockwise", "galore"):
        model = tiny_model("tiny_roberta")
        before, attached = PlainWeights(model), attach(model, method)
        with pytest.raises(UserError, match=rf"method={method} trains \S+, which a LoRA adapter cannot hold"):
            before.adapted(attached.method, model)
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(4, 2))
    before, attached = PlainWeights(model), attach(model, "lora", rank=2, targets="0|2")
    with pytest.raises(UserError, match="is for linear layers, and 0 is not one"):
        before.adapted(attached.method, model)
    _, adapter = trained(tiny_model("tiny_llama"), "lora", {"rank": 2})
    model = tiny_model("tiny_gpt2")
    with pytest.raises(UserError, match=r"this adapter is of another model: its model\.layers"):
        apply_adapter(model, adapter)
    with pytest.raises(UserError, match="has no adapter of a run"):
        read_peft(tmp_path)


def refused(folder: Path) -> str:
    with pytest.raises(UserError, match="has no adapter of a run: ") as caught:
        read_peft(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value).partition(": ")[2]


def test_layers_that_peft_takes_for_experts_are_refused(tiny_moe: nn.Module) -> None:
    """PEFT would add their updates to the experts, and none to them."""
    plain = PlainWeights(tiny_moe)
    attached = attach(tiny_moe, "lora", rank=2, targets=r"mlp\.(up|down)_proj")
    with pytest.raises(UserError, match=r"HF PEFT would add the adapter of .*0.mlp.up_proj to the.*experts"):
        plain.adapted(attached.method, attached.model)


def test_a_layer_whose_weight_is_read_but_which_is_not_called_is_refused() -> None:
    """PEFT's own layers act when they are called, so it would load such an adapter in vain. Experts may wait unused."""
    config = AutoConfig.for_model("mamba", hidden_size=16, num_hidden_layers=1, vocab_size=64, time_step_rank=4)
    model = AutoModelForCausalLM.from_config(config)
    model.unused = nn.Linear(4, 4)
    attached = attach(model, "lora", rank=2, targets=r"in_proj|out_proj|unused", keep_base=True)
    loss = lambda: model(input_ids=IDS, labels=IDS).loss  # noqa: E731
    check_called(model, loss)
    attached.detach()
    attach(model, "lora", rank=2, targets="in_proj|dt_proj")
    with pytest.raises(UserError, match=r"reads the weight of \S+mixer.dt_proj without calling .* use save_model=true"):
        check_called(model, loss)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with an adapter of rank 3 of one layer ``x``, a 6 x 8 weight."""
    write_peft(LoraAdapter(updates={"x": Update(normal(6, 3), normal(3, 8))}), tmp_path, base=BASE)
    assert read_peft(tmp_path)[0].updates["x"].rank == 3
    return tmp_path


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_file_that_the_user_may_not_read_is_not_called_missing(written: Path, name: str) -> None:
    """Root may read everything, so a link in a circle stands for a file without permission."""
    (written / name).unlink()
    (written / name).symlink_to(name)
    assert refused(written) == f"{written / name}: Too many levels of symbolic links"


@pytest.mark.parametrize(("change", "words"), [
    ({"r": 7}, "its scale is 0.428571"),
    ({"r": 0}, "division by zero"),
    ({"r": float("nan")}, "its scale is nan"),
    ({"lora_alpha": "x"}, "unsupported operand"),
    ({"target_modules": ["z"]}, "z.lora_B.weight"),
    ({"target_modules": "x"}, "must be lists of names"),  # a string would count as its letters
    ({"modules_to_save": "x"}, "must be lists of names"),
    ({"modules_to_save": [1]}, "must be lists of names"),
    ({"lora_bias": True}, "x.lora_B.bias"),
    ({"use_rslora": True}, "use_rslora=True is for another scale or method"),
    ({"use_dora": True}, "use_dora=True is for another scale or method"),
    ({"alpha_pattern": {"x": 5}}, "alpha_pattern="),
    ({"rank_pattern": {"x": 5}}, "rank_pattern="),
    ({"modules_to_save": ["head"]}, "it lacks the tensors of head"),
])  # fmt: skip
def test_settings_that_we_did_not_write_are_refused(written: Path, change: dict[str, Any], words: str) -> None:
    path = written / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert words in refused(written)


def test_a_tensor_of_another_method_is_refused(written: Path) -> None:
    tensors = load_file(written / "adapter_model.safetensors")
    save_file(tensors | {f"{PEFT}x.lora_magnitude_vector": normal(6)}, written / "adapter_model.safetensors")
    assert refused(written) == "x.lora_magnitude_vector belongs to another method"


@pytest.mark.parametrize("text", ["", "{", "[1]", "5", "null", "[" * 100_000])
def test_settings_that_are_not_a_json_object_are_refused(written: Path, text: str) -> None:
    (written / "adapter_config.json").write_text(text)
    assert refused(written)


@pytest.mark.parametrize(("b", "a", "words"), [
    (normal(6), normal(3, 8), "the factors of x are (6,) and (3, 8)"),
    (normal(6, 2), normal(3, 8), "the factors of x are (6, 2) and (3, 8)"),
    (normal(6, 3).long(), normal(3, 8).long(), "are not floating-point numbers"),
])  # fmt: skip
def test_factors_that_cannot_be_added_to_a_weight_are_refused(written: Path, b: Tensor, a: Tensor, words: str) -> None:
    save_file({f"{PEFT}x.lora_B.weight": b, f"{PEFT}x.lora_A.weight": a}, written / "adapter_model.safetensors")
    assert words in refused(written)


@pytest.mark.parametrize("name", ["x.lora_A.weight", "x.lora_B.weight", "x.lora_B.bias", "head.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensors_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float) -> None:
    update = Update(normal(6, 3), normal(3, 8))
    whole = LoraAdapter(
        updates={"x": update}, biases={"x": normal(6)}, head={"head.weight": normal(2, 6)}, heads=("head",)
    )
    write_peft(whole, tmp_path, base=BASE)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[f"{PEFT}{name}"].view(-1)[-1] = value
    save_file(tensors, path)
    with pytest.raises(UserError) as caught:
        read_peft(tmp_path)
    assert str(caught.value) == f"{path} contains NaN or Inf in {PEFT}{name}; use a file that was saved earlier"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64])
def test_every_type_of_number_is_checked(dtype: torch.dtype) -> None:
    check_finite({"x": torch.ones(3).to(dtype), "count": torch.ones(3, dtype=torch.int8)}, Path("file"))
    with pytest.raises(UserError, match="file contains NaN or Inf in x"):
        check_finite({"x": torch.tensor([1, float("nan")]).to(dtype)}, Path("file"))


def test_an_adapter_that_does_not_fit_the_model_changes_nothing() -> None:
    model = nn.ModuleDict({"x": nn.Linear(8, 6), "y": nn.Linear(8, 6, bias=False)})
    update = {"x": Update(normal(6, 3), normal(3, 8))}
    before = {name: it.clone() for name, it in model.state_dict().items()}
    for adapter, words in (
        (LoraAdapter(updates={"x": Update(normal(8, 3), normal(3, 6))}), "its x is a 8 x 6 weight"),
        (LoraAdapter(updates=update, biases={"x": normal(7)}), r"its bias of x is \(7,\)"),
        (LoraAdapter(updates=update, biases={"y": normal(6)}), r"its bias of y is \(6,\)"),
        (LoraAdapter(updates=update, biases={"z": normal(6)}), r"its bias of z is \(6,\)"),
        (LoraAdapter(updates=update, head={"x.nothing": normal(2)}), r"its x.nothing is \(2,\)"),
        (LoraAdapter(updates=update, head={"x.bias": normal(2)}), r"its x.bias is \(2,\)"),
    ):
        with pytest.raises(UserError, match=f"this adapter is of another model: {words}"):
            apply_adapter(model, adapter)
        assert all(torch.equal(it, before[name]) for name, it in model.state_dict().items())
