"""Laws of an update's factors: they add up to the change of a weight, and a smaller rank is the truncated SVD."""

import pytest
import torch
from torch import Tensor, nn

from rosa_bench.layers.exact import Past, Update, compress, exact_update, total_update
from rosa_bench.layers.low_rank import LowRankLinear
from rosa_bench.lowrank import Factors

OUT, IN = 9, 7


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_parts_add_up_and_the_current_factors_come_first() -> None:
    past = Past()
    past.add(normal(OUT, 2), normal(2, IN, seed=1), 0.5)
    past.subtract(normal(OUT, 3, seed=2), normal(3, IN, seed=3))
    a, b = normal(OUT, 2, seed=4), normal(2, IN, seed=5)
    update = exact_update(past, a, b, 3.0)
    expected = 0.5 * normal(OUT, 2) @ normal(2, IN, seed=1) - normal(OUT, 3, seed=2) @ normal(3, IN, seed=3) + 3 * a @ b
    torch.testing.assert_close(update.delta(), expected, rtol=0, atol=1e-12)
    assert update.rank == 7 and torch.equal(update.a[:, :2], 3 * a) and torch.equal(update.b[:2], b)
    assert len(past.parts) == 2, "reading the update must not add to the past"


def test_the_past_does_not_change_with_the_tensors_that_it_was_given() -> None:
    a, b, past = normal(OUT, 2), normal(2, IN), Past()
    past.add(a, b)
    before = a @ b
    a.zero_()
    b.zero_()
    torch.testing.assert_close(past.parts[0].delta(), before, rtol=0, atol=0)


def test_the_rank_does_not_grow_while_b_stays_nor_with_zeros() -> None:
    past, b = Past(), normal(2, IN)
    past.subtract(normal(OUT, 2), b)
    past.add(normal(OUT, 2, seed=1), b)
    past.add(torch.zeros(OUT, 2), normal(2, IN, seed=1))
    update = exact_update(past, normal(OUT, 2, seed=2), b)
    assert update.rank == 2
    expected = (normal(OUT, 2, seed=1) - normal(OUT, 2) + normal(OUT, 2, seed=2)) @ b
    torch.testing.assert_close(update.delta(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("taken", [True, False])
@torch.no_grad()
def test_the_total_update_is_what_a_weight_has_gained_over_all_draws(taken: bool) -> None:
    plain = nn.Linear(IN, OUT, dtype=torch.float64)
    layer = LowRankLinear(plain, 2, scale=0.7)
    layer.past = Past()
    for draw in range(3):
        a, b = normal(OUT, 2, seed=2 * draw), normal(2, IN, seed=2 * draw + 1)
        layer.redraw(Factors(layer.merged_weight() - taken * 0.7 * a @ b, a, b), taken=taken)
        layer.a.add_(normal(OUT, 2, seed=draw + 10))  # training
        layer.b.add_(normal(2, IN, seed=draw + 20))
    update = total_update(layer).delta()
    torch.testing.assert_close(update, layer.merged_weight() - plain.weight, rtol=0, atol=1e-12)
    assert update.norm() > 1


@torch.no_grad()
def test_the_update_since_a_weight_is_known_while_the_residual_is_that_weight() -> None:
    plain = nn.Linear(IN, OUT, dtype=torch.float64)
    layer = LowRankLinear(plain, 2, scale=0.7)
    layer.a.copy_(normal(OUT, 2))
    layer.b.copy_(normal(2, IN, seed=1))
    update = layer.update_since(plain.weight)
    assert update is not None
    torch.testing.assert_close(update.delta(), layer.merged_weight() - plain.weight, rtol=0, atol=1e-12)
    layer.residual[0, 0] += 1
    assert layer.update_since(plain.weight) is None


def test_the_past_is_kept_in_float32_or_wider() -> None:
    a, b, past = normal(OUT, 2).bfloat16(), normal(2, IN, seed=1).bfloat16(), Past()
    past.add(a, b, 1 / 3)
    torch.testing.assert_close(past.parts[0].delta(), a.double() @ b.double() / 3, rtol=1e-5, atol=1e-6)


def test_an_update_of_nothing_is_zero() -> None:
    update = exact_update(Past(), torch.zeros(OUT, 2), normal(2, IN).float())
    assert update.rank == 2 and not update.delta().any()


@pytest.mark.parametrize("rank", [1, 3, 5, 7, 20])
@pytest.mark.parametrize("columns", [3, 12], ids=["fewer_columns_than_the_weight", "more"])
def test_compression_is_the_truncated_svd_and_its_error_is_measured(rank: int, columns: int) -> None:
    update = Update(normal(OUT, columns), normal(columns, IN, seed=1))
    found = compress(update, rank)
    left, values, right = torch.linalg.svd(update.delta(), full_matrices=False)
    best = (left[:, :rank] * values[:rank]) @ right[:rank]
    torch.testing.assert_close(found.update.delta(), best, rtol=0, atol=1e-12)
    missing = update.delta() - found.update.delta()
    assert found.update.rank <= min(rank, OUT, IN, columns)
    assert found.frobenius == pytest.approx(torch.linalg.matrix_norm(missing).item(), abs=1e-12)
    assert found.spectral == pytest.approx(torch.linalg.matrix_norm(missing, 2).item(), abs=1e-12)
    assert found.relative_frobenius == pytest.approx(
        found.frobenius / torch.linalg.matrix_norm(update.delta()).item(), abs=1e-12
    )
    assert found.relative_spectral == pytest.approx(found.spectral / values[0].item(), abs=1e-12)


def test_an_update_of_zeros_is_compressed_without_an_error() -> None:
    found = compress(Update(torch.zeros(OUT, 4), torch.zeros(4, IN)), 2)
    assert found.relative_frobenius == found.relative_spectral == 0 and not found.update.delta().any()


def test_bad_input_is_refused() -> None:
    update = Update(normal(OUT, 2), normal(2, IN))
    with pytest.raises(ValueError, match="at least 1"):
        compress(update, 0)
    with pytest.raises(ValueError, match="NaN or Inf"):
        compress(Update(update.a / 0, update.b), 1)
