from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

from rosa_bench.layers.adapter import Adapter, adapters
from rosa_bench.layers.low_rank import LowRankLinear, low_rank_layers, low_rank_linear
from rosa_bench.layers.scaled import ScaledLinear
from rosa_bench.layers.structure.linear import Linear, weight_of
from rosa_bench.layers.structure.surgery import linear_names, name_matches, replace_linears, restore_linears
from rosa_bench.system.errors import UserError

IN, OUT, RANK = 5, 7, 2
PLAIN: dict[str, Callable[[], Linear]] = {
    "linear": lambda: nn.Linear(IN, OUT),
    "no_bias": lambda: nn.Linear(IN, OUT, bias=False),
    "conv1d": lambda: Conv1D(OUT, IN),
}
ADAPT: dict[str, Callable[[Linear], Adapter]] = {
    "low_rank": lambda plain: LowRankLinear(plain, RANK),
    "low_rank_scaled": lambda plain: LowRankLinear(plain, RANK, scale=0.7),
    "scaled_input": lambda plain: ScaledLinear(plain, side="input"),
    "scaled_output": lambda plain: ScaledLinear(plain, side="output"),
}


@pytest.fixture(params=PLAIN)
def plain(request: pytest.FixtureRequest) -> Linear:
    layer = PLAIN[request.param]()
    return filled(layer)


def filled(module: Any) -> Any:
    """Fill every parameter with random numbers, because zeros would hide errors. Return the module."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


def gradients(output: Tensor, sources: list[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of a weighted sum of ``output``, with a different weight for each element."""
    factors = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad(output, sources, factors)


def two_branches(
    x: Tensor, residual: Tensor, a: Tensor, b: Tensor, bias: Tensor | None, *, scale: float = 1.0
) -> Tensor:
    """LoRA as in its paper (arXiv 2106.09685, eq. 3)."""
    y = x @ residual.mT + scale * ((x @ b.mT) @ a.mT)
    return y if bias is None else y + bias


# The function


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_equals_two_branches(batch: tuple[int, ...], bias: bool, scale: float) -> None:
    x, residual = torch.randn(*batch, IN, requires_grad=True), torch.randn(OUT, IN)
    a, b = torch.randn(OUT, RANK, requires_grad=True), torch.randn(RANK, IN, requires_grad=True)
    offset = torch.randn(OUT, requires_grad=True) if bias else None
    sources = [x, a, b] + ([offset] if offset is not None else [])

    y = low_rank_linear(x, residual, a, b, offset, scale=scale)
    expected = two_branches(x, residual, a, b, offset, scale=scale)
    torch.testing.assert_close(y, expected)
    for found, wanted in zip(gradients(y, sources), gradients(expected, sources), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("frozen_x", [False, True])
@pytest.mark.parametrize("bias", ["none", "trained", "frozen"])
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_gradients_against_finite_differences(batch: tuple[int, ...], frozen_x: bool, bias: str, scale: float) -> None:
    def drawn(*shape: int, trained: bool = True) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=trained)

    residual = drawn(OUT, IN, trained=False)
    offset = None if bias == "none" else drawn(OUT, trained=bias == "trained")
    x, a, b = drawn(*batch, IN, trained=not frozen_x), drawn(OUT, RANK), drawn(RANK, IN)
    given: Any = (x, a, b, offset)
    assert torch.autograd.gradcheck(
        lambda x, a, b, offset: low_rank_linear(x, residual, a, b, offset, scale=scale), given
    )


@pytest.mark.parametrize("factors", ["a", "b"])
def test_one_factor_can_be_frozen(factors: str) -> None:
    tensors = {"a": torch.randn(OUT, RANK), "b": torch.randn(RANK, IN)}
    tensors[factors].requires_grad_()
    x, residual = torch.randn(3, IN), torch.randn(OUT, IN)
    y = low_rank_linear(x, residual, tensors["a"], tensors["b"], None)
    expected = two_branches(x, residual, tensors["a"], tensors["b"], None)
    torch.testing.assert_close(gradients(y, [tensors[factors]]), gradients(expected, [tensors[factors]]))


@pytest.mark.parametrize("bias", [True, False])
def test_an_output_may_be_changed_in_place_as_that_of_a_plain_layer(bias: bool) -> None:
    """DeBERTa divides its projected positions in place."""
    plain = nn.Linear(IN, OUT, bias=bias)
    x, a, b = torch.randn(1, 3, IN), torch.zeros(OUT, RANK, requires_grad=True), torch.randn(RANK, IN)
    y = low_rank_linear(x, plain.weight.detach(), a, b, plain.bias).permute(0, 2, 1)
    y /= 2
    found = gradients(y, [a])
    torch.testing.assert_close(found, gradients(functional.linear(x, a @ b).permute(0, 2, 1) / 2, [a]))


class Made(TorchDispatchMode):
    """Records the shape of every tensor that an operation creates."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.shapes.add(tuple(result.shape))
        return result


def test_backward_never_forms_a_weight_sized_gradient() -> None:
    x, residual = torch.randn(3, IN, requires_grad=True), torch.randn(OUT, IN)
    a, b = torch.randn(OUT, RANK, requires_grad=True), torch.randn(RANK, IN, requires_grad=True)
    large = {(OUT, IN), (IN, OUT)}

    def made_by_backward(y: Tensor) -> set[tuple[int, ...]]:
        with Made() as made:
            y.sum().backward()
        return made.shapes

    # Plain autograd does form such a gradient, which shows that this check can detect one.
    assert large & made_by_backward(functional.linear(x, residual + a @ b))
    assert not large & made_by_backward(low_rank_linear(x, residual, a, b, None))


def test_saves_one_weight_sized_tensor_for_backward() -> None:
    kept: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    layer = LowRankLinear(nn.Linear(IN, OUT), RANK)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(torch.randn(3, IN))
    assert sorted(kept) == sorted([(3, IN), (OUT, IN), (OUT, RANK), (RANK, IN)])


@pytest.mark.parametrize("autocast", [False, True])
def test_a_fixed_b_saves_memory_for_backward(autocast: bool) -> None:
    tokens, inputs, rank = 64, 32, 2

    def saved_bytes(*, train_b: bool) -> tuple[int, list[tuple[int, ...]]]:
        kept: list[Tensor] = []
        layer = LowRankLinear(nn.Linear(inputs, OUT), rank, train_b=train_b)
        x = torch.randn(tokens, inputs, requires_grad=True)
        with (
            torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda it: it),
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
        ):
            layer(x)
        return sum(tensor.nbytes for tensor in kept), sorted(tuple(tensor.shape) for tensor in kept)

    (both, _), (alone, shapes) = saved_bytes(train_b=True), saved_bytes(train_b=False)
    assert shapes == [(OUT, inputs), (tokens, rank)]  # in place of x, A and B: x B^T
    size = 2 if autocast else 4
    factors = 4 * rank * (inputs + OUT)
    assert both - alone == size * tokens * (inputs - rank) + factors


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_gradients_with_a_fixed_b_against_finite_differences(batch: tuple[int, ...], scale: float) -> None:
    def drawn(*shape: int, trained: bool = True) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=trained)

    residual, b = drawn(OUT, IN, trained=False), drawn(RANK, IN, trained=False)
    given: Any = (drawn(*batch, IN), drawn(OUT, RANK), drawn(OUT))
    assert torch.autograd.gradcheck(
        lambda x, a, bias: low_rank_linear(x, residual, a, b, bias, scale=scale, train_b=False), given
    )


def test_a_fixed_b_is_no_parameter_and_merges_the_same() -> None:
    plain = nn.Linear(IN, OUT)
    one, other = LowRankLinear(plain, RANK, scale=0.7), LowRankLinear(plain, RANK, scale=0.7, train_b=False)
    for layer in (one, other):
        torch.manual_seed(1)
        with torch.no_grad():
            layer.a.normal_()
            layer.b.normal_()
    assert {name for name, _ in other.named_parameters()} == {"a", "bias"}
    assert [*map(id, other.factors)] == [id(other.a)] and [*map(id, one.factors)] == [id(one.a), id(one.b)]
    x = torch.randn(3, IN)
    assert torch.equal(one(x), other(x))
    assert torch.equal(one.merged_weight(), other.merged_weight())


def test_the_residual_gets_no_gradient() -> None:
    layer = filled(LowRankLinear(nn.Linear(IN, OUT), RANK))
    layer(torch.randn(3, IN)).sum().backward()
    assert layer.residual.grad is None and not layer.residual.requires_grad
    assert {name for name, parameter in layer.named_parameters() if parameter.grad is not None} == {"a", "b", "bias"}


# Reduced precision


def test_autocast_equals_a_plain_layer_with_the_merged_weight(plain: Linear) -> None:
    layer = filled(LowRankLinear(plain, RANK, scale=0.5))
    x, merged = torch.randn(4, 3, IN), layer.to_plain()
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = layer(x), merged(x)
    assert y.dtype == torch.bfloat16
    # No tolerance: the weight is formed in float32 and cast once, exactly like the plain layer's.
    assert torch.equal(y, expected)


@pytest.mark.parametrize("bias", [True, False])
def test_autocast_gradients_are_float32_and_close_to_full_precision(bias: bool) -> None:
    layer = filled(LowRankLinear(nn.Linear(64, 48, bias=bias), 4))
    x = torch.randn(20, 64, requires_grad=True)
    sources = [x, *layer.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    for found, expected in zip(gradients(y, sources), gradients(layer(x), sources), strict=True):
        assert found.dtype == torch.float32
        error = torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)
        assert error < 3 * torch.finfo(torch.bfloat16).eps  # each of two products rounds its inputs and its result


def test_autocast_adds_up_the_gradient_of_the_bias_in_float32() -> None:
    layer = LowRankLinear(nn.Linear(IN, OUT), RANK)
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(257, IN)).sum().backward()
    assert layer.bias is not None and layer.bias.grad is not None
    assert layer.bias.grad.tolist() == [257] * OUT  # not a number of bfloat16


def test_the_gradient_of_the_formed_weight_is_float32_under_autocast() -> None:
    layer = LowRankLinear(nn.Linear(IN, OUT), RANK)
    x, dy = torch.randn(300, IN).bfloat16(), torch.randn(300, OUT).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer.weight_gradient(x, dy)
    torch.testing.assert_close(found, (dy.double().mT @ x.double()).float(), rtol=1e-5, atol=1e-4)


def test_a_scaled_update_beside_a_narrower_residual_has_the_same_gradients() -> None:
    x, bias = torch.randn(3, IN, requires_grad=True), torch.randn(OUT, requires_grad=True)
    a, b = torch.randn(OUT, RANK, requires_grad=True), torch.randn(RANK, IN, requires_grad=True)
    residual = torch.randn(OUT, IN).bfloat16()
    found = gradients(low_rank_linear(x, residual, a, b, bias, scale=0.7), [x, a, b, bias])
    expected = gradients(two_branches(x, residual.float(), a, b, bias, scale=0.7), [x, a, b, bias])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "adapt",
    [
        "low_rank",
        "scaled_input",
        "scaled_output",
    ],
)
def test_autocast_output_type_matches_a_plain_layer(adapt: str) -> None:
    plain = nn.Linear(IN, OUT)
    with torch.autocast("cpu", torch.bfloat16):
        x = torch.randn(3, IN)
        assert ADAPT[adapt](plain)(x).dtype == plain(x).dtype


# Against HF PEFT


def peft_layer(config: LoraConfig | IA3Config, plain: Linear) -> Any:
    return inject_adapter_in_model(config, nn.Sequential(plain)).get_submodule("0")


def assert_same_layer(ours: Adapter, pairs: dict[str, Tensor], theirs: Callable[[Tensor], Tensor]) -> None:
    """Check equal outputs, and equal gradients of input and parameters. ``pairs`` maps our names to their tensors."""
    x = torch.randn(4, 3, IN, requires_grad=True)
    y, expected = ours(x), theirs(x)
    torch.testing.assert_close(y, expected)
    found = gradients(y, [x, *(ours.get_parameter(name) for name in pairs)])
    wanted = gradients(expected, [x, *pairs.values()])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other.view_as(one))


def test_lora_equals_peft(plain: Linear) -> None:
    ours = filled(LowRankLinear(plain, RANK, scale=3 / RANK))
    config = LoraConfig(
        r=RANK, lora_alpha=3, lora_dropout=0.0, target_modules=["0"], fan_in_fan_out=isinstance(plain, Conv1D)
    )
    theirs = peft_layer(config, plain)
    pairs = {"a": theirs.lora_B["default"].weight, "b": theirs.lora_A["default"].weight}
    with torch.no_grad():
        for name, parameter in pairs.items():
            parameter.copy_(ours.get_parameter(name))
    if plain.bias is not None:
        pairs["bias"] = theirs.base_layer.bias.requires_grad_()
    assert_same_layer(ours, pairs, theirs)


@pytest.mark.parametrize("side", ["input", "output"])
def test_ia3_equals_peft(plain: Linear, side: str) -> None:
    ours = filled(ScaledLinear(plain, side=side))
    config = IA3Config(
        target_modules=["0"],
        feedforward_modules=["0"] if side == "input" else [],
        fan_in_fan_out=isinstance(plain, Conv1D),
    )
    theirs = peft_layer(config, plain)
    # PEFT 0.21 transposes a Conv1D's shape and gets the vector's length wrong, so replace the whole vector.
    theirs.ia3_l["default"] = nn.Parameter(ours.factor.detach().clone())
    pairs = {"factor": theirs.ia3_l["default"]}
    if plain.bias is not None:
        pairs["bias"] = theirs.base_layer.bias.requires_grad_()
    assert_same_layer(ours, pairs, theirs)


# The layers


@pytest.mark.parametrize("adapt", ADAPT)
def test_a_new_adapter_computes_the_plain_layers_function(plain: Linear, adapt: str) -> None:
    x = torch.randn(4, 3, IN)
    torch.testing.assert_close(ADAPT[adapt](plain)(x), plain(x))


@pytest.mark.parametrize("adapt", ADAPT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_to_plain_keeps_the_type_and_function(plain: Linear, adapt: str, dtype: torch.dtype) -> None:
    plain.to(dtype)
    layer = filled(ADAPT[adapt](plain))
    merged = layer.to_plain()
    assert type(merged) is type(plain)
    assert {name: (p.shape, p.dtype) for name, p in merged.named_parameters()} == {
        name: (p.shape, p.dtype) for name, p in plain.named_parameters()
    }
    assert repr(merged) == repr(plain)  # in_features, out_features, nf, nx
    assert all(parameter.is_contiguous() for parameter in merged.parameters())
    x = torch.randn(4, 3, IN, dtype=dtype)
    torch.testing.assert_close(merged(x), layer(x))


@pytest.mark.parametrize("adapt", ["low_rank", "low_rank_scaled"])
def test_the_residual_is_a_copy(plain: Linear, adapt: str) -> None:
    before = plain.weight.detach().clone()
    layer = ADAPT[adapt](plain)
    assert isinstance(layer, LowRankLinear)
    assert torch.equal(layer.residual, weight_of(plain)) and layer.residual.is_contiguous()
    layer.residual.zero_()
    assert torch.equal(plain.weight, before)
    merged = layer.to_plain()
    layer.residual.fill_(3)
    assert not merged.weight.any()


def test_weight_of_is_out_in() -> None:
    # Conv1D computes x W + bias with W (in, out); nn.Linear x W^T + bias with W (out, in).
    x = torch.randn(3, IN)
    for make in PLAIN.values():
        plain = make()
        offset = 0 if plain.bias is None else plain.bias
        torch.testing.assert_close(plain(x), x @ weight_of(plain).mT + offset)


# Replacing layers of a model


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(IN, OUT)
        self.blocks = nn.ModuleList(nn.ModuleDict({"query": Conv1D(OUT, OUT), "norm": nn.LayerNorm(OUT)}) for _ in "ab")
        self.last = nn.Linear(OUT, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block["norm"](x + block["query"](x))  # pyrefly: ignore[bad-index]
        return self.last(x)


ALL = ["first", "blocks.0.query", "blocks.1.query", "last"]


@pytest.fixture
def net() -> Net:
    return filled(Net())


@pytest.mark.parametrize("adapt", ADAPT)
@pytest.mark.parametrize("names", [ALL, ["blocks.1.query"], []], ids=len)
def test_replace_and_restore(net: Net, adapt: str, names: list[str]) -> None:
    x = torch.randn(3, IN)
    output, kinds = net(x), {name: type(module) for name, module in net.named_modules()}
    state = net.state_dict()
    count = sum(parameter.numel() for parameter in net.parameters())

    replace_linears(net, names, ADAPT[adapt])
    assert [name for name, _ in adapters(net)] == names
    torch.testing.assert_close(net(x), output)
    filled_layers = [filled(layer) for _, layer in adapters(net)]
    changed = net(x)
    assert bool(filled_layers) == (not torch.allclose(changed, output))

    restore_linears(net)
    assert not list(adapters(net))
    assert {name: type(module) for name, module in net.named_modules()} == kinds
    assert list(net.state_dict()) == list(state)
    assert sum(parameter.numel() for parameter in net.parameters()) == count
    torch.testing.assert_close(net(x), changed)


def test_restoring_an_untrained_model_returns_its_weights(net: Net) -> None:
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    replace_linears(net, ALL, ADAPT["low_rank"])
    restore_linears(net)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_low_rank_layers_returns_only_those_in_the_models_order(net: Net) -> None:
    replace_linears(net, ["last", "first"], ADAPT["low_rank"])
    replace_linears(net, ["blocks.0.query"], ADAPT["scaled_input"])
    assert low_rank_layers(net) == [net.first, net.last]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (".*", ALL),
        ("query", ["blocks.0.query", "blocks.1.query"]),
        (r"0\.query|last", ["blocks.0.query", "last"]),
        (r"blocks\.1\.query", ["blocks.1.query"]),
        ("norm|first", ["first"]),  # a norm is not a linear layer
    ],
)
def test_linear_names(net: Net, pattern: str, names: list[str]) -> None:
    assert linear_names(net, pattern) == names


def test_linear_names_without_a_match_lists_the_layers(net: Net) -> None:
    with pytest.raises(UserError, match=r"targets=quer matches no linear layer .*: blocks\.\*\.query, first, last$"):
        linear_names(net, "quer")


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("query", "query", True),
        ("query", "layer.0.query", True),
        ("query", "layer.0.my_query", False),  # must start after a dot
        ("query", "layer.query.0", False),  # must reach the end
        ("self.query", "layer.self.query", True),
        (r"attn\.(q|k)", "layer.attn.k", True),
        (r"attn\.(q|k)", "layer.attn.v", False),
        ("query|key", "layer.key", True),
        ("query|key", "key.layer", False),
        (".*", "anything.at.all", True),
        ("", "layer", False),
        ("QUERY", "layer.query", False),
        (r"\w+", "layer.query", True),
        (r"(\w)ue\1y", "layer.queqy", True),  # the user's groups keep their numbers
    ],
)
def test_name_matches(pattern: str, name: str, matches: bool) -> None:
    assert name_matches(pattern, name) == matches
