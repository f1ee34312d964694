import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rosa_bench.tasks.regression.theory import (
    algorithm1,
    best_errors,
    best_update,
    error,
    iterates,
    optimum,
    projected,
    steps_needed,
)

# Singular values are 0 or in [0.5, 2], so that ranks and strict inequalities between errors are unambiguous.
SMALLEST, LARGEST = 0.5, 2.0


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64, generator=generator)).Q


def graded(rows: int, columns: int, rank: int, generator: torch.Generator) -> Tensor:
    """A matrix of this rank with distinct singular values and random directions."""
    values = torch.linspace(LARGEST, SMALLEST, rank, dtype=torch.float64)
    return orthonormal(rows, rank, generator) * values @ orthonormal(columns, rank, generator).mT


@dataclass(frozen=True)
class LeastSquaresProblem:
    """Built from its solution: ``Y = X W_0 + D + E``, D in the range of X with known rank, E orthogonal to it."""

    x: Tensor  # (n, d)
    w0: Tensor  # (d, p)
    y: Tensor  # (n, p)
    gap: Tensor  # D, (n, p)
    gap_rank: int
    least: float  # ||E||_F^2, the smallest error of any W
    rank: int  # R

    @property
    def data(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.x, self.w0, self.y

    @property
    def steps(self) -> int:
        return -(-self.gap_rank // self.rank)

    @property
    def tails(self) -> list[float]:
        """``sum_{i>R} sigma_i(D)^2`` for R = 0, 1, ..., min(d, p)."""
        squares = np.linalg.svd(self.gap.numpy(), compute_uv=False) ** 2
        return [float(squares[rank:].sum()) for rank in range(min(self.w0.shape) + 1)]


def problem(
    n: int, d: int, p: int, *, x_rank: int, gap_rank: int, rank: int, misfit: bool, seed: int = 0
) -> LeastSquaresProblem:
    generator = seeded(seed)
    everything = orthonormal(n, n, generator)
    inside, outside = everything[:, :x_rank], everything[:, x_rank:]
    x = inside @ graded(x_rank, d, x_rank, generator)
    w0 = torch.randn(d, p, dtype=torch.float64, generator=generator)
    gap = inside @ graded(x_rank, p, gap_rank, generator)
    amount = torch.randn(outside.shape[1], p, dtype=torch.float64, generator=generator) * misfit
    y = x @ w0 + gap + outside @ amount
    return LeastSquaresProblem(x, w0, y, gap, gap_rank, float(amount.square().sum()), rank)


@st.composite
def problems(draw: st.DrawFn) -> LeastSquaresProblem:
    """X tall, wide or square, of any rank; a gap of any rank, including 0; with or without a zero-error solution."""
    n, d, p = (draw(st.integers(1, 10)) for _ in range(3))
    x_rank = draw(st.integers(0, min(n, d)))
    return problem(
        n,
        d,
        p,
        x_rank=x_rank,
        gap_rank=draw(st.integers(0, min(x_rank, p))),
        rank=draw(st.integers(1, min(d, p))),
        misfit=draw(st.booleans()),
        seed=draw(st.integers(0, 999)),
    )


def fixed(rank: int = 2, *, n: int = 10, x_rank: int = 5, misfit: bool = True, seed: int = 0) -> LeastSquaresProblem:
    """One such problem: 6 x 7 weights and a gap of rank 5."""
    return problem(n, 6, 7, x_rank=x_rank, gap_rank=5, rank=rank, misfit=misfit, seed=seed)


def errors(case: LeastSquaresProblem, weights: list[Tensor]) -> list[float]:
    """Excess error of each weight over the optimum, computed with numpy."""
    x, y = case.x.numpy(), case.y.numpy()
    return [float(np.linalg.norm(x @ weight.numpy() - y) ** 2) - case.least for weight in weights]


def rank_of(matrix: Tensor) -> int:
    """Rank with a tolerance between rounding errors and these problems' singular values."""
    return int(np.linalg.matrix_rank(matrix.numpy(), tol=1e-9))


# The projection


@given(problems())
def test_projected_equals_numpys_least_squares_fit(case: LeastSquaresProblem) -> None:
    solution = np.linalg.lstsq(case.x.numpy(), case.y.numpy(), rcond=None)[0]
    np.testing.assert_allclose(projected(case.x, case.y), case.x.numpy() @ solution, rtol=0, atol=1e-12)
    assert optimum(case.x, case.y).item() == pytest.approx(case.least, rel=1e-12, abs=1e-24)


@given(problems())
def test_projected_is_an_orthogonal_projection_onto_the_range_of_x(case: LeastSquaresProblem) -> None:
    projection = projected(case.x, torch.eye(case.x.shape[0], dtype=torch.float64))
    torch.testing.assert_close(projection, projection.mT, rtol=0, atol=1e-13)
    torch.testing.assert_close(projection @ projection, projection, rtol=0, atol=1e-13)
    torch.testing.assert_close(projection @ case.x, case.x, rtol=0, atol=1e-13)
    assert projection.trace().item() == pytest.approx(rank_of(case.x), abs=1e-12)


@given(problems(), st.integers(0, 99))
def test_error_equals_numpys_norm_and_is_at_least_the_optimum(case: LeastSquaresProblem, seed: int) -> None:
    weight = drawn(*case.w0.shape, seed=seed)
    found = error(case.x, weight, case.y).item()
    assert found == pytest.approx(np.linalg.norm(case.x.numpy() @ weight.numpy() - case.y.numpy()) ** 2, rel=1e-12)
    assert found >= optimum(case.x, case.y).item() * (1 - 1e-12)


# LoRA: one update


@given(problems())
def test_the_best_update_attains_the_bound(case: LeastSquaresProblem) -> None:
    for rank in range(1, min(case.w0.shape) + 1):
        a, b = best_update(*case.data, rank)
        assert a.shape == (case.w0.shape[0], rank) and b.shape == (rank, case.w0.shape[1])
        found = float(np.linalg.norm((case.x @ (case.w0 + a @ b) - case.y).numpy()) ** 2)
        assert found == pytest.approx(case.least + case.tails[rank], rel=1e-9, abs=1e-20)


@given(problems())
def test_best_errors_equal_the_tail_sums_for_every_rank(case: LeastSquaresProblem) -> None:
    found = best_errors(*case.data)
    assert found.shape == (min(case.w0.shape) + 1,)
    expected = [case.least + tail for tail in case.tails]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-20)
    assert found[0].item() == pytest.approx(error(case.x, case.w0, case.y).item(), rel=1e-12, abs=1e-20)


@given(problems(), st.integers(0, 99))
def test_no_random_or_perturbed_update_is_below_the_bound(case: LeastSquaresProblem, seed: int) -> None:
    bound = case.least + case.tails[case.rank]
    best = best_update(*case.data, case.rank)
    generator = seeded(seed)
    for centre in (0.0, 1.0):
        for size in (1e-4, 1e-2, 1.0):
            a, b = (
                centre * factor + size * torch.randn(50, *factor.shape, dtype=torch.float64, generator=generator)
                for factor in best
            )
            found = (case.x @ (case.w0 + a @ b) - case.y).square().sum((-2, -1))
            assert found.min().item() >= bound * (1 - 1e-12) - 1e-20


def by_optimiser(case: LeastSquaresProblem, seed: int) -> float:
    """The error that LBFGS reaches over A and B from a random start."""
    d, p = case.w0.shape
    a, b = drawn(d, case.rank, seed=seed).requires_grad_(), drawn(case.rank, p, seed=seed + 100).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [a, b], max_iter=1000, tolerance_grad=1e-11, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = (case.x @ (case.w0 + a @ b) - case.y).square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return float(loss().detach())


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [fixed(rank=1), fixed(rank=3), fixed(rank=2, x_rank=6), fixed(rank=2, n=5), fixed(rank=2, misfit=False)],
    ids=["rank 1", "rank 3", "full column rank", "n < d", "zero error possible"],
)
def test_an_optimiser_over_a_and_b_converges_to_the_bound(case: LeastSquaresProblem) -> None:
    bound = best_errors(*case.data)[case.rank].item()
    found = [by_optimiser(case, seed) for seed in range(6)]
    assert min(found) >= bound * (1 - 1e-12)
    assert min(found) == pytest.approx(bound, rel=1e-6)


# ROSA: the theorem's steps


@given(problems())
def test_the_optimum_is_reached_after_exactly_t_steps(case: LeastSquaresProblem) -> None:
    assert steps_needed(*case.data, case.rank) == case.steps
    gains = errors(case, iterates(*case.data, case.rank, case.steps + 2))
    assert all(gain >= 0.99 * SMALLEST**2 for gain in gains[: case.steps])
    assert gains[case.steps :] == pytest.approx([0] * 3, abs=1e-11)


@given(problems())
def test_each_step_reduces_the_steps_needed_by_one(case: LeastSquaresProblem) -> None:
    weights = iterates(*case.data, case.rank, case.steps + 2)
    left = [steps_needed(case.x, weight, case.y, case.rank) for weight in weights]
    assert left == [*range(case.steps, 0, -1), 0, 0, 0]


@given(problems())
def test_each_step_has_low_rank_and_their_sum_does_not(case: LeastSquaresProblem) -> None:
    weights = iterates(*case.data, case.rank, case.steps + 1)
    assert torch.equal(weights[0], case.w0)
    for step in range(case.steps + 1):
        assert rank_of(weights[step + 1] - weights[step]) <= case.rank
        assert rank_of(weights[step + 1] - case.w0) == min((step + 1) * case.rank, case.gap_rank)


@given(problems())
def test_t_steps_of_rank_r_equal_one_step_of_rank_t_times_r(case: LeastSquaresProblem) -> None:
    gains = errors(case, iterates(*case.data, case.rank, min(case.w0.shape) // case.rank))
    assert gains == pytest.approx(case.tails[:: case.rank], rel=1e-9, abs=1e-11)


@given(problems(), st.integers(-30, 30), st.integers(-30, 30))
def test_steps_needed_do_not_depend_on_units(case: LeastSquaresProblem, inputs: int, outputs: int) -> None:
    x, w0, y = case.x * 10.0**inputs, case.w0 * 10.0 ** (outputs - inputs), case.y * 10.0**outputs
    assert steps_needed(x, w0, y, case.rank) == case.steps
    solution = torch.from_numpy(np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0])
    assert steps_needed(x, solution, y, case.rank) == 0


def test_a_small_gap_counts() -> None:
    case = fixed(rank=1)
    assert steps_needed(case.x, case.w0, case.x @ case.w0 + 1e-9 * case.gap, 1) == case.gap_rank == 5


def test_rounding_errors_do_not_count_as_a_gap() -> None:
    case = fixed(x_rank=5)  # of 6 columns: X does not see one direction of W
    solution = torch.from_numpy(np.linalg.lstsq(case.x.numpy(), case.y.numpy(), rcond=None)[0])
    unseen = torch.linalg.svd(case.x).Vh[5:].mT @ torch.ones(1, case.w0.shape[1], dtype=torch.float64)
    assert steps_needed(case.x, solution + 1e6 * unseen, case.y, 1) == 0


def test_the_papers_rank_is_larger_if_no_solution_has_zero_error() -> None:
    # X covers only the first of two rows; no weight can explain the second.
    x, w0 = torch.tensor([[1.0], [0.0]]), torch.zeros(1, 2)
    y = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert rank_of(x @ w0 - y) == 2
    assert steps_needed(x, w0, y, 1) == 1
    assert [error(x, weight, y).item() for weight in iterates(x, w0, y, 1, 2)] == [2, 1, 1]

    case = problem(12, 4, 9, x_rank=4, gap_rank=2, rank=1, misfit=True)
    assert rank_of(case.x @ case.w0 - case.y) == 9
    assert steps_needed(*case.data, 1) == 2


@given(problems())
def test_the_papers_rank_is_an_upper_bound_and_exact_for_zero_error(case: LeastSquaresProblem) -> None:
    printed = math.ceil(rank_of(case.x @ case.w0 - case.y) / case.rank)
    assert steps_needed(*case.data, case.rank) <= printed
    if case.least == 0:
        assert steps_needed(*case.data, case.rank) == printed


# Algorithm 1


@given(problems(), st.sampled_from(["random", "block", "top", "bottom"]))
def test_the_error_of_algorithm_1_never_increases(case: LeastSquaresProblem, select: str) -> None:
    weights = algorithm1(*case.data, case.rank, 5, select=select, generator=seeded())
    for before, after in pairwise(errors(case, weights)):
        assert after <= before + 1e-10
    # Nor does any singular value of the gap, and hence its rank.
    solution = np.linalg.lstsq(case.x.numpy(), case.y.numpy(), rcond=None)[0]
    gaps = [np.linalg.svd(case.x.numpy() @ (solution - weight.numpy()), compute_uv=False) for weight in weights]
    for before, after in pairwise(gaps):
        assert (after <= before + 1e-10).all()


@given(problems(), st.sampled_from(["zero", "svd_add"]))
def test_algorithm_1_equals_the_theorem_if_nothing_is_removed(case: LeastSquaresProblem, init: str) -> None:
    weights = algorithm1(*case.data, case.rank, case.steps + 1, init=init, generator=seeded())
    assert errors(case, weights)[: case.steps + 1] == pytest.approx(
        [case.tails[min(step * case.rank, len(case.tails) - 1)] for step in range(case.steps + 1)], rel=1e-9, abs=1e-11
    )


@given(problems())
def test_a_step_of_algorithm_1_restores_directions_and_removes_the_best_from_the_gap(case: LeastSquaresProblem) -> None:
    # With numpy only: W's largest directions A_0 B_0, and D + X A_0 B_0 minus its R largest components.
    x, solution = case.x.numpy(), np.linalg.lstsq(case.x.numpy(), case.y.numpy(), rcond=None)[0]
    for before, after in pairwise(algorithm1(*case.data, case.rank, 3, select="top")):
        left, values, right = np.linalg.svd(before.numpy(), full_matrices=False)
        taken_out = left[:, : case.rank] * values[: case.rank] @ right[: case.rank]
        widened = np.linalg.svd(x @ (solution - before.numpy() + taken_out), compute_uv=False)
        expected = float((widened[case.rank :] ** 2).sum())
        assert errors(case, [after]) == pytest.approx([expected], rel=1e-6, abs=1e-9)


def test_a_step_of_algorithm_1_may_change_nothing() -> None:
    # The example in the module's docstring: the gap is diag(0, 0.5).
    x, w0, y = torch.eye(2), torch.diag(torch.tensor([3.0, 2.0])), torch.diag(torch.tensor([3.0, 2.5]))
    assert steps_needed(x, w0, y, 1) == 1
    assert [error(x, weight, y).item() for weight in iterates(x, w0, y, 1, 1)] == pytest.approx([0.25, 0])
    # If diag(3, 0) is removed, the best rank-1 update is to put it back.
    for weight in algorithm1(x, w0, y, 1, 5, select="top"):
        torch.testing.assert_close(weight, w0.double())
    # If diag(0, 2) is removed, the remainder has rank 1.
    assert error(x, algorithm1(x, w0, y, 1, 1, select="bottom")[-1], y).item() == pytest.approx(0)


@pytest.mark.parametrize("seed", range(4))
def test_algorithm_1_needs_more_than_t_steps(seed: int) -> None:
    case = fixed(seed=seed)
    steps = steps_needed(*case.data, case.rank)
    gains = errors(case, algorithm1(*case.data, case.rank, 60, generator=seeded(seed)))
    assert steps == 3
    assert gains[steps] > 1e-3 * gains[0]
    assert gains[-1] < 1e-9 * gains[0]


def test_the_rank_of_algorithm_1s_gap_need_not_decrease() -> None:
    case = problem(10, 6, 7, x_rank=5, gap_rank=3, rank=1, misfit=True)
    target = case.x @ case.w0 + case.gap

    def ranks(weights: list[Tensor]) -> list[int]:
        return [rank_of(target - case.x @ weight) for weight in weights]

    assert ranks(iterates(*case.data, 1, 4)) == [3, 2, 1, 0, 0]
    assert ranks(algorithm1(*case.data, 1, 4, generator=seeded())) == [3, 3, 3, 3, 3]


def test_algorithm_1_depends_only_on_the_generator() -> None:
    case = fixed()
    state = torch.get_rng_state()
    first, second, other = (algorithm1(*case.data, 2, 2, generator=seeded(seed))[-1] for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.allclose(first, other)
    assert torch.equal(torch.get_rng_state(), state)


# Shapes, dtypes and errors


def test_batched_results_equal_single_ones() -> None:
    cases = [fixed(x_rank=x_rank, misfit=misfit, seed=x_rank) for x_rank in (5, 6) for misfit in (True, False)]
    x, w0, y = (torch.stack(parts).unflatten(0, (2, 2)) for parts in zip(*(case.data for case in cases), strict=True))

    def check(together: Tensor, alone: list[Tensor]) -> None:
        torch.testing.assert_close(together.flatten(0, 1), torch.stack(alone), rtol=1e-10, atol=1e-10)

    check(error(x, w0, y), [error(*case.data) for case in cases])
    check(projected(x, y), [projected(case.x, case.y) for case in cases])
    check(optimum(x, y), [optimum(case.x, case.y) for case in cases])
    check(best_errors(x, w0, y), [best_errors(*case.data) for case in cases])
    # The sign of a direction is arbitrary; the product is not.
    a, b = best_update(x, w0, y, 2)
    check(a @ b, [torch.matmul(*best_update(*case.data, 2)) for case in cases])
    check(iterates(x, w0, y, 2, 2)[-1], [iterates(*case.data, 2, 2)[-1] for case in cases])
    check(
        algorithm1(x, w0, y, 2, 2, select="top")[-1],
        [algorithm1(*case.data, 2, 2, select="top")[-1] for case in cases],
    )


def test_everything_is_computed_in_float64() -> None:
    case = fixed()
    x, w0, y = (part.float() for part in case.data)
    wide = (x.double(), w0.double(), y.double())
    for found, expected in [
        (error(x, w0, y), error(*wide)),
        (projected(x, y), projected(wide[0], wide[2])),
        (optimum(x, y), optimum(wide[0], wide[2])),
        (best_errors(x, w0, y), best_errors(*wide)),
        (best_update(x, w0, y, 2).a, best_update(*wide, 2).a),
        (iterates(x, w0, y, 2, 2)[-1], iterates(*wide, 2, 2)[-1]),
        (algorithm1(x, w0, y, 2, 2, select="top")[-1], algorithm1(*wide, 2, 2, select="top")[-1]),
    ]:
        assert found.dtype == torch.float64 and torch.equal(found, expected)
    assert steps_needed(x, w0, y, 2) == steps_needed(*wide, 2)


@pytest.mark.parametrize("rank", [-1, 0, 4])
@pytest.mark.parametrize(("d", "p"), [(3, 7), (7, 3)])
def test_rank_out_of_range_is_an_error(d: int, p: int, rank: int) -> None:
    x, w0, y = torch.ones(9, d), torch.ones(d, p), torch.ones(9, p)
    message = rf"rank {rank} does not fit a {d} x {p} weight.* 1\.\.3"
    with pytest.raises(ValueError, match=message):
        best_update(x, w0, y, rank)
    with pytest.raises(ValueError, match=message):
        steps_needed(x, w0, y, rank)
    with pytest.raises(ValueError, match=message):
        iterates(x, w0, y, rank, 1)
    with pytest.raises(ValueError, match=rf"rank {rank} does not fit"):  # factorize gets the transpose
        algorithm1(x, w0, y, rank, 1)
