"""Laws of a method that is attached to a model without a run: function, training, files, errors."""

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rosa_bench
from rosa_bench import Attached, RunLength, attach, load_adapter
from rosa_bench.adapters.base_model import base_model
from rosa_bench.config.files.folder import conf_folder
from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.adapter import adapters
from rosa_bench.methods.base import Changed
from rosa_bench.system.errors import UserError
from rosa_bench.training.state import follow

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

METHODS = sorted(path.stem for path in (conf_folder() / "method").glob("*.yaml"))
IDS = torch.arange(5, 21).reshape(2, 8)
LABELS = torch.tensor([0, 1])
UNLABELLED = [{"input_ids": IDS}]


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def loss_of(model: nn.Module) -> Tensor:
    labels = IDS if model.get_output_embeddings() is not None else LABELS  # pyrefly: ignore[not-callable]
    return model(input_ids=IDS, labels=labels).loss


def train(attached: Attached, steps: int, *, start: int = 0, optimizer: Any = None) -> Any:
    optimizer = optimizer or attached.optimizer(lr=1e-2)
    for step in range(start, start + steps):
        attached.before_step(step, optimizer, loss=lambda: loss_of(attached.model))
        attached.add_penalty()
        loss_of(attached.model).backward()
        attached.after_backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def everything(model: nn.Module) -> dict[str, Any]:
    """What a failed attempt must not change: layers, weights, hooks, what trains, and the configuration."""
    return {
        "modules": [(name, id(module), sorted(vars(module))) for name, module in model.named_modules()],
        "weights": {name: (id(it), it.requires_grad, it.detach().clone()) for name, it in model.named_parameters()},
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "config": str(getattr(model, "config", "")),
    }


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert {key: found[key] for key in ("modules", "hooks", "config")} == {
        key: expected[key] for key in ("modules", "hooks", "config")
    }
    assert found["weights"].keys() == expected["weights"].keys()
    for name, (place, trains, value) in expected["weights"].items():
        assert found["weights"][name][:2] == (place, trains), name
        assert torch.equal(found["weights"][name][2], value), name


@pytest.mark.long
@pytest.mark.parametrize("name", ["tiny_roberta", "tiny_gpt2", "tiny_llama"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_is_saved_and_comes_back(
    tiny_model: Callable[..., Any], loud: Callable[..., Any], method: str, name: str, tmp_path: Path
) -> None:
    fresh = loud(tiny_model(name))
    batches = [{"input_ids": IDS, "labels": IDS if "roberta" not in name else LABELS}]
    settings: dict[str, Any] = {"rank": 4} if "rank" in OmegaConf.load(conf_folder() / f"method/{method}.yaml") else {}
    before = everything(model := copy.deepcopy(fresh))
    try:
        attached = attach(model, method, length=RunLength(4, 2), calibration=batches, **settings)
    except UserError as error:
        assert "\n" not in str(error)
        assert_same(everything(model), before)
        return
    untrained = logits(attached.model)
    attached.model.train()
    fastest = max(group.get("lr_scale", 1.0) for group in attached.parameter_groups())  # diff pruning's gates: 10,000
    train(attached, 4, optimizer=attached.optimizer(lr=1e-2 / fastest))
    trained = logits(attached.model)
    assert not torch.equal(trained, untrained)
    attached.save(tmp_path / "adapter")
    again = load_with_data_if_needed(copy.deepcopy(fresh), tmp_path / "adapter", batches)
    torch.testing.assert_close(logits(again.model), trained, rtol=0, atol=0)
    if attached.method.mergeable:
        torch.testing.assert_close(logits(attached.merge()), trained, rtol=0, atol=2e-5)
        assert not list(adapters(model))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "merge"), [
    ("tiny_gpt2", True),
    *(pytest.param(name, False, marks=pytest.mark.long) for name in ("tiny_roberta", "tiny_gpt2", "tiny_llama")),
    *(pytest.param(name, True, marks=pytest.mark.long) for name in ("tiny_roberta", "tiny_llama")),
])  # fmt: skip
def test_every_method_is_detached_to_the_bit(
    tiny_model: Callable[..., Any], method: str, name: str, merge: bool
) -> None:
    """After training, and after merging if it can be merged."""
    model = tiny_model(name)
    settings: dict[str, Any] = {"rank": 4} if "rank" in OmegaConf.load(conf_folder() / f"method/{method}.yaml") else {}
    loss_of(model)  # transformers notes the kind of the loss in the configuration
    before, untrained = everything(model), logits(model)
    batches = [{"input_ids": IDS, "labels": IDS if "roberta" not in name else LABELS}]
    try:
        attached = attach(model, method, length=RunLength(3, 1), calibration=batches, keep_base=True, **settings)
    except UserError:
        pytest.skip("refused: the test above says how")
    fastest = max(group.get("lr_scale", 1.0) for group in attached.parameter_groups())
    train(attached, 3, optimizer=attached.optimizer(lr=1e-2 / fastest))
    trained = attached.merge() if merge and attached.method.mergeable else attached.model
    assert not torch.equal(logits(trained), untrained)
    assert attached.detach() is model
    assert_same(everything(model), before)
    assert [it for it, _ in model.named_parameters()] == list(before["weights"])  # the order is an optimizer's too
    assert torch.equal(logits(model), untrained)


def load_with_data_if_needed(model: Any, folder: Path, batches: Any) -> Attached:
    try:
        return load_adapter(model, folder)
    except UserError as error:
        assert "training data" in str(error)
        return load_adapter(model, folder, calibration=batches)


# The same code as the runner


@pytest.mark.parametrize(("task", "name"), [("grammar", "tiny_roberta"), ("restaurants", "tiny_gpt2")])
@pytest.mark.parametrize(("method", "protocol"), [("lora", "paper"), ("rosa", "fair")])
def test_a_method_is_the_one_of_a_run(  # noqa: PLR0917 - pytest names them
    compose: Callable[..., RunConfig],
    tiny_model: Callable[..., Any],
    task: str,
    name: str,
    method: str,
    protocol: str,
) -> None:
    config = compose(f"task={task}", f"model={name}", f"method={method}", f"protocol={protocol}", "rank=3", "seed=7")
    theirs = tiny_model(name)
    config.method.attach(theirs)
    ours = attach(tiny_model(name), method, protocol=protocol, rank=3, seed=7)
    expected = dict(theirs.named_parameters())
    assert [key for key, it in ours.model.named_parameters() if it.requires_grad] == [
        key for key, it in expected.items() if it.requires_grad
    ]
    assert all(torch.equal(it, expected[key]) for key, it in ours.model.named_parameters())


def test_a_resample_keeps_the_function_and_clears_only_the_replaced_moments(tiny_model: Callable[..., Any]) -> None:
    attached = attach(tiny_model("tiny_roberta"), "rosa", rank=4, resample_every=3, resample_unit="steps")
    optimizer = train(attached, 3)
    before = logits(attached.model)
    changed = attached.before_step(3, optimizer)
    assert changed is not None
    torch.testing.assert_close(logits(attached.model), before, rtol=0, atol=1e-5)
    replaced = {id(parameter) for parameter in changed.reset}
    for parameter, state in optimizer.state.items():
        assert bool(state["exp_avg"].any()) is (id(parameter) not in replaced)
    assert attached.before_step(4, optimizer) is None


def test_state_that_is_not_made_of_moments_is_dropped() -> None:
    weight, other = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight, other], lr=1.0)
    optimizer.state[weight] = {"step": 3, "quantised": torch.ones(2, dtype=torch.uint8)}
    optimizer.state[other] = {"exp_avg": torch.ones(2)}
    follow(optimizer, Changed(reset=[weight, other]), trainable=[weight, other], reset="factors")
    assert weight not in optimizer.state
    assert not optimizer.state[other]["exp_avg"].any()


def test_lora_plus_has_two_learning_rates(tiny_model: Callable[..., Any]) -> None:
    attached = attach(tiny_model("tiny_roberta"), "lora_plus", rank=2)
    rates = {group["lr"] for group in attached.optimizer(lr=1e-3).param_groups}
    assert len(rates) == 2 and min(rates) == 1e-3


# Any module


def test_any_module_is_trained_in_layers_that_a_pattern_names() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.Linear(4, 2))
    x = torch.randn(3, 6)
    before = model(x)
    attached = attach(model, "rosa", rank=2, targets="0|2")
    assert [name for name, _ in adapters(model)] == ["0", "2"]
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-6)
    assert sum(it.numel() for it in attached.trainable_parameters) == 2 * (6 + 8) + 2 * (8 + 4)
    assert "0.residual" in attached.state_dict()
    assert attached.merge() is model and not list(adapters(model))


# Files


@pytest.fixture(scope="module")
def trained_once(tiny_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    attached = attach(tiny_model("tiny_roberta"), "lora", rank=2)
    train(attached, 2)
    attached.save(folder := tmp_path_factory.mktemp("trained") / "adapter")
    return folder


@pytest.fixture
def saved(trained_once: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained_once, tmp_path / "adapter")


def test_an_adapter_of_another_model_is_refused_in_one_line(
    tiny_model: Callable[..., Any], saved: Path, tmp_path: Path
) -> None:
    other = tiny_model("tiny_roberta")
    with torch.no_grad():
        other.roberta.encoder.layer[0].output.dense.weight.add_(1e-3)  # not an adapted layer
    for model, words in (
        (other, "another model, with other weights"),
        (tiny_model("tiny_bert"), "another model, with other layers or types"),
        (tiny_model("tiny_roberta").double(), "another model, with other layers or types"),
    ):
        assert_refused(saved, model, words)
    with pytest.raises(UserError, match="cannot be read as an adapter"):
        load_adapter(tiny_model("tiny_roberta"), tmp_path / "nothing")


def test_the_head_may_start_elsewhere_and_comes_back(tiny_model: Callable[..., Any], saved: Path) -> None:
    model = tiny_model("tiny_roberta")
    first = load_adapter(copy.deepcopy(model), saved)
    nn.init.normal_(model.classifier.dense.weight)
    assert torch.equal(logits(load_adapter(model, saved).model), logits(first.model))


@pytest.mark.parametrize(("change", "words"), [
    ({"class": "os.system"}, "which this version of rosa_bench does not have"),
    ({"settings": {"rank": "many"}}, "adapter: method"),
    ({"model": {"shapes": "1"}}, "cannot be read as an adapter"),
    ({"settings": {"title": "${oc.env:HOME}"}}, "has no meaning in an adapter"),
    ({"class": ["Lora"]}, "which this version of rosa_bench does not have"),
    ({"reset": "everything"}, r"adapter\.json: reset=everything is not known; choose one of: factors, all"),
    ({"frozen": 5}, "frozen must be a list of parameters that train"),
    ({"frozen": "a"}, "frozen must be a list of parameters that train"),
    ({"frozen": [["a"]]}, "frozen must be a list of parameters that train"),
    ({"frozen": ["roberta.embeddings.word_embeddings.weight"]}, "frozen must be a list of parameters that train"),
])  # fmt: skip
def test_a_file_that_says_something_else_is_refused(
    tiny_model: Callable[..., Any], saved: Path, change: dict[str, Any], words: str
) -> None:
    path = saved / "adapter.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert_refused(saved, tiny_model("tiny_roberta"), words)


def test_tensors_that_are_not_finite_are_refused(tiny_model: Callable[..., Any], saved: Path) -> None:
    path = saved / "adapter.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, path)
    words = rf"adapter\.safetensors contains NaN or Inf in {name}; use a file that was saved earlier"
    assert_refused(saved, tiny_model("tiny_roberta"), words)


def test_tensors_that_the_user_may_not_read_are_not_called_missing(tiny_model: Callable[..., Any], saved: Path) -> None:
    """Root may read everything, so a link in a circle stands for a file without permission."""
    (saved / "adapter.safetensors").unlink()
    (saved / "adapter.safetensors").symlink_to("adapter.safetensors")
    words = rf"{re.escape(str(saved))}/adapter\.safetensors cannot be read: Too many levels of symbolic links"
    assert_refused(saved, tiny_model("tiny_roberta"), words)


def assert_refused(folder: Path, model: nn.Module, words: str) -> None:
    """Check that an adapter is refused in one line, and that the model stays as it is."""
    before = everything(model)
    with pytest.raises(UserError, match=words) as caught:
        load_adapter(model, folder)
    assert "\n" not in str(caught.value)
    assert_same(everything(model), before)


@pytest.mark.parametrize(("change", "words"), [
    ({"targets": "("}, r"method\.targets=\( is not a regular expression"),
    ({"attention": "("}, r"method\.attention=\( is not a regular expression"),
    ({"lm_head": "("}, r"method\.lm_head=\( is not a regular expression"),
    ({"head": "("}, r"method\.head=\( is not a regular expression"),
    ({"rank": 10**6}, "rank=1000000 does not fit"),
    ({"seed": -1}, r"method\.seed=-1 is out of range"),
    ({"name": "../../x"}, "is not a name"),
    ({"loads": "file"}, "key 'loads' not in 'Lora'"),
])  # fmt: skip
def test_a_setting_in_a_file_is_checked_like_one_on_the_command_line(
    tiny_model: Callable[..., Any], saved: Path, change: dict[str, Any], words: str
) -> None:
    path = saved / "adapter.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"settings": stored["settings"] | change}))
    assert_refused(saved, tiny_model("tiny_roberta"), words)


def test_tensors_of_another_shape_are_refused_and_nothing_stays_attached(
    tiny_model: Callable[..., Any], saved: Path
) -> None:
    path = saved / "adapter.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"settings": stored["settings"] | {"rank": 3}}))
    assert_refused(saved, tiny_model("tiny_roberta"), "this state is of another model or method")


def test_settings_from_a_file_are_kept_without_it(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    """An adapter names no file to be read: it may be gone, changed, or somebody else's."""
    file, folder = tmp_path / "adapter_config.json", tmp_path / "adapter"
    values = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["query"]}
    file.write_text(json.dumps(values))
    attached = attach(tiny_model("tiny_roberta"), "peft", adapter_config=str(file))
    train(attached, 2)
    attached.save(folder)
    file.write_text(json.dumps(values | {"r": 2, "use_rslora": True}))
    changed: Any = attach(tiny_model("tiny_roberta"), "peft", adapter_config=str(file)).method
    assert changed.config["r"] == 2
    again = load_adapter(tiny_model("tiny_roberta"), folder)
    assert torch.equal(logits(again.model), logits(attached.model))
    file.unlink()
    again.load(folder)


def test_what_exists_is_not_overwritten(tiny_model: Callable[..., Any], saved: Path) -> None:
    attached = attach(tiny_model("tiny_roberta"), "lora", rank=2)
    with pytest.raises(UserError, match="exists already"):
        attached.save(saved)
    (saved.parent / "home").mkdir()
    (saved.parent / "home" / "notes.txt").write_text("precious")
    with pytest.raises(UserError, match="home is not a folder that was written before"):
        attached.save(saved.parent / "home", overwrite=True)
    assert [file.name for file in (saved.parent / "home").iterdir()] == ["notes.txt"]
    attached.save(saved, overwrite=True)
    assert torch.equal(logits(load_adapter(tiny_model("tiny_roberta"), saved).model), logits(attached.model))


def test_the_digest_of_a_model_sees_a_change_outside_the_head_alone(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("tiny_roberta")
    before = base_model(model, head="classifier")
    with torch.no_grad():
        model.classifier.dense.weight.add_(1)
    assert base_model(model, head="classifier") == before
    with torch.no_grad():
        model.roberta.embeddings.LayerNorm.bias.add_(1)
    assert base_model(model, head="classifier") != before


def test_frozen_blocks_stay_frozen(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    attached = attach(tiny_model("tiny_roberta"), "blockwise", blocks=1, every=2, order="ascending")
    train(attached, 3)
    assert attached.frozen
    attached.save(tmp_path / "adapter")
    assert load_adapter(tiny_model("tiny_roberta"), tmp_path / "adapter").frozen == attached.frozen


# Mistakes


@pytest.mark.parametrize(("method", "settings", "words"), [
    ("rsoa", {}, "method=rsoa is not known; .*did you mean"),
    ("rosa", {"rnk": 4}, "rnk is not a setting of method=rosa; did you mean rank"),
    ("rosa", {"rank": 0}, "rank=0 is out of range"),
    ("rosa", {"rank": 33}, "rank=33 does not fit"),
    ("ft", {"rank": 4}, "method=ft has no rank"),
    ("rosa", {"select": "best"}, "method.select=best is not known"),
    ("lora", {"protocol": "mine"}, "protocol=mine is not known"),
    ("rosa", {"targets": "nothing_here"}, "targets=nothing_here matches no linear layer"),
    ("rosa", {"rank": "${seed}"}, "rank"),
    ("rosa", {"rank": np.float32(2.5)}, "method.rank=2.5 is not a whole number"),
    (5, {}, "method=5 is not known; choose one of"),
    ("fish_mask", {"calibration": UNLABELLED}, "cannot choose weights: a batch has no labels; give training data"),
    ("lora_ga", {"rank": 4, "calibration": UNLABELLED}, "gradient of a loss, and a batch has no labels"),
    ("eva", {"rank": 4}, "training data"),
    ("laser", {}, "method=laser trains nothing, so a training loop has no use for it"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_the_model_alone(
    tiny_model: Callable[..., Any], method: str, settings: dict[str, Any], words: str
) -> None:
    before = everything(model := tiny_model("tiny_roberta"))
    with pytest.raises(UserError, match=words) as caught:
        attach(model, method, **settings)
    assert "\n" not in str(caught.value)
    assert_same(everything(model), before)


def test_a_number_of_numpys_is_a_number(tiny_model: Callable[..., Any]) -> None:
    method: Any = attach(tiny_model("tiny_roberta"), "rosa", rank=np.int64(2), resample_every=np.int32(3)).method
    assert (method.rank, method.resample_every) == (2, 3)


def test_an_error_in_the_middle_leaves_nothing_attached(
    tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(model := tiny_model("tiny_gpt2"))
    with torch.no_grad():
        model.transformer.h[1].attn.c_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        attach(model, "rosa", rank=2, targets=r"c_proj|lm_head")  # which is untied first
    with torch.no_grad():
        model.transformer.h[1].attn.c_proj.weight.copy_(before["weights"]["transformer.h.1.attn.c_proj.weight"][2])
    assert_same(everything(model), before)


def test_weights_of_half_precision_are_warned_about(
    tiny_model: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    attach(tiny_model("tiny_roberta").bfloat16(), "lora", rank=2)
    assert "the weights are bfloat16" in caplog.text
    caplog.clear()
    attach(tiny_model("tiny_roberta"), "lora", rank=2)
    assert not caplog.text


def test_a_model_without_attention_says_how_to_name_layers() -> None:
    with pytest.raises(UserError, match="no attention was found in this Sequential; name the layers"):
        attach(nn.Sequential(nn.Linear(2, 2)), "rosa", rank=1)
    with pytest.raises(UserError, match=r"is not a torch\.nn\.Module"):
        attach("roberta-base", "rosa")  # pyrefly: ignore[bad-argument-type]


def test_a_method_is_attached_once_and_merged_once(tiny_model: Callable[..., Any]) -> None:
    attached = attach(tiny_model("tiny_roberta"), "rosa", rank=2)
    with pytest.raises(UserError, match="attached to this model already"):
        attach(attached.model, "lora", rank=2)
    attached.merge()
    for act in (attached.merge, lambda: attached.before_step(0, torch.optim.SGD([nn.Parameter(torch.ones(1))]))):
        with pytest.raises(UserError, match="merged already"):
            act()
    attach(attached.model, "lora", rank=2)


def test_a_method_without_a_merge_says_so(tiny_model: Callable[..., Any]) -> None:
    attached = attach(tiny_model("tiny_roberta"), "houlsby", size=4)
    with pytest.raises(UserError, match="method=houlsby cannot be merged"):
        attached.merge()


def test_a_length_that_is_needed_is_asked_for(tiny_model: Callable[..., Any]) -> None:
    attached = attach(tiny_model("tiny_roberta"), "rosa", rank=2, resample_every=1.0)
    optimizer = attached.optimizer(lr=1e-3)
    with pytest.raises(UserError, match="needs the length of the run"):
        attached.before_step(0, optimizer)
    attached.length = RunLength(2, 3)
    assert [attached.before_step(step, optimizer) is not None for step in range(5)] == [False, False, True, False, True]


def test_the_names_are_those_of_the_package() -> None:
    assert rosa_bench.attach is attach and rosa_bench.load_adapter is load_adapter
