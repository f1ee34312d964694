"""Weights in bfloat16 whose other bits are kept: nothing is lost, whatever is drawn."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rosa_bench.adapters.lora import PlainWeights, known_updates
from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.low_rank import LowRankLinear, low_rank_layers
from rosa_bench.layers.storage.halves import halves, whole
from rosa_bench.layers.storage.narrow import NARROW
from rosa_bench.layers.structure.linear import make_linear, weight_of
from rosa_bench.models.base_dtype import round_to, store_in
from rosa_bench.system.errors import UserError

EPS = torch.finfo(torch.bfloat16).eps
LARGEST = float.fromhex("0x1.fep+127")  # above, a bfloat16 is infinite


@given(st.lists(st.floats(-LARGEST, LARGEST, width=32), min_size=1))
def test_halves_are_the_nearest_bfloat16_and_what_it_lacks(values: list[float]) -> None:
    wide = torch.tensor(values)
    high, low = halves(wide)
    assert torch.equal(whole(high, low).view(torch.int32), wide.view(torch.int32))  # -0.0 too
    nearest = wide.bfloat16()
    assert torch.equal((high.double() - wide.double()).abs(), (nearest.double() - wide.double()).abs())


def test_ties_and_bfloat16_values_are_split_without_loss() -> None:
    bits = torch.tensor([0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x007F8000, 0x00008000, 0x3F800000])
    wide = torch.cat([bits, bits - (1 << 31)]).to(torch.int32).view(torch.float32)  # of both signs
    high, low = halves(wide)
    assert torch.equal(whole(high, low).view(torch.int32), wide.view(torch.int32))
    assert low[6] == low[13] == 0


class Net(nn.Module):
    """Two linear layers, an output layer that shares the embedding's weight, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 16)
        self.attention = nn.Linear(16, 16)
        self.second = Conv1D(16, 16)
        self.tied = nn.Linear(16, 12, bias=False)
        self.tied.weight = self.embedding.weight
        self.head = nn.Linear(16, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.second(self.attention(self.embedding(ids)).tanh()))


Attach = Callable[..., tuple[Net, RunConfig]]
EACH_STEP = ("method.targets='attention|second'", "method.resample_every=1", "method.resample_unit=steps")
METHODS = {
    "rosa": ("method=rosa", *EACH_STEP),
    "zero": ("method=rosa", "method.init=zero", *EACH_STEP),
    "A alone": ("method=rosa", "method.train=a", "method.basis=random", *EACH_STEP),
    "one at a time": ("method=rosa", "method.stagger=true", *EACH_STEP),
    "initial": ("method=rosa", "method.svd_of=initial", *EACH_STEP),
    "relora": ("method=lora", *EACH_STEP),
}


@pytest.fixture
def attach(compose: Callable[..., RunConfig]) -> Attach:
    """``attach("bfloat16", "method=rosa")``: a net whose weights are bfloat16 numbers, stored in that type."""

    def attached(dtype: str, *overrides: str, device: torch.device | None = None) -> tuple[Net, RunConfig]:
        config = compose(
            "task=grammar", "model=tiny_roberta", "protocol=fair", "rank=2", "method.head=head", f"base_dtype={dtype}",
            *overrides,
        )  # fmt: skip
        torch.manual_seed(0)
        net = Net()
        round_to("bfloat16", net, head="head")
        store_in(dtype, net, head="head")
        config.method.attach(net.to(device))
        return net, config

    return attached


def train_and_draw(net: Net, config: RunConfig, draws: int) -> None:
    """Change the factors and draw again, several times, as a run does."""
    from rosa_bench.methods.base import RunLength

    changes = torch.Generator().manual_seed(1)
    for step in range(1, draws + 1):
        with torch.no_grad():
            for layer in low_rank_layers(net):
                for factor in layer.factors:
                    factor.add_(1e-3 * torch.randn(factor.shape, generator=changes).to(factor.device))
        config.method.before_step(net, step, length=RunLength(100, 1))


def test_what_trains_the_head_and_shared_weights_stay_float32(attach: Attach) -> None:
    net, _ = attach("bfloat16", *METHODS["rosa"])
    types = {name: tensor.dtype for name, tensor in net.state_dict().items()}
    assert {name for name, kind in types.items() if kind == torch.bfloat16} == {"attention.residual", "second.residual"}
    assert {name for name, kind in types.items() if kind == torch.int16} == {"attention.remainder", "second.remainder"}
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())


def test_only_a_method_that_draws_keeps_a_remainder(attach: Attach) -> None:
    net, _ = attach("bfloat16", "method=lora_plus", "method.targets='attention|second'")
    assert [layer.remainder for layer in low_rank_layers(net)] == [None, None]


def test_the_head_alone_trains_in_float32(attach: Attach) -> None:
    net, _ = attach("bfloat16", "method=head_only")
    with torch.autocast("cpu", torch.bfloat16):
        net(torch.arange(4)).sum().backward()
    assert {name: it.dtype for name, it in net.named_parameters() if it.grad is not None} == {
        "head.weight": torch.float32, "head.bias": torch.float32,
    }  # fmt: skip
    assert net.attention.weight.dtype == net.second.weight.dtype == torch.bfloat16
    assert net.tied.weight.dtype == torch.float32


@pytest.mark.parametrize("how", METHODS)
def test_twenty_draws_lose_nothing(attach: Attach, how: str) -> None:
    """The same bits as on a float32 base from the same weights, since between draws only factors change."""
    (narrow, config), (wide, same) = (attach(dtype, *METHODS[how]) for dtype in ("bfloat16", "float32"))
    train_and_draw(narrow, config, 20)
    train_and_draw(wide, same, 20)
    for ours, exact in zip(low_rank_layers(narrow), low_rank_layers(wide), strict=True):
        assert ours.residual.dtype == torch.bfloat16
        assert torch.equal(ours.exact_residual(), exact.residual)
        assert torch.equal(ours.a, exact.a)
        assert torch.equal(ours.b, exact.b)
        assert not torch.equal(ours.residual.float(), exact.residual)  # so the remainder matters
    config.method.merge(narrow)
    same.method.merge(wide)
    assert type(narrow.attention) is nn.Linear
    assert type(narrow.second) is Conv1D
    for ours, exact in ((narrow.attention, wide.attention), (narrow.second, wide.second)):
        assert torch.equal(ours.weight, exact.weight)


@pytest.mark.gpu
def test_on_a_gpu_draws_lose_nothing_and_the_remainder_is_on_the_cpu(attach: Attach) -> None:
    (narrow, config), (wide, same) = (
        attach(dtype, *METHODS["rosa"], device=torch.device("cuda")) for dtype in ("bfloat16", "float32")
    )
    train_and_draw(narrow, config, 5)
    train_and_draw(wide, same, 5)
    for ours, exact in zip(low_rank_layers(narrow), low_rank_layers(wide), strict=True):
        assert ours.residual.is_cuda and ours.remainder is not None and not ours.remainder.is_cuda
        assert torch.equal(ours.exact_residual(), exact.residual)
        assert torch.equal(ours.a, exact.a)


def test_a_draw_changes_the_function_by_no_more_than_bfloat16_rounding(attach: Attach) -> None:
    net, config = attach("bfloat16", *METHODS["rosa"])
    train_and_draw(net, config, 3)
    before = [layer.merged_weight().double() for layer in low_rank_layers(net)]
    config.method.resample(net, 4)  # pyrefly: ignore[missing-attribute]
    for layer, weight in zip(low_rank_layers(net), before, strict=True):
        torch.testing.assert_close(layer.merged_weight().double(), weight, rtol=0, atol=1e-6)
        seen = layer.residual.double() + layer.a.double() @ layer.b.double()
        largest = layer.exact_residual().abs().max().item()
        assert 0 < (seen - weight).abs().max() <= EPS / 2 * largest + 1e-6


@pytest.mark.parametrize("train_b", [True, False])
@pytest.mark.parametrize("kind", NARROW)
def test_gradients_equal_those_of_a_float32_layer(kind: type, train_b: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 5).bfloat16()
    layers = [
        LowRankLinear(make_linear(each, stored, nn.Parameter(torch.ones(6))), 2, train_b=train_b)
        for each, stored in ((NARROW[kind], weight), (kind, weight.float()))
    ]
    found = []
    for layer in layers:
        torch.manual_seed(1)
        nn.init.normal_(layer.a)
        nn.init.normal_(layer.b)
        x = torch.randn(3, 4, 5, requires_grad=True)
        layer(x).square().sum().backward()
        found.append([x.grad, *(factor.grad for factor in layer.factors)])
    for ours, exact in zip(*found, strict=True):
        assert torch.equal(ours, exact)


def test_the_backward_pass_keeps_no_second_weight() -> None:
    layer = LowRankLinear(make_linear(NARROW[nn.Linear], torch.randn(64, 64).bfloat16(), None), 2)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda it: kept.append(it) or it, lambda it: it):
        layer(torch.randn(3, 64, requires_grad=True))
    assert [it.data_ptr() for it in kept if it.shape == (64, 64)] == [layer.residual.data_ptr()]


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("kind", NARROW)
def test_a_narrow_layer_computes_what_a_plain_one_with_its_weight_does(kind: type, autocast: bool) -> None:
    weight, bias = torch.randn(6, 5).bfloat16(), nn.Parameter(torch.randn(6))
    narrow, plain = make_linear(NARROW[kind], weight, bias), make_linear(kind, weight.float(), bias)
    assert torch.equal(weight_of(narrow), weight)
    x = torch.randn(2, 3, 5)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert torch.equal(narrow(x), plain(x))


def test_a_change_below_bfloat16_is_no_unchanged_weight(compose: Callable[..., RunConfig]) -> None:
    config = compose("task=grammar", "model=tiny_roberta", "rank=2", "method=rosa", "method.init=zero",
                     "method.targets='attention|second'", "method.head=head", "method.train_head=true")  # fmt: skip
    net = Net()
    store_in("bfloat16", net, head="head")
    before = PlainWeights(net)
    config.method.attach(net)
    assert set(known_updates(net, before)) == {"attention", "second"}
    layer = low_rank_layers(net)[0]
    layer.write_residual(layer.exact_residual() * (1 + 1e-4))
    assert torch.equal(layer.residual, before.weights["attention"])
    assert set(known_updates(net, before)) == {"second"}


def test_writing_more_bits_than_are_kept_is_an_error() -> None:
    layer = LowRankLinear(make_linear(NARROW[nn.Linear], torch.randn(4, 4).bfloat16(), None), 2)
    with pytest.raises(ValueError, match="keep_remainder"):
        layer.write_residual(torch.randn(4, 4))


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(UserError, match=r"base_dtype=bfloat16 finds no linear layer"):
        store_in("bfloat16", nn.Sequential(nn.Embedding(3, 4)), head="head")


@pytest.mark.parametrize("method", ["ft", "bitfit", "galore", "blockwise", "switch_lora", "diff_pruning"])
def test_methods_that_change_base_weights_refuse(compose: Callable[..., RunConfig], method: str) -> None:
    with pytest.raises(UserError, match=rf"method={method} .*float32; use base_dtype=float32"):
        compose("task=grammar", "model=tiny_roberta", "protocol=fair", f"method={method}", "base_dtype=bfloat16")


def test_a_pack_refuses(compose: Callable[..., RunConfig]) -> None:
    with pytest.raises(UserError, match=r"packed=2 .*base_dtype=bfloat16 does not work with it"):
        compose("task=grammar", "model=tiny_roberta", "method=lora", "base_dtype=bfloat16", "packed=2")
