"""Weights in 8 and 4 bits, against bitsandbytes' own layers, and draws that leave them as they are."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.fused.joined import joined
from rosa_bench.layers.fused.stacked import materialised
from rosa_bench.layers.low_rank import low_rank_layers
from rosa_bench.layers.storage.quantised import KINDS, QuantisedLinear, dequantise
from rosa_bench.layers.storage.quantised_low_rank import QuantisedLowRank
from rosa_bench.layers.structure.linear import make_linear, weight_of
from rosa_bench.methods.base import RunLength
from rosa_bench.models.base_dtype import round_to, store_in, stored_in, widen
from rosa_bench.system.errors import UserError

library = pytest.importorskip("bitsandbytes")
LENGTH = RunLength(6, 1)
EACH_STEP = ("method.targets='first|second'", "method.resample_every=1", "method.resample_unit=steps")
DRAWS = {
    "rosa": ("method=rosa", *EACH_STEP),
    "balanced": ("method=rosa", "method.init=balanced", *EACH_STEP),
    "zero": ("method=rosa", "method.init=zero", *EACH_STEP),
    "A alone": ("method=rosa", "method.train=a", "method.basis=random", *EACH_STEP),
    "one at a time": ("method=rosa", "method.stagger=true", *EACH_STEP),
    "relora": ("method=lora", *EACH_STEP),
    "uniform": ("method=lora", "method.init=uniform", *EACH_STEP),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(32, 64), Conv1D(32, 64), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).tanh()))


@pytest.fixture
def attach(compose: Callable[..., RunConfig]) -> Callable[..., tuple[Net, RunConfig]]:
    def attached(kind: str, *overrides: str) -> tuple[Net, RunConfig]:
        config = compose("task=grammar", "model=tiny_roberta", "protocol=fair", "rank=2", "method.head=head",
                         f"base_dtype={kind}", *overrides)  # fmt: skip
        torch.manual_seed(0)
        net = Net()
        round_to("nf4" if kind == "float32" else kind, net, head="head")
        store_in(kind, net, head="head")
        config.method.attach(net)
        config.method.before_training(net, LENGTH)
        return net, config

    return attached


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_computes_what_bitsandbytes_own_does(kind: str) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(96, 64)
    if kind == "nf4":
        own = library.nn.Linear4bit(96, 64, quant_type="nf4", compress_statistics=False, compute_dtype=torch.float32)
    else:
        own = library.nn.Linear8bitLt(96, 64, has_fp16_weights=False)
    own.load_state_dict(plain.state_dict())
    ours, own = stored_in(kind, plain), own.to("cpu").train()
    found = []
    for layer in (ours, own):
        x = torch.linspace(-1, 1, 5 * 96).view(5, 96).requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        found.append((y.detach(), x.grad))
    for mine, theirs in zip(*found, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_products_read_the_rounded_weight_and_keep_no_copy(kind: str) -> None:
    layer = stored_in(kind, nn.Linear(64, 64))
    assert isinstance(layer, QuantisedLinear)
    stored = layer.stored
    rounded = dequantise(stored.codes, stored.scales, stored.shape, torch.bfloat16)
    assert torch.equal(rounded, layer.weight.bfloat16())
    kept: list[Tensor] = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda it: kept.append(it) or it, lambda it: it),
        torch.autocast("cpu", torch.bfloat16),
    ):
        y = layer(torch.randn(3, 64, requires_grad=True))
    assert y.dtype == torch.bfloat16
    assert {it.data_ptr() for it in kept} == {it.data_ptr() for it in layer.stored.parameters()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [nn.Linear, Conv1D])
def test_quantising_twice_changes_nothing_and_a_layer_becomes_wide_again(kind: str, layer: type) -> None:
    net = nn.Sequential(make_linear(layer, torch.randn(64, 128), nn.Parameter(torch.randn(64))))
    round_to(kind, net, head="head")
    expected = weight_of(net[0]).detach().clone()  # pyrefly: ignore[bad-argument-type]
    store_in(kind, net, head="head")
    x = torch.randn(3, 128)
    y = net(x)
    widen(net)
    assert type(net[0]) is layer
    assert torch.equal(weight_of(net[0]), expected)
    torch.testing.assert_close(net(x), y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", DRAWS)
def test_draws_change_neither_the_function_nor_the_stored_weight(attach: Callable, kind: str, how: str) -> None:
    net, config = attach(kind, *DRAWS[how])
    changes, x = torch.Generator().manual_seed(1), torch.randn(4, 32)
    layers = low_rank_layers(net)
    plain = [layer.stored.dequantised().double() for layer in layers]  # pyrefly: ignore[missing-attribute]
    codes = [layer.stored.codes.clone() for layer in layers]  # pyrefly: ignore[missing-attribute]
    places = [tensor.data_ptr() for tensor in net.buffers()]
    added = [torch.zeros(layer.shape, dtype=torch.float64) for layer in layers]
    for step in range(1, LENGTH.total_steps):
        for layer, total in zip(layers, added, strict=True):
            before = layer.merged_weight().double()
            with torch.no_grad():
                for factor in layer.factors:
                    factor.add_(0.02 * torch.randn(factor.shape, generator=changes))
            total.add_(layer.merged_weight().double() - before)
        y = net(x)
        config.method.before_step(net, step, length=LENGTH)
        torch.testing.assert_close(net(x), y, rtol=0, atol=1e-5)
    for layer, weight, total, code in zip(layers, plain, added, codes, strict=True):
        assert isinstance(layer, QuantisedLowRank)
        assert torch.equal(layer.stored.codes, code)
        assert int(layer.used) == layer.chain_a.shape[1] > 0  # pyrefly: ignore[missing-attribute]
        torch.testing.assert_close(layer.merged_weight().double(), weight + total, rtol=0, atol=1e-5)
        torch.testing.assert_close(layer.update_since(weight).delta(), total, rtol=0, atol=1e-5)
    assert [tensor.data_ptr() for tensor in net.buffers()] == places  # in place
    y = net(x)
    config.method.merge(net)
    assert type(net.first) is nn.Linear and type(net.second) is Conv1D
    torch.testing.assert_close(net(x), y, rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", DRAWS)
def test_factors_and_gradients_are_those_of_a_float32_base(attach: Callable, how: str) -> None:
    found = []
    for kind in ("nf4", "float32"):
        net, config = attach(kind, *DRAWS[how])
        for step in range(3):
            if step:
                config.method.before_step(net, step, length=LENGTH)
            net(torch.linspace(-1, 1, 96).view(3, 32)).square().sum().backward()
            with torch.no_grad():
                for layer in low_rank_layers(net):
                    for factor in layer.factors:
                        factor.sub_(0.01 * factor.grad)  # pyrefly: ignore[unsupported-operation]
        found.append([it.grad for it in net.parameters() if it.grad is not None])
    assert len(found[0]) == len(found[1]) >= 4
    for ours, exact in zip(*found, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["lora", "lora_plus", "rosa", "head_only"])
def test_only_the_declared_parameters_train_in_float32(attach: Callable, method: str) -> None:
    targets = () if method == "head_only" else ("method.targets='first|second'",)
    net, config = attach("nf4", f"method={method}", *targets)
    trained = {name for name, it in net.named_parameters() if it.requires_grad}
    assert trained and not any("stored" in name for name in trained)
    assert not any("stored" in name for name in config.method.state(net))
    assert {it.dtype for it in config.method.trainable(net)} == {torch.float32}


@pytest.mark.parametrize("override", ["method=ft", "packed=2", "parallel=data"])
def test_what_does_not_go_with_it_is_refused(compose: Callable[..., RunConfig], override: str) -> None:
    with pytest.raises(UserError, match=r"base_dtype=(nf4|float32)"):
        compose("task=grammar", "model=tiny_roberta", "protocol=fair", "method=lora", "base_dtype=nf4", override)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["lora", "rosa"])
def test_faster_forms_of_the_step_leave_quantised_layers_alone(attach: Callable, kind: str, method: str) -> None:
    net, _ = attach(kind, f"method={method}", *EACH_STEP)
    x = torch.randn(4, 32)
    plain = net(x)
    with joined(net, {"x": x}) as joins, materialised(net, joins=joins) as stacks:
        assert (joins, stacks) == ([], [])
        assert torch.equal(net(x), plain)
