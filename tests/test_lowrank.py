import math
from collections import Counter
from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from scipy.stats import chisquare, kstest
from torch import Tensor

from rosa_bench.lowrank import (
    INITS,
    SELECTIONS,
    SINGULAR,
    Solver,
    Triplets,
    by_batched_svd,
    by_gram_matrix,
    factorize,
    is_exact,
    leading_basis,
    merge,
    project,
    random_basis,
    select_indices,
    singular_triplets,
    solvers,
    stacks,
    truncate,
)

SHAPES = [(12, 5), (5, 12), (8, 8), (1, 6), (6, 1), (1, 1)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=seeded(seed))


@st.composite
def weights(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Draw a stack of weights of any shape, true rank, scale and type, and a rank to factorise them with."""
    batch = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    rows, columns = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    true_rank = draw(st.integers(0, min(rows, columns)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    generator = seeded(draw(st.integers(0, 999)))
    left = torch.randn(*batch, rows, true_rank, dtype=dtype, generator=generator)
    right = torch.randn(*batch, true_rank, columns, dtype=dtype, generator=generator)
    return left @ right * 10.0 ** draw(st.integers(-6, 6)), draw(st.integers(1, min(rows, columns)))


def assert_same_matrix(found: Tensor, weight: Tensor, a: Tensor, b: Tensor) -> None:
    """``found`` is ``weight`` up to the rounding of ``(weight - a b) + a b``, element by element.

    The bound is the textbook one (Higham, Accuracy and Stability of Numerical Algorithms, section 3.5): each of the two
    products errs by r eps |a| |b|, each of the two sums by eps times the largest number in it.
    """
    rank = a.shape[-1]
    size = a.abs() @ b.abs()
    bound = torch.finfo(weight.dtype).eps * (2 * rank * size + 2 * (weight.abs() + size))
    assert ((found - weight).abs() <= bound).all()


# Laws


@given(weights(), st.sampled_from(SELECTIONS), st.integers(0, 99))
def test_merge_inverts_factorize(case: tuple[Tensor, int], select: str, seed: int) -> None:
    weight, rank = case
    residual, a, b = factorize(weight, rank, select=select, generator=seeded(seed))
    assert residual.dtype == a.dtype == b.dtype == weight.dtype
    assert_same_matrix(merge(residual, a, b), weight, a, b)


@given(weights(), st.sampled_from(SELECTIONS), st.sampled_from(["svd", "svd_add", "zero"]))
def test_rows_of_b_are_orthonormal_for_weights_of_any_rank(case: tuple[Tensor, int], select: str, init: str) -> None:
    weight, rank = case
    _, a, b = factorize(weight, rank, select=select, init=init, generator=seeded())
    assert a.shape == (*weight.shape[:-1], rank)
    identity = torch.eye(rank, dtype=weight.dtype).expand(*weight.shape[:-2], rank, rank)
    eps = torch.finfo(weight.dtype).eps
    torch.testing.assert_close(b @ b.mT, identity, rtol=0, atol=20 * eps)


@given(weights(), st.sampled_from(SELECTIONS), st.integers(0, 99))
def test_balanced_factors_split_each_singular_value_evenly(case: tuple[Tensor, int], select: str, seed: int) -> None:
    weight, rank = case
    _, a, b = factorize(weight, rank, select=select, generator=seeded(seed))
    residual, left, right = factorize(weight, rank, select=select, init="balanced", generator=seeded(seed))
    assert torch.isfinite(left).all() and torch.isfinite(right).all()  # whatever the weight's rank
    assert_same_matrix(merge(residual, left, right), weight, left, right)
    eps = torch.finfo(weight.dtype).eps
    largest = torch.linalg.matrix_norm(weight.double(), 2).max().item()
    torch.testing.assert_close(left @ right, a @ b, rtol=0, atol=1e3 * eps * largest)
    # A null direction's column of A is rounding alone, so A^T A is diagonal only to half of the digits.
    torch.testing.assert_close(left.mT @ left, right @ right.mT, rtol=0, atol=10 * eps**0.5 * largest)


def test_balanced_factors_against_lapack() -> None:
    weight = drawn(9, 6)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    _, a, b = factorize(weight, 3, select="top", init="balanced")
    sign = (b @ right[:3].mT).diagonal().sign()
    torch.testing.assert_close(a, sign * left[:, :3] * values[:3].sqrt(), rtol=0, atol=1e-9)
    torch.testing.assert_close(b, (sign * values[:3].sqrt()).unsqueeze(-1) * right[:3], rtol=0, atol=1e-9)


def test_a_null_direction_of_balanced_factors_is_zero_and_not_nan() -> None:
    _, a, b = factorize(torch.zeros(4, 3), 2, init="balanced", generator=seeded())
    assert not a.any() and not b.any()


@pytest.mark.parametrize("init", ["svd", "zero"])
@given(weights(), st.integers(0, 99))
def test_a_split_along_any_basis_is_exact(init: str, case: tuple[Tensor, int], seed: int) -> None:
    weight, rank = case
    *batch, _, columns = weight.shape
    basis = random_basis(batch, columns, rank, generator=seeded(seed))
    eye = torch.eye(rank, dtype=torch.float64).expand(*batch, rank, rank)
    torch.testing.assert_close(basis @ basis.mT, eye, rtol=0, atol=1e-13)
    residual, a, b = project(weight, basis, init=init)
    assert residual.dtype == a.dtype == b.dtype == weight.dtype
    assert_same_matrix(merge(residual, a, b), weight, a, b)
    if init == "zero":
        assert not a.any()
    else:  # nothing of the weight is left in the subspace
        scale = torch.finfo(weight.dtype).eps * max(weight.abs().max().item(), 1e-30)
        assert (residual @ b.mT).abs().max() <= 1e3 * scale


def test_random_bases_do_not_depend_on_how_weights_are_batched() -> None:
    generator = seeded(3)
    together = random_basis((5,), 7, 2, generator=seeded(3))
    apart = torch.cat([random_basis((count,), 7, 2, generator=generator) for count in (2, 1, 2)])
    assert torch.equal(together, apart)


def test_random_bases_are_uniform() -> None:
    basis = random_basis((20_000,), 4, 1, generator=seeded())  # a first coordinate of t has t^2 ~ Beta(1/2, 3/2)
    assert kstest(basis[:, 0, 0].square().numpy(), "beta", args=(0.5, 1.5)).pvalue > 0.01


def test_the_leading_basis_is_lapacks() -> None:
    matrix = drawn(3, 6, 9)
    right = torch.linalg.svd(matrix, full_matrices=False).Vh[:, :2]
    found = leading_basis(matrix, 2)
    torch.testing.assert_close(found.mT @ found, right.mT @ right, rtol=0, atol=1e-9)


@pytest.mark.parametrize("init", ["svd_add", "balanced", "kaiming"])
def test_a_given_basis_has_no_singular_values(init: str) -> None:
    with pytest.raises(ValueError, match="needs singular directions"):
        project(drawn(3, 3), random_basis((), 3, 1), init=init)
    with pytest.raises(ValueError, match="NaN or Inf"):
        project(torch.full((3, 3), math.nan), random_basis((), 3, 1))


@pytest.mark.parametrize("select", SELECTIONS)
@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (8, 8), (1, 6), (6, 1)])
def test_factors_are_singular_triplets(shape: tuple[int, int], select: str) -> None:
    weight = drawn(*shape)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    for rank in range(1, min(shape) + 1):
        _, a, b = factorize(weight, rank, select=select, generator=seeded(rank))
        match = b @ right.mT  # (r, all): +-1 where a row of b is that singular vector, 0 elsewhere
        chosen = match.abs().argmax(-1)
        sign = match.gather(-1, chosen.unsqueeze(-1)).sign()
        assert chosen.tolist() == sorted(set(chosen.tolist()))  # largest first, without repetition
        torch.testing.assert_close(b, sign * right[chosen], rtol=0, atol=1e-9)
        torch.testing.assert_close(a, sign.mT * left[:, chosen] * values[chosen], rtol=0, atol=1e-9)


@pytest.mark.parametrize("rank", [1, 3, 6])
@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (6, 6)])
def test_top_is_the_best_approximation_and_bottom_the_worst(shape: tuple[int, int], rank: int) -> None:
    weight = drawn(*shape)
    values = torch.linalg.svdvals(weight)
    none = torch.zeros(rank, dtype=weight.dtype)
    # Eckart-Young: removing the r largest leaves the others, so the spectral norm is the (r+1)-th value.
    residual = factorize(weight, rank, select="top").residual
    torch.testing.assert_close(torch.linalg.svdvals(residual), torch.cat([values[rank:], none]), rtol=0, atol=1e-9)
    residual = factorize(weight, rank, select="bottom").residual
    torch.testing.assert_close(torch.linalg.svdvals(residual), torch.cat([values[:-rank], none]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("select", SELECTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_full_rank_leaves_no_residual(shape: tuple[int, int], select: str) -> None:
    weight = drawn(*shape, dtype=torch.float32)
    residual, a, b = factorize(weight, min(shape), select=select, generator=seeded())
    # Only rounding keeps the residual from zero: first of a and b to float32, then of their product.
    bound = 10 * min(shape) * torch.finfo(torch.float32).eps * torch.linalg.matrix_norm(weight, 2)
    assert residual.abs().max() <= bound
    assert_same_matrix(merge(residual, a, b), weight, a, b)


@pytest.mark.parametrize("shape", SHAPES)
def test_zero_weight(shape: tuple[int, int]) -> None:
    weight = torch.zeros(shape)
    residual, a, b = factorize(weight, 1, select="random", generator=seeded())
    assert not residual.any() and not a.any()
    assert torch.linalg.vector_norm(b).item() == pytest.approx(1)


@pytest.mark.parametrize("shape", [(9, 6), (6, 9)])
def test_top_directions_capture_all_of_a_rank_deficient_weight(shape: tuple[int, int]) -> None:
    weight = drawn(shape[0], 2) @ drawn(2, shape[1], seed=1)
    assert factorize(weight, 2, select="top").residual.abs().max() < 1e-12
    # The bottom directions hold nothing: their singular values are at most the square root of rounding.
    assert factorize(weight, 4, select="bottom").a.abs().max() < 1e-6


def graded(values: list[float], rows: int, columns: int) -> Tensor:
    """Return a float64 weight with these singular values and random directions."""
    count = len(values)
    left, right = (torch.linalg.qr(drawn(size, count, seed=size)).Q for size in (rows, columns))
    return left * torch.tensor(values, dtype=torch.float64) @ right.mT


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (6, 6)])
def test_small_directions_of_a_float32_weight_are_found(shape: tuple[int, int]) -> None:
    # In float32 a Gram matrix rounds at 6e-8, far above the square of the last singular value.
    weight = graded([1, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5], *shape).float()
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    _, a, b = factorize(weight, 1, select="bottom")
    sign = (b.double() @ right[-1]).sign()
    torch.testing.assert_close(b.double(), sign * right[-1:], rtol=0, atol=1e-4)
    torch.testing.assert_close(a.double(), sign * left[:, -1:] * values[-1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (6, 6)])
def test_the_residual_is_zero_along_the_chosen_directions(shape: tuple[int, int]) -> None:
    # The last three are as small as rounding in the Gram matrix: orthonormal, but no longer singular vectors.
    weight = graded([1, 0.5, 0.2, 1e-8, 0.9e-8, 0.8e-8], *shape)
    residual, a, b = factorize(weight, 3, select="bottom")
    projection = torch.linalg.qr(a).Q.mT @ residual if shape[0] < shape[1] else residual @ b.mT
    assert projection.abs().max() < 1e-14


@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_svd_add_and_zero_keep_the_weight_and_the_same_directions(shape: tuple[int, int]) -> None:
    weight = drawn(3, *shape, dtype=torch.float32)
    split, added, zero = (factorize(weight, 2, init=init, generator=seeded()) for init in ("svd", "svd_add", "zero"))
    assert torch.equal(added.residual, weight) and torch.equal(zero.residual, weight)
    assert torch.equal(added.a, split.a) and not zero.a.any()
    assert torch.equal(added.b, split.b) and torch.equal(zero.b, split.b)
    assert torch.equal(merge(*zero), weight)
    torch.testing.assert_close(merge(*added), weight + (weight - split.residual))


@pytest.mark.parametrize("init", INITS)
def test_factors_share_no_memory_with_the_weight_and_leave_it_unchanged(init: str) -> None:
    weight = drawn(5, 4)
    before, address = weight.clone(), weight.untyped_storage().data_ptr()
    factors = factorize(weight, 2, init=init, generator=seeded())
    for factor in factors:
        assert factor.untyped_storage().data_ptr() != address
        factor.fill_(7)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("shape", [(9, 6), (6, 9)])
def test_a_stack_gives_the_same_factors_as_separate_weights(shape: tuple[int, int]) -> None:
    stack = drawn(2, 3, *shape)
    together = factorize(stack, 2, select="top")
    alone = [factorize(weight, 2, select="top") for weight in stack.flatten(0, 1)]
    torch.testing.assert_close(together.residual.flatten(0, 1), torch.stack([one.residual for one in alone]))
    # A direction's sign is arbitrary, but the product's is not.
    torch.testing.assert_close((together.a @ together.b).flatten(0, 1), torch.stack([one.a @ one.b for one in alone]))


def test_the_memory_layout_of_a_weight_does_not_matter() -> None:
    weight = drawn(9, 6)
    transposed = weight.mT.contiguous().mT  # as in GPT-2's Conv1D
    for found, expected in zip(factorize(transposed, 3, select="top"), factorize(weight, 3, select="top"), strict=True):
        torch.testing.assert_close(found, expected)


# Solvers


SOLVERS = [by_gram_matrix, by_batched_svd]
TALL, WIDE, SQUARE = (9, 6), (6, 9), (6, 6)


def reference(weight: Tensor, chosen: Tensor) -> Triplets:
    """Use torch's exact SVD, one matrix at a time."""
    found = []
    for one, places in zip(weight.reshape(-1, *weight.shape[-2:]), chosen.reshape(-1, chosen.shape[-1]), strict=True):
        left, values, right = torch.linalg.svd(one.double(), full_matrices=False)
        found.append((left[:, places] * values[places], right[places], values[0]))
    a, b, largest = (torch.stack(parts).unflatten(0, weight.shape[:-2] or (1,)) for parts in zip(*found, strict=True))
    return Triplets(a, b, largest) if weight.ndim > 2 else Triplets(a[0], b[0], largest[0])


def rotated(rows: Tensor, angle: float) -> Tensor:
    """Rotate the first two rows in their plane, which keeps orthonormal rows orthonormal."""
    first, second = rows[..., 0, :], rows[..., 1, :]
    turned = torch.stack([math.cos(angle) * first + math.sin(angle) * second,
                          math.cos(angle) * second - math.sin(angle) * first], -2)  # fmt: skip
    return torch.cat([turned, rows[..., 2:, :]], -2)


def all_of(weight: Tensor) -> Tensor:
    """Return the indices of all singular directions of each weight."""
    return torch.arange(min(weight.shape[-2:])).expand(*weight.shape[:-2], -1)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("batch", [(), (3,), (2, 2)], ids=str)
@pytest.mark.parametrize("shape", [TALL, WIDE, SQUARE], ids=["tall", "wide", "square"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_solver_finds_the_same_triplets_as_torch(
    solver: Solver, batch: tuple[int, ...], shape: tuple[int, int], dtype: torch.dtype
) -> None:
    weight = drawn(*batch, *shape, dtype=dtype)
    chosen = select_indices(batch, min(shape), 3, generator=seeded(4))
    found, expected = solver(weight, chosen), reference(weight, chosen)
    torch.testing.assert_close(found.largest, expected.largest, rtol=0, atol=1e-9)
    signs = (found.b * expected.b).sum(-1, keepdim=True)  # a direction's sign is arbitrary
    torch.testing.assert_close(signs.abs(), torch.ones_like(signs), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.b, signs.sign() * expected.b, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.a, signs.sign().mT * expected.a, rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
@given(weights())
def test_each_solver_is_exact_for_weights_of_any_rank(solver: Solver, case: tuple[Tensor, int]) -> None:
    weight, rank = case
    rows, columns = weight.shape[-2:]
    if solver is by_gram_matrix and rows < columns:
        # b is computed from left singular vectors, and W^T u = 0 u, so any orthonormal direction can be a null one.
        assume((torch.linalg.matrix_rank(weight) == rows).all())
    chosen = select_indices(weight.shape[:-2], min(rows, columns), rank, generator=seeded())
    exact = is_exact(weight, solver(weight, chosen))
    assert exact.shape == weight.shape[:-2]
    assert exact.all()


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [TALL, WIDE, (300, 200)], ids=str)
def test_gpu_solvers_agree_with_cpu_solvers(shape: tuple[int, int]) -> None:
    weight = drawn(4, *shape)
    chosen = select_indices((4,), min(shape), 3, generator=seeded(4))
    found = singular_triplets(weight.cuda(), chosen.cuda(), solvers(weight.cuda()))
    assert is_exact(weight.cuda(), found).all()
    expected = reference(weight, chosen)
    torch.testing.assert_close((found.a @ found.b).cpu(), expected.a @ expected.b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [TALL, WIDE, SQUARE], ids=["tall", "wide", "square"])
def test_rows_that_are_not_orthonormal_are_not_exact(shape: tuple[int, int]) -> None:
    weight = drawn(3, *shape)
    exact = reference(weight, all_of(weight))
    assert is_exact(weight, exact).all()
    twice = exact.b.clone()
    twice[1, 1] = twice[1, 0]  # each is still a singular direction
    assert is_exact(weight, exact._replace(b=twice)).tolist() == [True, False, True]
    longer = exact.b.clone()
    longer[2] *= 1 + 1e-4
    assert is_exact(weight, exact._replace(b=longer)).tolist() == [True, True, False]


@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [0.0, 0.5, 0.0], [-0.6, 0.8, 0.0]])
def test_null_vectors_of_another_length_or_direction_are_not_exact(row: list[float]) -> None:
    weight = torch.zeros(2, 3, 3)
    rows = torch.eye(2, 3).repeat(2, 1, 1)
    rows[1, 1] = torch.tensor(row)
    found = Triplets(torch.zeros(2, 3, 2), rows, torch.zeros(2))
    assert is_exact(weight, found).tolist() == [True, False]


@pytest.mark.parametrize("shape", [TALL, WIDE, SQUARE], ids=["tall", "wide", "square"])
@pytest.mark.parametrize("angle", [1e-7, 1e-5, 5e-5, 2e-4, 1e-3, 0.1, 1.0])
def test_rotated_directions_are_exact_only_if_both_equations_hold(shape: tuple[int, int], angle: float) -> None:
    weight = graded([1, 0.5, 0.2, 0.1, 0.05, 0.01], *shape)
    exact = reference(weight, all_of(weight))
    turned = rotated(exact.b, angle)
    a = weight @ turned.mT
    values = torch.linalg.vector_norm(a, dim=0)
    # W v = s u holds by definition of u. The error in W^T u = s v measures how far the triplet is from singular.
    error = torch.linalg.vector_norm(weight.mT @ (a / values) - values * turned.mT, dim=0).max() / exact.largest
    assert not 0.9 * SINGULAR < error < 1.1 * SINGULAR  # otherwise rounding would decide
    assert is_exact(weight, exact._replace(a=a, b=turned)).item() == bool(error < SINGULAR)


@pytest.mark.parametrize("values", [[1, 0.5, 0.2, 0, 0, 0], [1, 0.5, 0.2, 1e-7, 1e-8, 0], [3, 2, 1, 1, 1, 1], [0] * 6],
                         ids=["null", "nearly_null", "equal", "zero"])  # fmt: skip
@pytest.mark.parametrize("shape", [TALL, WIDE, SQUARE], ids=["tall", "wide", "square"])
def test_any_basis_of_null_or_equal_directions_is_exact(shape: tuple[int, int], values: list[float]) -> None:
    weight = graded(values, *shape)
    exact = reference(weight, all_of(weight))
    turned = torch.cat([exact.b[:3], rotated(exact.b[3:], 0.7)])
    assert is_exact(weight, exact._replace(b=turned))
    # Mixed with a direction of another value they are no longer singular, unless all values are equal.
    mixed = torch.cat([exact.b[:2], rotated(exact.b[2:], 0.7)])
    assert is_exact(weight, exact._replace(b=mixed)).item() == (values[2] == values[3])


def spoiling(numbers: list[int], how: Callable[[Tensor], Tensor]) -> Solver:
    """Return a solver that is correct except for these weights of a stack, whose directions it corrupts."""

    def solver(weight: Tensor, chosen: Tensor) -> Triplets:
        _, b, largest = reference(weight, chosen)
        stack = b.reshape(-1, *b.shape[-2:])
        stack[numbers] = how(stack[numbers])
        return Triplets(weight.double() @ b.mT, b, largest)

    return solver


class Noting:
    """A correct solver that records the weights it is given."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def __call__(self, weight: Tensor, chosen: Tensor) -> Triplets:
        self.given.append(weight)
        return reference(weight, chosen)


SPOILT: dict[str, Callable[[Tensor], Tensor]] = {
    "turned": lambda rows: rotated(rows, 0.3),
    "not_orthonormal": lambda rows: 2 * rows,
    "not_numbers": lambda rows: rows * math.nan,
}


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize(("batch", "wrong"), [((), [0]), ((1,), [0]), ((4,), [2]), ((4,), [0, 3]), ((2, 2), [1, 2])],
                         ids=str)  # fmt: skip
@pytest.mark.parametrize("shape", [TALL, WIDE], ids=["tall", "wide"])
def test_the_next_solver_redoes_only_inexact_weights(
    shape: tuple[int, int], batch: tuple[int, ...], wrong: list[int], how: str
) -> None:
    weight = drawn(*batch, *shape)
    chosen = select_indices(batch, min(shape), 3, generator=seeded(4))
    following = Noting()
    found = singular_triplets(weight, chosen, [spoiling(wrong, SPOILT[how]), following])
    [given_weights] = following.given
    assert torch.equal(given_weights, weight.reshape(-1, *shape)[wrong])
    for part, expected in zip(found, reference(weight, chosen), strict=True):
        torch.testing.assert_close(part, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
def test_the_next_solver_is_not_called_if_the_first_is_exact(batch: tuple[int, ...]) -> None:
    weight = drawn(*batch, *TALL)
    first, following = Noting(), Noting()
    found = singular_triplets(weight, all_of(weight), [first, following])
    assert len(first.given) == 1 and not following.given
    torch.testing.assert_close(found, reference(weight, all_of(weight)))


def test_solvers_are_tried_in_order_and_the_last_is_trusted() -> None:
    weight = drawn(3, *TALL)
    # Indices count the weights that a solver is given: the second one's first weight is the first one's second.
    bad = spoiling([0], SPOILT["turned"])
    last = Noting()
    singular_triplets(weight, all_of(weight), [spoiling([1, 2], SPOILT["turned"]), bad, last])
    [given_weights] = last.given
    assert torch.equal(given_weights, weight[1:2])
    alone = singular_triplets(weight, all_of(weight), [bad])
    torch.testing.assert_close(alone.b[0], rotated(reference(weight, all_of(weight)).b[0], 0.3))


def test_a_failed_solver_passes_everything_to_the_next_and_the_last_raises() -> None:
    def failing(weight: Tensor, chosen: Tensor) -> Triplets:
        torch.linalg.cholesky(-torch.eye(2))
        raise AssertionError

    weight = drawn(3, *TALL)
    following = Noting()
    found = singular_triplets(weight, all_of(weight), [failing, following])
    [given_weights] = following.given
    assert torch.equal(given_weights, weight)
    torch.testing.assert_close(found, reference(weight, all_of(weight)))
    with pytest.raises(RuntimeError, match="cholesky"):
        singular_triplets(weight, all_of(weight), [failing])


# Selection of directions


def test_the_draw_depends_only_on_the_generator() -> None:
    weight = drawn(20, 8, 8)
    state = torch.get_rng_state()
    first, second, other = (factorize(weight, 3, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.b, second.b) and torch.equal(first.a, second.a)
    assert not torch.equal(first.b, other.b)
    assert torch.equal(torch.get_rng_state(), state)


def test_random_draws_every_subset_equally_often() -> None:
    count, rank, draws = 6, 2, 15_000
    chosen = select_indices((draws,), count, rank, select="random", generator=seeded())
    seen = Counter(map(tuple, chosen.tolist()))
    subsets = list(combinations(range(count), rank))  # sorted, without repetition
    assert set(seen) == set(subsets)
    assert (
        chisquare([seen[subset] for subset in subsets]).pvalue > 1e-4
    )  # the seed is fixed, so this fails always or never


def test_a_seed_draws_the_directions_that_it_drew_in_recorded_runs() -> None:
    chosen = select_indices((2,), 20, 4, select="random", generator=seeded())
    assert chosen.tolist() == [[6, 9, 11, 17], [0, 2, 12, 13]]
    starts = select_indices((4,), 20, 4, select="block", generator=seeded())[:, 0]
    assert starts.tolist() == [12, 15, 5, 0]


@pytest.mark.parametrize(("count", "rank"), [(6, 1), (6, 2), (6, 5)])
def test_block_draws_every_consecutive_run_except_the_last(count: int, rank: int) -> None:
    # The authors' code: start = randint(0, count - rank), which excludes the upper bound.
    chosen = select_indices((6_000,), count, rank, select="block", generator=seeded())
    seen = Counter(map(tuple, chosen.tolist()))
    runs = [tuple(range(start, start + rank)) for start in range(count - rank)]
    assert set(seen) == set(runs)
    assert len(runs) == 1 or chisquare([seen[run] for run in runs]).pvalue > 1e-4


@pytest.mark.parametrize("select", SELECTIONS)
def test_all_directions_can_be_chosen(select: str) -> None:
    assert select_indices((2,), 4, 4, select=select, generator=seeded()).tolist() == [[0, 1, 2, 3]] * 2


def test_top_and_bottom_are_the_first_and_the_last() -> None:
    assert select_indices((2,), 5, 2, select="top").tolist() == [[0, 1]] * 2
    assert select_indices((), 5, 2, select="bottom").tolist() == [3, 4]


# Invalid arguments


@pytest.mark.parametrize("rank", [-1, 0, 4, 7])
@pytest.mark.parametrize("shape", [(3, 7), (7, 3)])
def test_rank_out_of_range(shape: tuple[int, int], rank: int) -> None:
    with pytest.raises(ValueError, match=rf"rank {rank} does not fit a {shape[0]} x {shape[1]} weight.* 1\.\.3"):
        factorize(torch.ones(shape), rank)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_finite(bad: float) -> None:
    weight = torch.ones(2, 3, 3)
    weight[1, 2, 0] = bad
    with pytest.raises(ValueError, match="NaN or Inf"):
        factorize(weight, 1)


def test_unknown_choices() -> None:
    with pytest.raises(ValueError, match=r"'best' is not one of random, block, top, bottom"):
        factorize(torch.ones(3, 3), 1, select="best")
    with pytest.raises(ValueError, match=r"'kaiming' is not one of svd, svd_add, zero"):
        factorize(torch.ones(3, 3), 1, init="kaiming")


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)], ids=str)
def test_merge_adds_the_scaled_product(batch: tuple[int, ...]) -> None:
    residual, a, b = drawn(*batch, 5, 4), drawn(*batch, 5, 2, seed=1), drawn(*batch, 2, 4, seed=2)
    product = torch.einsum("...ij,...jk->...ik", a, b)
    torch.testing.assert_close(merge(residual, a, b, -0.75), residual - 0.75 * product)


@pytest.mark.parametrize("types", [(torch.float32, torch.float64), (torch.float64, torch.float32)], ids=str)
def test_merge_computes_in_the_wider_type(types: tuple[torch.dtype, torch.dtype]) -> None:
    residual, a, b = drawn(5, 4, dtype=types[0]), drawn(5, 2, dtype=types[1]), drawn(2, 4, dtype=types[1])
    expected = residual.double() + a.double() @ b.double()
    torch.testing.assert_close(merge(residual, a, b), expected, rtol=1e-12, atol=1e-12)


def test_shapes_are_checked_in_tests() -> None:
    with pytest.raises(TypeCheckError):
        merge(torch.zeros(3, 4), torch.zeros(4, 2), torch.zeros(2, 3))


# Grouping


@given(
    st.lists(st.sampled_from([(2, 3), (3, 2), (4, 4), (1, 1)]), max_size=12),
    st.sampled_from([1, 48, 96, 100, 128, 1 << 20]),
)
def test_stacks_cover_each_position_once_with_equal_shapes_within_the_limit(
    shapes: list[tuple[int, int]], limit: int
) -> None:
    groups = stacks([torch.Size(shape) for shape in shapes], limit_bytes=limit)
    assert sorted(position for group in groups for position in group) == list(range(len(shapes)))
    for group in groups:
        assert len({shapes[position] for position in group}) == 1
        rows, columns = shapes[group[0]]
        assert len(group) == 1 or 8 * rows * columns * len(group) <= limit  # 8 bytes per float64


def test_stacks_are_as_large_as_the_limit_allows() -> None:
    shapes = [torch.Size((2, 3))] * 5 + [torch.Size((3, 2))]
    assert stacks(shapes, limit_bytes=2 * 48) == [[0, 1], [2, 3], [4], [5]]
    assert stacks(shapes) == [[0, 1, 2, 3, 4], [5]]


# Truncating


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (8, 8), (3, 6, 7)])
def test_a_truncated_weight_is_the_nearest_of_its_rank(shape: tuple[int, ...]) -> None:
    weight = torch.randn(*shape, dtype=torch.float64, generator=seeded())
    for rank in range(1, min(shape[-2:]) + 1):
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        expected = (u[..., :rank] * s[..., None, :rank]) @ v[..., :rank, :]
        torch.testing.assert_close(truncate(weight, rank), expected)


def test_truncating_keeps_the_type_and_a_weight_of_low_rank() -> None:
    weight = torch.outer(torch.arange(4.0), torch.arange(6.0))
    for rank in (1, 3):
        found = truncate(weight, rank)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, weight)
