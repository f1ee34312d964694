"""The time of a choice, on a clock that is turned by hand."""

from rosa_bench.choose.budget import Budget


def test_what_an_earlier_part_has_spent_counts() -> None:
    now = 1000.0
    budget = Budget(60, spent=20, clock=lambda: now)
    assert budget.spent_s == 20
    now += 30
    assert budget.spent_s == 50
    assert budget.allows(10) and not budget.allows(10.1)
    assert not budget.is_over()
    now += 10
    assert budget.is_over() and budget.allows(0)
