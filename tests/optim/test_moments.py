import pytest
import torch
from torch import Tensor, nn

from rosa_bench.optim.moments import clear, rotate


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
