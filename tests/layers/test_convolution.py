"""Laws of convolutions as matrices: what they compute, what trains, what a draw keeps, and what comes back."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional

from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.convolution import LowRankConvolution
from rosa_bench.layers.directions.gradients import gradient_directions
from rosa_bench.layers.fused.stacked import materialised
from rosa_bench.layers.low_rank import low_rank_layers
from rosa_bench.layers.structure.linear import weight_of
from rosa_bench.methods.base import RunLength
from rosa_bench.system.errors import UserError

RANK = 2
LAYERS: dict[str, Callable[[], nn.Conv1d | nn.Conv2d]] = {
    "conv2d": lambda: nn.Conv2d(4, 6, 3),
    "no_bias": lambda: nn.Conv2d(4, 6, 3, bias=False),
    "strided": lambda: nn.Conv2d(4, 6, (3, 2), stride=2, padding=1),
    "dilated": lambda: nn.Conv2d(4, 6, 3, dilation=(1, 2)),
    "circular": lambda: nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"),
    "groups": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4),
    "pointwise": lambda: nn.Conv2d(4, 6, 1),
    "conv1d": lambda: nn.Conv1d(4, 6, 5, padding=2),
}


@pytest.fixture(params=LAYERS)
def plain(request: pytest.FixtureRequest) -> Any:
    return LAYERS[request.param]().double()


def image(layer: nn.Module, seed: int = 0) -> Tensor:
    size = (3, 4, 9) if isinstance(layer, nn.Conv1d) else (3, 4, 8, 8)
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(layer: LowRankConvolution) -> LowRankConvolution:
    with torch.no_grad():
        for factor in (layer.a, layer.b):
            factor.normal_()
    return layer


def test_it_is_the_plain_convolution_with_the_merged_weight(plain: Any) -> None:
    layer = filled(LowRankConvolution(plain, RANK, scale=0.7))
    x = image(plain).requires_grad_()
    weight = (plain.weight.flatten(1) + 0.7 * layer.a @ layer.b).view(plain.weight.shape)
    reference = torch.func.functional_call(plain, {"weight": weight}, (x,))
    torch.testing.assert_close(layer(x), reference, rtol=0, atol=1e-12)
    sources = [x, layer.a, layer.b, *([layer.bias] if layer.bias is not None else [])]
    found, expected = (torch.autograd.grad(y.square().sum(), sources) for y in (layer(x), reference))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


class Sum(nn.Module):
    def __init__(self, *layers: LowRankConvolution):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return sum(layer(x) for layer in self.layers)  # pyrefly: ignore[bad-return]


def test_weights_formed_together_give_the_same_gradients(plain: Any) -> None:
    both = Sum(*(filled(LowRankConvolution(plain, RANK, scale=0.7)) for _ in range(2)))
    factors = [factor for layer in low_rank_layers(both) for factor in layer.factors]
    expected = torch.autograd.grad(both(image(plain)).square().sum(), factors)
    with materialised(both) as stacks:
        assert len(stacks) == 1
        found = torch.autograd.grad(both(image(plain)).square().sum(), factors)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    both.layers[0].materialised = torch.zeros_like(both.layers[0].residual)  # pyrefly: ignore[bad-argument-type]
    assert not torch.equal(both.layers[0](image(plain)), both.layers[1](image(plain)))
    both.layers[1].materialised = torch.zeros_like(both.layers[1].residual)  # pyrefly: ignore[bad-argument-type]
    torch.testing.assert_close(both.layers[0](image(plain)), both.layers[1](image(plain)), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["conv2d", "no_bias", "strided", "pointwise", "conv1d"])  # PEFT ignores dilation
def test_it_computes_what_lora_of_peft_does(kind: str) -> None:
    plain: Any = LAYERS[kind]().double()
    layer = filled(LowRankConvolution(plain, RANK, scale=1.5))
    peft = inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=3, target_modules=["0"]), nn.Sequential(plain))
    with torch.no_grad():
        factors: Any = peft.get_submodule("0")
        factors.lora_A["default"].weight.copy_(layer.b.view_as(factors.lora_A["default"].weight))
        factors.lora_B["default"].weight.copy_(layer.a.view_as(factors.lora_B["default"].weight))
    torch.testing.assert_close(layer(image(plain)), peft(image(plain)), rtol=0, atol=1e-12)


def test_the_plain_layer_comes_back(plain: Any) -> None:
    layer = filled(LowRankConvolution(plain, RANK))
    back = layer.to_plain()
    assert type(back) is type(plain) and repr(back) == repr(plain)
    assert set(back.state_dict()) == set(plain.state_dict())
    torch.testing.assert_close(back(image(plain)), layer(image(plain)), rtol=0, atol=1e-12)
    assert not any(isinstance(module, nn.Conv1d | nn.Conv2d) for module in layer.modules())
    torch.testing.assert_close(weight_of(back), layer.merged_weight(), rtol=0, atol=0)
    assert not list(layer._frame[0].parameters()), "the weight must not be kept twice"


def test_the_gradient_of_the_whole_weight_is_autograds(plain: Any) -> None:
    layer = LowRankConvolution(plain, RANK)
    x = image(plain)
    [gradient] = torch.autograd.grad(plain(x).square().sum(), plain.weight)
    dy = 2 * plain(x).detach()
    torch.testing.assert_close(layer.weight_gradient(x, dy), gradient.flatten(1), rtol=1e-9, atol=1e-9)
    [found] = gradient_directions(layer, lambda: layer(x).square().sum(), RANK)
    expected = torch.linalg.svd(gradient.flatten(1)).Vh[:RANK]
    torch.testing.assert_close(found.mT @ found, expected.mT @ expected, rtol=0, atol=1e-8)


# In a model, by the methods


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2)
        self.classifier = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(functional.gelu(self.second(functional.gelu(self.first(x)))).mean((-2, -1)))


def attached(compose: Callable[..., RunConfig], name: str, **changes: Any) -> tuple[Any, Any, Any]:
    chosen = compose("task=grammar", "model=tiny_roberta", f"method={name}", f"rank={RANK}").method
    chosen = replace(chosen, **{"targets": "first|second", **changes})  # pyrefly: ignore[bad-argument-type]
    plain = Net().double()
    net = Net().double()
    net.load_state_dict(plain.state_dict())
    return chosen.attach(net), chosen, plain


EVERY = {"resample_every": 3.0, "resample_unit": "steps"}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("lora", {}),
        ("relora", EVERY),
        ("rosa", EVERY),
        ("rosa", {**EVERY, "init": "balanced", "stagger": True}),
        ("rosa", {**EVERY, "basis": "gradient", "train": "a"}),
    ],
    ids=["lora", "relora", "rosa", "rosa_staggered", "rosa_gradient"],
)
def test_methods_train_convolutions(compose: Callable[..., RunConfig], name: str, changes: dict[str, Any]) -> None:
    if name in {"lora", "relora"}:
        changes = {**changes, "init": "kaiming"}
    net, method, plain = attached(compose, name, **changes)
    x = torch.randn(8, 1, 9, 9, dtype=torch.float64)
    labels = torch.arange(8) % 3
    torch.testing.assert_close(net(x), plain(x), rtol=0, atol=1e-12)
    layers = low_rank_layers(net)
    assert [tuple(layer.shape) for layer in layers] == [(4, 9), (6, 36)]
    optimizer = torch.optim.AdamW([parameter for parameter in net.parameters() if parameter.requires_grad], lr=1e-2)
    length, draws = RunLength(8, 1), 0
    for step in range(8):
        if method.is_due(step, length):
            before = net(x)
            method.before_step(net, step, length=length, loss=lambda: functional.cross_entropy(net(x), labels))
            torch.testing.assert_close(net(x), before, rtol=0, atol=1e-12)
            draws += 1
        functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert draws == {"lora": 0, "relora": 2}.get(name, 4 if changes.get("stagger") else 2 + ("basis" in changes))
    for layer, start in zip(layers, (plain.first, plain.second), strict=True):
        change = layer.merged_weight() - start.weight.flatten(1)
        assert change.abs().max() > 1e-3
    trained = net(x)
    assert method.merge(net) and type(net.first) is nn.Conv2d
    torch.testing.assert_close(net(x), trained, rtol=0, atol=1e-12)


def test_what_does_not_fit_is_refused(compose: Callable[..., RunConfig]) -> None:
    with pytest.raises(UserError, match="rank=5 does not fit first, a 4 x 9 weight; use a rank of at most 4"):
        attached(compose, "lora", rank=5, init="kaiming")
    with pytest.raises(UserError, match=r"matches no linear layer .*: classifier$"):
        attached(compose, "ia3")
