from collections.abc import Callable
from functools import partial

import pytest
import pytorch_optimizer
import torch
from torch import Tensor, nn

from rosa_bench.methods.base import Changed, Rotation, Slice
from rosa_bench.optim.moments import clear, rotate
from rosa_bench.training.state import follow

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def state(shape: tuple[int, ...] = (5, 3)) -> dict[str, Tensor]:
    """The state of AdamW after some steps."""
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    optimizer = torch.optim.AdamW([parameter])
    for _ in range(4):
        parameter.grad = torch.randn(shape, generator=generator, dtype=torch.float64)
        optimizer.step()
    return optimizer.state[parameter]


def orthonormal(seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q


def copied(held: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in held.items()}


def test_the_same_basis_changes_nothing() -> None:
    held = state()
    before = copied(held)
    rotate(held, torch.eye(3, dtype=torch.float64))
    assert all(torch.equal(held[name], before[name]) for name in before)


def test_a_permuted_basis_permutes_and_a_flipped_direction_flips() -> None:
    held = state()
    before = copied(held)
    order, signs = torch.tensor([2, 0, 1]), torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    rotate(held, torch.eye(3, dtype=torch.float64)[:, order] * signs)
    assert torch.equal(held["exp_avg"], before["exp_avg"][:, order] * signs)
    assert torch.equal(held["exp_avg_sq"], before["exp_avg_sq"][:, order])
    assert torch.equal(held["step"], before["step"])


def test_the_first_moment_is_that_of_rotated_gradients_and_the_second_keeps_its_sum() -> None:
    rotation, held = orthonormal(1), state()
    before = copied(held)
    rotate(held, rotation)
    torch.testing.assert_close(held["exp_avg"], before["exp_avg"] @ rotation)
    assert (held["exp_avg_sq"] >= 0).all()
    torch.testing.assert_close(held["exp_avg_sq"].sum(-1), before["exp_avg_sq"].sum(-1))  # rows of rotation^2 sum to 1


def test_the_second_moment_in_a_random_basis_is_that_of_its_gradients() -> None:
    """Rows of the same size as ever, in another Gaussian basis after half of the steps."""
    draws = torch.Generator().manual_seed(0)
    old, new = (torch.randn(64, 3, generator=draws, dtype=torch.float64) / 3**0.5 for _ in range(2))
    held = {"exp_avg": torch.zeros(200, 3).double(), "exp_avg_sq": torch.zeros(200, 3).double()}
    gradients = [torch.randn(200, 64, generator=draws, dtype=torch.float64) for _ in range(100)]
    for one in gradients:
        held["exp_avg"].lerp_(one @ old, 0.1)
        held["exp_avg_sq"].add_((one @ old).square() / 100)
    momentum = held["exp_avg"].clone()
    rotate(held, old.mT @ new, orthonormal=False)
    expected = torch.stack([(one @ new).square() for one in gradients]).mean()
    assert held["exp_avg_sq"].mean() == pytest.approx(expected, rel=0.25)
    torch.testing.assert_close(held["exp_avg"], momentum @ old.mT @ new)


def test_a_basis_that_shares_nothing_with_the_old_one_clears() -> None:
    held = state()
    rotate(held, torch.zeros(3, 3, dtype=torch.float64))
    assert not held["exp_avg"].any() and not held["exp_avg_sq"].any() and held["step"] == 4


@pytest.mark.parametrize(("dim", "index"), [(-1, 2), (-2, 0)])
def test_clearing_one_row_or_column_leaves_the_others(dim: int, index: int) -> None:
    held = state((2, 5, 3))
    before = copied(held)
    places = {name: value.data_ptr() for name, value in held.items()}
    clear(held, dim=dim, index=index)
    for name in ("exp_avg", "exp_avg_sq"):
        assert not held[name].select(dim, index).any()
        others = [number for number in range(held[name].shape[dim]) if number != index]
        for other in others:
            assert torch.equal(held[name].select(dim, other), before[name].select(dim, other))
    assert held["step"] == 4
    assert {name: value.data_ptr() for name, value in held.items()} == places


# Optimizers of every kind


class RowWise(torch.optim.Optimizer):
    """Adagrad with one sum for every row, as large embeddings are trained."""

    def __init__(self, weights: list[nn.Parameter]):
        super().__init__(weights, {"lr": 1e-3})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002 # pyrefly: ignore[bad-override]
        for weight in self.param_groups[0]["params"]:
            total = self.state[weight].setdefault("sum", torch.zeros(len(weight)))
            total.add_(weight.grad.square().mean(-1))
            weight.sub_(1e-3 * weight.grad / total.sqrt().unsqueeze(-1))


OPTIMIZERS: dict[str, Make] = {
    **{name: getattr(torch.optim, name) for name in (
        "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop",
        "Rprop", "SGD",
    )},
    "amsgrad": partial(torch.optim.AdamW, amsgrad=True),
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "centred": partial(torch.optim.RMSprop, centered=True, momentum=0.9),
    "RowWise": RowWise,
    "AggMo": pytorch_optimizer.AggMo,  # several momenta in one mapping
}  # fmt: skip
COUNT_TOGETHER: dict[str, Make] = {  # steps for all weights, so that one cannot begin again
    "Amos": pytorch_optimizer.Amos,  # one second moment for the whole weight
    "GaLore": lambda weights: pytorch_optimizer.GaLore([{
        "params": weights, "rank": 2, "update_proj_gap": 100, "scale": 1.0, "projection_type": "std",
    }]),  # moments of fewer columns than the weight
    "z": pytorch_optimizer.ScheduleFreeAdamW,  # its state has the weights themselves
}  # fmt: skip


def step(weight: nn.Parameter, optimizer: torch.optim.Optimizer, number: int) -> None:
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
    optimizer.step()


def trained(make: Make) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    weight = nn.Parameter(torch.ones(4, 3))
    optimizer = make([weight])
    getattr(optimizer, "train", lambda: None)()
    for number in range(3):
        step(weight, optimizer, number)
    return weight, optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_reset_optimizer_steps_as_a_new_one(name: str) -> None:
    weight, optimizer = trained(OPTIMIZERS[name])
    other = nn.Parameter(weight.detach().clone())
    new = OPTIMIZERS[name]([other])
    follow(optimizer, Changed(reset=[weight]), trainable=[weight], reset="factors")
    for number in range(3, 6):
        step(weight, optimizer, number)
        step(other, new, number)
        assert torch.equal(weight, other)


@pytest.mark.parametrize("name", OPTIMIZERS | COUNT_TOGETHER)
@pytest.mark.parametrize("kind", ["reset", "clear", "rotate"])
def test_what_was_drawn_anew_moves_no_further_than_a_step(name: str, kind: str) -> None:
    """Whatever the optimizer keeps: a draw writes into the weight, and the next step starts from there."""
    weight, optimizer = trained((OPTIMIZERS | COUNT_TOGETHER)[name])
    with torch.no_grad():
        weight.fill_(1000.0)
    changed = {
        "reset": Changed(reset=[weight]),
        "clear": Changed(clear=[Slice(weight, -1, 1)]),
        "rotate": Changed(rotate=[Rotation(weight, orthonormal(1).float())]),
    }[kind]
    follow(optimizer, changed, trainable=[weight], reset="factors")
    step(weight, optimizer, 3)
    assert (weight - 1000).abs().max() < 100


@pytest.mark.parametrize(("name", "rotated", "cleared"), [
    ("momentum", True, True), ("AdamW", True, True), ("amsgrad", False, True),
    ("Adafactor", False, False), ("Amos", False, False), ("AggMo", False, False), ("RowWise", False, False),
    ("GaLore", False, False),
])  # fmt: skip
def test_state_that_cannot_be_rotated_or_cleared_in_part_begins_again(name: str, rotated: bool, cleared: bool) -> None:
    rotation = orthonormal(1).float()
    for kept, change in (
        (rotated, lambda weight: Changed(rotate=[Rotation(weight, rotation)])),
        (cleared, lambda weight: Changed(clear=[Slice(weight, -1, 1)])),
    ):
        weight, optimizer = trained((OPTIMIZERS | COUNT_TOGETHER)[name])
        follow(optimizer, change(weight), trainable=[weight], reset="factors")
        begins_again = not any(value.any() for value in optimizer.state.get(weight, {}).values())
        assert begins_again is not kept


@pytest.mark.parametrize("kind", ["reset", "clear"])
def test_quantised_state_is_dropped(kind: str) -> None:
    """Its numbers are places in a table, so 0 may stand for the least value."""
    weight, optimizer = trained(OPTIMIZERS["AdamW"])
    optimizer.state[weight]["exp_avg"] = torch.full(weight.shape, 128, dtype=torch.uint8)
    changed = {"reset": Changed(reset=[weight]), "clear": Changed(clear=[Slice(weight, -1, 1)])}[kind]
    follow(optimizer, changed, trainable=[weight], reset="factors")
    assert weight not in optimizer.state


@pytest.mark.parametrize("reset", ["factors", "all"])
def test_momentum_is_rotated_even_if_the_protocol_clears_all(reset: str) -> None:
    rotation = orthonormal(1).float()
    weight, optimizer = trained(OPTIMIZERS["momentum"])
    expected = optimizer.state[weight]["momentum_buffer"] @ rotation
    follow(optimizer, Changed(rotate=[Rotation(weight, rotation)]), trainable=[weight], reset=reset)
    torch.testing.assert_close(optimizer.state[weight]["momentum_buffer"], expected)
