from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rosa_bench.layers.adapter import Adapter, adapters
from rosa_bench.layers.low_rank import LowRankLinear, low_rank_layers
from rosa_bench.layers.scaled import ScaledLinear
from rosa_bench.layers.structure.linear import LINEAR_TYPES, Linear, StackedLinear, linear, make_linear, weight_of
from rosa_bench.layers.structure.surgery import linear_names, replace_linears, restore_linears

N, ROWS, IN, OUT, RANK = 3, 4, 5, 7, 2


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def stacked() -> StackedLinear:
    return StackedLinear(torch.randn(N, OUT, IN))


PLAIN: dict[str, Callable[[], Linear]] = {
    "linear": lambda: nn.Linear(IN, OUT),
    "no_bias": lambda: nn.Linear(IN, OUT, bias=False),
    "conv1d": lambda: Conv1D(OUT, IN),
    "stacked": stacked,
}
ADAPT: dict[str, Callable[[Linear], Adapter]] = {
    "low_rank": lambda plain: LowRankLinear(plain, RANK),
    "low_rank_scaled": lambda plain: LowRankLinear(plain, RANK, scale=0.7),
    "scaled_input": lambda plain: ScaledLinear(plain, side="input"),
    "scaled_output": lambda plain: ScaledLinear(plain, side="output"),
}


def filled(layer: Adapter) -> Adapter:
    """Fill every parameter with random numbers, because zeros and ones would hide errors. Return the layer."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def assert_same_function(found: Tensor, expected: Tensor, sources: list[Tensor]) -> None:
    """Check equal values, and equal gradients of a sum with a different weight for each element."""
    torch.testing.assert_close(found, expected)
    factors = torch.linspace(-1, 2, found.numel(), dtype=found.dtype).view_as(found)
    for one, other in zip(
        torch.autograd.grad(found, sources, factors), torch.autograd.grad(expected, sources, factors), strict=True
    ):
        torch.testing.assert_close(one, other)


# A stack


@pytest.mark.parametrize("rows", [0, 1, ROWS])
def test_a_stack_equals_separate_linear_layers(rows: int) -> None:
    layers = [nn.Linear(IN, OUT, bias=False, dtype=torch.float64) for _ in range(N)]
    stack = StackedLinear(torch.stack([layer.weight.detach() for layer in layers]))
    x = drawn(N, rows, IN)
    y = stack(x)
    expected = torch.stack([layer(own) for layer, own in zip(layers, x, strict=True)])
    torch.testing.assert_close(y, expected)
    found = torch.autograd.grad(y.square().sum(), [x, stack.weight])
    own_x, *own_weights = torch.autograd.grad(expected.square().sum(), [x, *(layer.weight for layer in layers)])
    torch.testing.assert_close(found, (own_x, torch.stack(own_weights)))


def test_linear_computes_a_stack_and_a_single_weight() -> None:
    weight, x, bias = drawn(N, OUT, IN), drawn(N, ROWS, IN), drawn(OUT)
    assert_same_function(linear(x, weight, None), torch.einsum("nri,noi->nro", x, weight), [x, weight])
    assert_same_function(linear(x, weight[0], bias), torch.einsum("nri,oi->nro", x, weight[0]) + bias, [x, bias])


@pytest.mark.parametrize("kind", PLAIN)
def test_make_linear_reproduces_a_layer_from_its_weight_and_bias(kind: str) -> None:
    plain = PLAIN[kind]()
    made = make_linear(type(plain), weight_of(plain).detach().clone(), plain.bias)
    assert type(made) is type(plain)
    assert repr(made) == repr(plain)
    assert made.bias is plain.bias
    assert {name: p.shape for name, p in made.named_parameters()} == {n: p.shape for n, p in plain.named_parameters()}
    assert weight_of(made).shape == ((N, OUT, IN) if kind == "stacked" else (OUT, IN))
    assert isinstance(made.weight, nn.Parameter)
    assert made.weight.is_contiguous()
    assert made.weight.data_ptr() != plain.weight.data_ptr()
    x = torch.randn(N, ROWS, IN)
    assert torch.equal(made(x), plain(x))


# Adapters on a stack


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_low_rank_on_a_stack_equals_two_branches_in_each_replicate(scale: float) -> None:
    layer = LowRankLinear(StackedLinear(drawn(N, OUT, IN).detach()), RANK, scale=scale)
    filled(layer)
    assert layer.shape == (N, OUT, IN)
    x = drawn(N, ROWS, IN)
    branches = [
        x[n] @ layer.residual[n].mT + scale * ((x[n] @ layer.b[n].mT) @ layer.a[n].mT) for n in range(N)
    ]  # LoRA as in its paper (arXiv 2106.09685, eq. 3)
    assert_same_function(layer(x), torch.stack(branches), [x, layer.a, layer.b])


@pytest.mark.parametrize("side", ["input", "output"])
def test_scaled_on_a_stack_equals_a_scaled_layer_in_each_replicate(side: str) -> None:
    layer = ScaledLinear(StackedLinear(drawn(N, OUT, IN).detach()), side=side)
    filled(layer)
    x = drawn(N, ROWS, IN)
    if side == "input":
        each = [(x[n] * layer.factor[n]) @ layer.unscaled[n].mT for n in range(N)]
    else:
        each = [(x[n] @ layer.unscaled[n].mT) * layer.factor[n] for n in range(N)]
    assert_same_function(layer(x), torch.stack(each), [x, layer.factor])


@pytest.mark.parametrize("adapt", ADAPT)
def test_a_new_adapter_on_a_stack_computes_the_plain_function(adapt: str) -> None:
    plain, x = stacked(), torch.randn(N, ROWS, IN)
    torch.testing.assert_close(ADAPT[adapt](plain)(x), plain(x))


@pytest.mark.parametrize("adapt", ADAPT)
def test_merging_on_a_stack_keeps_type_and_function(adapt: str) -> None:
    plain, x = stacked(), torch.randn(N, ROWS, IN)
    layer = filled(ADAPT[adapt](plain))
    merged = layer.to_plain()
    assert type(merged) is StackedLinear
    assert merged.bias is None
    assert [(name, p.shape) for name, p in merged.named_parameters()] == [("weight", (N, OUT, IN))]
    torch.testing.assert_close(merged(x), layer(x))
    assert not torch.allclose(merged(x), plain(x))


@pytest.mark.parametrize("adapt", ADAPT)
def test_replicates_are_independent(adapt: str) -> None:
    layer, x = filled(ADAPT[adapt](stacked())), torch.randn(N, ROWS, IN)
    before = layer(x)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter[1] += 1
    moved = (layer(x) != before).flatten(1).any(1)
    assert moved.tolist() == [False, True, False]


@pytest.mark.parametrize("adapt", ["low_rank", "low_rank_scaled"])
def test_autocast_on_a_stack_equals_the_merged_layer(adapt: str) -> None:
    layer, x = filled(ADAPT[adapt](stacked())), torch.randn(N, ROWS, IN)
    merged = layer.to_plain()
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = layer(x), merged(x)
    assert y.dtype == expected.dtype == torch.bfloat16
    assert torch.equal(y, expected)  # the weight is formed in float32 and cast once, as a plain layer's is


@pytest.mark.parametrize("adapt", ADAPT)
def test_stacks_in_a_model_are_found_replaced_and_restored(adapt: str) -> None:
    net = nn.Sequential(stacked(), nn.ReLU(), StackedLinear(torch.randn(N, 2, OUT)))
    x = torch.randn(N, ROWS, IN)
    before, state = net(x), {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert linear_names(net, ".*") == ["0", "2"]

    replace_linears(net, ["0", "2"], ADAPT[adapt])
    assert [name for name, _ in adapters(net)] == ["0", "2"]
    assert len(low_rank_layers(net)) == (2 if adapt.startswith("low_rank") else 0)
    torch.testing.assert_close(net(x), before)
    for _, layer in adapters(net):
        filled(layer)
    changed = net(x)

    restore_linears(net)
    assert [type(module) for module in net] == [StackedLinear, nn.ReLU, StackedLinear]
    assert {name: tensor.shape for name, tensor in net.state_dict().items()} == {n: t.shape for n, t in state.items()}
    torch.testing.assert_close(net(x), changed)
    assert not torch.allclose(changed, before)


@pytest.mark.parametrize(("kind", "bias"), [("linear", True), ("no_bias", False), ("conv1d", True), ("stacked", False)])
def test_repr_of_an_adapter_shows_its_sizes(kind: str, bias: bool) -> None:
    assert isinstance(PLAIN[kind](), LINEAR_TYPES)
    text = repr(LowRankLinear(PLAIN[kind](), RANK, scale=0.7))
    assert text == f"LowRankLinear(in=5, out=7, rank=2, scale=0.7, bias={bias})"
    assert repr(ScaledLinear(PLAIN[kind](), side="input")) == f"ScaledLinear(in=5, out=7, side=input, bias={bias})"
