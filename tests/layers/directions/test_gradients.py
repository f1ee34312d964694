"""The leading directions of whole gradients, compared with autograd on the plain model."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from rosa_bench.layers.directions.gradients import gradient_directions
from rosa_bench.layers.fused.stacked import materialised
from rosa_bench.layers.low_rank import LowRankLinear
from rosa_bench.training.compile import compiled

RANK, WIDTH = 2, 6


class Net(nn.Module):
    """Layers used once, twice (``shared``) and never (``idle``), with dropout and a running mean."""

    def __init__(self, make: Callable[[nn.Linear], nn.Module]):
        super().__init__()
        torch.manual_seed(0)
        names = ("first", "second", "shared", "idle")
        plain = {name: nn.Linear(WIDTH, WIDTH).double() for name in names}
        self.layers = nn.ModuleDict({name: make(layer) for name, layer in plain.items()})
        self.norm, self.dropout = nn.BatchNorm1d(WIDTH).double(), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> SimpleNamespace:
        layers = self.layers
        y = self.dropout(self.norm(layers["first"](x).tanh()))
        y = layers["shared"](layers["shared"](layers["second"](y)).tanh())
        return SimpleNamespace(loss=y.square().mean())


def inputs() -> Tensor:
    return torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def low_rank(train_b: bool) -> Net:
    def make(plain: nn.Linear) -> LowRankLinear:
        layer = LowRankLinear(plain, RANK, train_b=train_b)
        with torch.no_grad():
            layer.b.normal_()
        return layer

    return Net(make)


def expected() -> dict[str, Tensor]:
    """The projections onto the leading right singular vectors of autograd's gradients."""
    plain = Net(lambda layer: layer).eval()
    plain(inputs()).loss.backward()
    found = {}
    for name, layer in plain.layers.items():
        assert isinstance(layer, nn.Linear)
        if layer.weight.grad is not None:
            right = torch.linalg.svd(layer.weight.grad).Vh[:RANK]
            found[name] = right.mT @ right
    return found


@pytest.mark.parametrize("train_b", [True, False])
@pytest.mark.parametrize("stacked", [True, False])
def test_directions_are_those_of_autograds_gradient_of_the_whole_weight(train_b: bool, stacked: bool) -> None:
    net = low_rank(train_b)
    with materialised(net) if stacked else nullcontext():
        found = gradient_directions(net, lambda: net(inputs()).loss, RANK)
    wanted = expected()
    assert set(wanted) == {"first", "second", "shared"}
    for name, basis in zip(net.layers, found, strict=True):
        torch.testing.assert_close(basis @ basis.mT, torch.eye(RANK).double(), rtol=0, atol=1e-9)
        if name in wanted:
            torch.testing.assert_close(basis.mT @ basis, wanted[name], rtol=0, atol=1e-9)


def test_nothing_else_changes() -> None:
    net = low_rank(train_b=True).train()
    net.norm.eval()  # a module with a mode of its own
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    random = torch.get_rng_state()
    gradient_directions(net, lambda: net(inputs()).loss, RANK)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all((parameter.grad == 1).all() for parameter in net.parameters())  # pyrefly: ignore[missing-attribute]
    assert net.training and net.dropout.training and not net.norm.training
    assert not any(layer._forward_hooks for layer in net.layers.values())


def test_a_batch_norm_in_training_keeps_its_running_mean() -> None:
    net = low_rank(train_b=True).train()
    before = [tensor.clone() for tensor in net.norm.buffers()]
    gradient_directions(net, lambda: net(inputs()).loss, RANK)
    assert all(torch.equal(one, other) for one, other in zip(net.norm.buffers(), before, strict=True))


def test_one_gradient_exists_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from weakref import ref

    from rosa_bench.layers.directions import gradients

    alive: list[Any] = []
    real = gradients.leading_basis

    def noting(matrix: Tensor, rank: int) -> Tensor:
        assert not [one for one in alive if one() is not None]
        alive.append(ref(matrix))
        return real(matrix, rank)

    monkeypatch.setattr(gradients, "leading_basis", noting)
    net = low_rank(train_b=True)
    gradient_directions(net, lambda: net(inputs()).loss, RANK)
    assert len(alive) == len(net.layers)


def test_a_gradient_that_is_not_finite() -> None:
    net = low_rank(train_b=True)
    with pytest.raises(ValueError, match="gradient of a weight contains NaN or Inf"):
        gradient_directions(net, lambda: net(inputs() * torch.inf).loss, RANK)


@pytest.fixture
def _without_shape_checks() -> Iterator[None]:
    jaxtyping.config.update("jaxtyping_disable", True)  # the compiler cannot trace them
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("_without_shape_checks")
def test_a_compiled_model_gives_the_same_directions() -> None:
    net: Any = low_rank(train_b=True).eval()
    wanted = gradient_directions(net, lambda: net(inputs()).loss, RANK)
    with compiled(net, "default", backend="eager"):
        net(inputs()).loss.backward()  # compiled without hooks
        found = gradient_directions(net, lambda: net(inputs()).loss, RANK)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.mT @ one, other.mT @ other)
