"""Models of no transformers origin: a layer that computes more than its weight and bias say is refused, not changed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from transformers import RwkvConfig, RwkvForCausalLM

from rosa_bench import attach
from rosa_bench.system.errors import UserError


class Mlp(nn.Module):
    """Two layers of a kind, and an output layer."""

    def __init__(self, make: Callable[[], nn.Module] = lambda: nn.Linear(8, 8)):
        super().__init__()
        self.layers = nn.ModuleList([make(), make()])
        self.out = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.out(x)


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
        return 2 * super().forward(input)


class Gained(nn.Linear):
    def __init__(self, size: int):
        super().__init__(size, size)
        self.gain = nn.Parameter(torch.ones(1))


class Otherwise(nn.Linear):
    """Computes what a plain layer does, as Falcon's layers do, and is made with other arguments."""

    def __init__(self, size: int):
        super().__init__(size, size)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
        return input @ self.weight.T + self.bias


class Asking(nn.Linear):
    def forward(self, *inputs: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
        rows, scale = inputs
        return scale * super().forward(rows)


class Causal(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
        return super().forward(nn.functional.pad(input, (2, 0)))


def hooked() -> nn.Linear:
    plain = nn.Linear(8, 8)
    plain.register_forward_hook(lambda *given: 2 * given[2])
    return plain


def shared() -> nn.Module:
    model = Mlp()
    model.layers[1] = model.layers[0]
    return model


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0), 1)


ODD = {
    "its class": (lambda: Mlp(lambda: Doubled(8, 8)), "its class, Doubled, computes more than Linear does"),
    "its arguments": (lambda: Mlp(lambda: Asking(8, 8)), "its class, Asking, computes more than Linear does"),
    "its parameters": (lambda: Mlp(lambda: Gained(8)), "its class, Gained, computes more than Linear does"),
    "a convolution": (lambda: nn.Sequential(Causal(8, 8, 3)), "its class, Causal, computes more than Conv1d does"),
    "hooks": (lambda: Mlp(hooked), "it has hooks, which would be lost"),
    "weight norm": (lambda: Mlp(lambda: parametrizations.weight_norm(nn.Linear(8, 8))), "its weight is computed in"),
    "two places": (shared, "the model has it in several places"),
    "attention": (lambda: nn.Sequential(nn.MultiheadAttention(8, 2)), "MultiheadAttention reads its weight without"),
    "encoder": (encoder, r"layers\.0\.linear1 cannot be adapted: torch.nn.TransformerEncoderLayer reads its weight"),
    "itself": (lambda: nn.Linear(8, 8), "the model is itself the layer to adapt; put it into a module"),
}


@pytest.mark.parametrize(("kind", "method"), [
    (kind, method) for kind in ODD for method in ("lora", "ia3", "dora")
    if kind != "a convolution" or method == "lora"  # the others adapt none
])  # fmt: skip
def test_a_layer_whose_function_would_change_is_refused(kind: str, method: str) -> None:
    make, words = ODD[kind]
    model = make()
    before = [(name, id(module)) for name, module in model.named_modules()]
    targets = {"encoder": r"linear\d"}.get(kind, ".*" if kind in ("a convolution", "itself") else "all-linear")
    settings: dict[str, Any] = {} if method == "ia3" else {"rank": 2}
    with pytest.raises(UserError, match=words):
        attach(model, method, targets=targets, **settings)
    assert [(name, id(module)) for name, module in model.named_modules()] == before


@pytest.mark.parametrize("method", ["lora", "rosa", "dora"])
def test_a_layer_written_otherwise_is_adapted_and_restored(method: str) -> None:
    torch.manual_seed(0)
    model, x = Mlp(lambda: Otherwise(8)), torch.randn(3, 8)
    expected = model(x)
    attached = attach(model, method, rank=2, targets="all-linear")
    torch.testing.assert_close(attached.model(x), expected)
    attached.merge()
    torch.testing.assert_close(model(x), expected)
    assert type(model.layers[0]) is Otherwise


class Reading(nn.Module):
    """Reads the weight of a layer without calling it, as Mamba's and Jamba's mixers do. T5 reads its type."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.called = nn.Linear(8, 8), nn.Linear(8, 8)
        self.called.load_state_dict(self.read.state_dict())

    def forward(self, x: Tensor, *, call: bool = False) -> Tensor:
        layer = self.called if call else self.read
        return layer(x) if call else nn.functional.linear(x, layer.weight, layer.bias)


@pytest.mark.parametrize("method", ["lora", "ia3", "dora", "oft"])
def test_a_layer_that_is_read_trains_like_one_that_is_called(method: str) -> None:
    torch.manual_seed(0)
    model, x = Reading(), torch.randn(5, 8)
    settings: dict[str, Any] = {"oft": {"config": {"oft_block_size": 4}}, "ia3": {"side": "input"}}
    attached = attach(model, method, targets="all-linear", **settings.get(method, {"rank": 2}))
    halves = [list(layer.parameters()) for layer in (model.read, model.called)]
    trained = [[it for it in half if it.requires_grad and it.ndim > (method != "ia3")] for half in halves]
    with torch.no_grad():
        for read, called in zip(*trained, strict=True):
            called.copy_(read.normal_(std=0.1))
    outputs = [model(x), model(x, call=True)]
    torch.testing.assert_close(*outputs)
    found, expected = (torch.autograd.grad(y.square().sum(), own) for y, own in zip(outputs, trained, strict=True))
    assert expected
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(attached.merge()(x), outputs[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_model_that_writes_into_its_weights_is_refused(method: str) -> None:
    """RWKV halves some in evaluation, every few blocks; of an adapted layer it would halve a copy."""
    model = RwkvForCausalLM(RwkvConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2))
    with pytest.raises(UserError, match=r"divides its weights in place; set its config.rescale_every to 0 first"):
        attach(model, method, rank=2)
    model.config.rescale_every = 0
    attach(model, method, rank=2)


def test_methods_that_replace_nothing_take_any_layer() -> None:
    for make in (shared, encoder, lambda: Mlp(hooked)):
        attach(make(), "ft")


def inference() -> nn.Module:
    with torch.inference_mode():
        return Mlp()


@pytest.mark.filterwarnings("ignore")  # torch.ao is deprecated
@pytest.mark.parametrize(("make", "words"), [
    (lambda: Mlp(lambda: nn.LazyLinear(8)), "has no values yet; pass one batch through the model first"),
    (inference, "was made in torch.inference_mode and cannot train"),
    (lambda: torch.ao.quantization.quantize_dynamic(Mlp()), "is part of a quantised weight"),
])  # fmt: skip
def test_weights_that_cannot_train_are_refused(make: Callable[[], nn.Module], words: str) -> None:
    for method in ("lora", "ft"):
        with pytest.raises(UserError, match=words):
            attach(make(), method, **({"targets": "all-linear", "rank": 2} if method == "lora" else {}))  # pyrefly: ignore[bad-argument-type]
