"""Laws of a weight's past: its parts and the current factors add up to the change of the weight."""

import torch
from torch import Tensor

from rosa_bench.integrations.peft.past import Past, exact_update

OUT, IN = 9, 7


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_parts_add_up_and_the_current_factors_come_first() -> None:
    past = Past()
    past.add(0.5 * normal(OUT, 2), normal(2, IN, seed=1))
    past.subtract(normal(OUT, 3, seed=2), normal(3, IN, seed=3))
    a, b = normal(OUT, 2, seed=4), normal(2, IN, seed=5)
    update = exact_update(past, 3 * a, b)
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


def test_an_update_of_nothing_is_zero() -> None:
    update = exact_update(Past(), torch.zeros(OUT, 2), normal(2, IN).float())
    assert update.rank == 2 and not update.delta().any()


def test_the_past_is_kept_in_float32_or_wider() -> None:
    first, second, b = normal(OUT, 2).bfloat16(), normal(OUT, 2, seed=2).bfloat16(), normal(2, IN, seed=1).bfloat16()
    past = Past()
    past.add(first, b)
    past.add(second, b)  # one part, so the sum is rounded to the type of the past
    expected = (first.double() + second.double()) @ b.double()
    torch.testing.assert_close(past.parts[0].delta(), expected, rtol=1e-5, atol=1e-6)
