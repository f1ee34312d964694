"""Laws of an update's factors: they are the change of the weight, and a smaller rank is the truncated SVD."""

import pytest
import torch
from torch import Tensor, nn

from rosa_bench.layers.exact import Update, compress
from rosa_bench.layers.low_rank import LowRankLinear

OUT, IN = 9, 7


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
    assert found.relative_frobenius == pytest.approx(
        found.frobenius / torch.linalg.matrix_norm(update.delta()).item(), abs=1e-12
    )


def test_an_update_of_zeros_is_compressed_without_an_error() -> None:
    found = compress(Update(torch.zeros(OUT, 4), torch.zeros(4, IN)), 2)
    assert found.relative_frobenius == 0 and not found.update.delta().any()


def test_bad_input_is_refused() -> None:
    update = Update(normal(OUT, 2), normal(2, IN))
    with pytest.raises(ValueError, match="at least 1"):
        compress(update, 0)
    with pytest.raises(ValueError, match="NaN or Inf"):
        compress(Update(update.a / 0, update.b), 1)
