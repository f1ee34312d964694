"""Laws of methods whose layers stay in the model: training, precision, copies, and adapters on the disk."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rosa_bench.adapters.attach import load_adapter
from rosa_bench.methods.bottleneck import BottleneckAdapters
from rosa_bench.methods.p_tuning_v2 import PTuningV2
from rosa_bench.system.errors import UserError

MODELS = ("tiny_roberta", "tiny_bert", "mpnet_base", "tiny_gpt2", "tiny_llama")
METHODS = ("houlsby", "pfeiffer", "lin", "p_tuning_v2")
every = pytest.mark.parametrize(("method", "name"), [(method, name) for method in METHODS for name in MODELS])
# One per way of inserting layers: replacing the attention function, widening its input, and hooks on either block.
SOME = [("houlsby", "tiny_roberta"), ("lin", "mpnet_base"), ("p_tuning_v2", "mpnet_base"), ("p_tuning_v2", "tiny_gpt2")]
some = pytest.mark.parametrize(("method", "name"), SOME)


def loss(small: Any, net: Any) -> Tensor:
    labels = small.ids if net.config.model_type in {"gpt2", "llama"} else torch.tensor([0, 1, 1, 0])
    return net(input_ids=small.ids, attention_mask=small.mask, labels=labels).loss


def train(small: Any, net: Any, method: Any, steps: int) -> list[Tensor]:
    optimizer = torch.optim.AdamW(method.parameter_groups(net), lr=1e-2, weight_decay=0)
    losses = []
    for _ in range(steps):
        losses.append(loss(small, net))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    return losses


def gradients(small: Any, net: Any) -> dict[str, Tensor]:
    loss(small, net).backward()
    return {key: parameter.grad for key, parameter in net.named_parameters() if parameter.grad is not None}


@every
def test_training_lowers_the_loss_and_changes_only_what_trains(small: Any, method: str, name: str) -> None:
    net, chosen = small.attach(name, method), small.method(name, method)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    losses = train(small, net, chosen, 4)
    assert losses[-1] < losses[0]
    changed = {key for key, tensor in net.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == {key for key, parameter in net.named_parameters() if parameter.requires_grad}


@some
def test_merging_is_declined_and_changes_nothing(small: Any, method: str, name: str) -> None:
    net = small.move(small.attach(name, method))
    before = small.logits(net)
    assert small.method(name, method).merge(net) is False
    assert torch.equal(small.logits(net), before)


@some
def test_a_copy_of_the_model_has_layers_of_its_own(small: Any, method: str, name: str) -> None:
    net = small.move(small.attach(name, method))
    before = small.logits(net)
    copied = copy.deepcopy(net)
    assert torch.equal(small.logits(copied), before)
    assert not torch.allclose(small.logits(small.move(copied)), before, atol=1e-3)
    assert torch.equal(small.logits(net), before)


@pytest.mark.parametrize("name", ["tiny_roberta", "tiny_gpt2", "tiny_llama"])  # transformers has none for MPNet
@pytest.mark.parametrize("method", ["houlsby", "lin", "p_tuning_v2"])
def test_gradient_checkpointing_gives_equal_gradients(small: Any, method: str, name: str) -> None:
    net = small.move(small.attach(name, method))
    expected = gradients(small, net)
    again = small.move(small.attach(name, method))
    again.activation_checkpointing_enable()
    again.train()  # transformers checkpoints only then
    for module in again.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    again.config.attention_dropout = 0.0
    found = gradients(small, again)
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, expected[key], rtol=0, atol=1e-12)


@some
def test_bfloat16_autocast_is_close(small: Any, method: str, name: str) -> None:
    net = small.attach(name, method).float()
    exact = loss(small, net)
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss(small, net)
    rough.backward()
    torch.testing.assert_close(rough.float(), exact, rtol=0.1, atol=0.1)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)


# Adapters on the disk


@every
def test_an_adapter_is_loaded_into_the_original_model(small: Any, method: str, name: str, tmp_path: Path) -> None:
    chosen = small.method(name, method, "protocol=paper")
    net = small.move(chosen.attach(small.model(name)))
    for parameter in chosen.head_parameters(net):
        parameter.data.add_(0.1)  # the head of a run is random, so an adapter includes it even if it did not train
    chosen.save(net, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter.safetensors", "adapter.json"}
    kept = {
        key for key, p in net.named_parameters() if p.requires_grad or key.startswith(("classifier", "bert.pooler"))
    }
    assert load_file(tmp_path / "adapter.safetensors").keys() == kept
    back = type(chosen).load(small.model(name), tmp_path)
    assert torch.equal(small.logits(back), small.logits(net))
    assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in net.parameters()]
    assert torch.equal(small.logits(load_adapter(small.model(name), tmp_path).model), small.logits(net))


@pytest.fixture
def adapter(small: Any, tmp_path: Path) -> Path:
    chosen = small.method("tiny_roberta", "houlsby")
    chosen.save(chosen.attach(small.model("tiny_roberta")), tmp_path)
    return tmp_path


def test_an_adapter_of_another_model_or_class_is_refused(small: Any, adapter: Path) -> None:
    with pytest.raises(UserError, match=r"model\.parts\.\S+ matches no module|is an adapter of another model"):
        BottleneckAdapters.load(small.model("tiny_gpt2"), adapter)
    with pytest.raises(UserError, match="is an adapter of class BottleneckAdapters; load it with that class"):
        PTuningV2.load(small.model("tiny_roberta"), adapter)
    wider = small.model("tiny_roberta")
    wider.classifier = torch.nn.Linear(32, 3).double()
    with pytest.raises(UserError, match="is an adapter of another model"):
        BottleneckAdapters.load(wider, adapter)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": "many"}, "cannot be read as an adapter"),
        ({"size": 0}, "method.size=0 is out of range"),
        ({"unknown": 1}, "cannot be read as an adapter"),
        ({"nonlinearity": "${oc.env:HOME}"}, "has no meaning in an adapter"),
    ],
)
def test_wrong_settings_in_the_file_are_refused(
    small: Any, adapter: Path, change: dict[str, Any], message: str
) -> None:
    path = adapter / "adapter.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"settings": stored["settings"] | change}))
    with pytest.raises(UserError, match=message):
        BottleneckAdapters.load(small.model("tiny_roberta"), adapter)


@pytest.mark.parametrize("content", ["", "[]", "{}", "1", '{"class": "BottleneckAdapters", "settings": 1}', None])
def test_a_file_that_is_no_adapter_is_refused(small: Any, adapter: Path, content: str | None) -> None:
    if content is None:
        (adapter / "adapter.json").unlink()
    else:
        (adapter / "adapter.json").write_text(content)
    with pytest.raises(UserError, match="cannot be read as an adapter"):
        BottleneckAdapters.load(small.model("tiny_roberta"), adapter)


def test_tensors_that_are_not_finite_are_refused_before_the_model_changes(small: Any, adapter: Path) -> None:
    path = adapter / "adapter.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[0] = float("inf")
    save_file(tensors, path)
    model = small.model("tiny_roberta")
    before = [name for name, _ in model.named_modules()]
    with pytest.raises(UserError, match=rf"adapter\.safetensors contains NaN or Inf in {name};"):
        BottleneckAdapters.load(model, adapter)
    assert [name for name, _ in model.named_modules()] == before


def test_damaged_tensors_are_refused(small: Any, adapter: Path) -> None:
    path = adapter / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"adapter\.safetensors cannot be read"):
        BottleneckAdapters.load(small.model("tiny_roberta"), adapter)
