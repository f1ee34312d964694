"""The size of a choice: it fits the time by what was measured, and is the largest that does."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rosa_bench.choose.plan import USED, Arm, Cost, Counting, Rows, sized
from rosa_bench.system.errors import UserError

ARMS = [Arm(method, lr, rank) for lr in (2e-3, 6e-4) for method, rank in [("lora", 8), ("ft", None), ("lora", 2)]]


def counting(*, row_s: float = 0.01, start_s: float = 0.0, train: int = 5000, selected: int | None = None) -> Counting:
    cost = Cost(start_s, row_s, selected_s=0.0, reported_s=0.0, memory_bytes=1)
    rows = Rows(train, reported=100, held_out=0.0, held_out_max=1, selected=selected)
    return Counting({arm.kind: cost for arm in ARMS}, rows, reference="ft")


def test_a_whole_choice_takes_what_its_parts_take() -> None:
    """Six arms for 1 epoch, two of them for 2 more, and so on, counted by hand in epochs of 100 rows, 1 s each."""
    found = counting(train=100)
    early = 6 * 1 + 2 * (3 - 1)  # rungs 1 and 3 of 10
    finalists = 2 * (10 - 3) + 2 * 2 * 10  # two kinds go on to the end, and take two more seeds
    reference = (10 - 1) + 2 * 10  # perhaps a third one, which has 1 epoch
    assert found.total_s(ARMS, 10, 3, 100) == pytest.approx(early + finalists + reference)


def test_every_part_of_a_segment_counts_once() -> None:
    cost = Cost(start_s=5, row_s=0.1, selected_s=0.01, reported_s=0.001, memory_bytes=1)
    found = Counting({"ft": cost}, Rows(1000, reported=200, held_out=0.1, held_out_max=50), "ft")
    assert found.segment_s("ft", 1000, 2, ends=False) == pytest.approx(5 + 2 * (950 * 0.1 + 50 * 0.01))
    assert found.segment_s("ft", 1000, 2, ends=True) == pytest.approx(5 + 2 * (950 * 0.1 + 50 * 0.01) + 200 * 0.001)
    assert found.segment_s("ft", 100, 1, ends=False) == pytest.approx(5 + 90 * 0.1 + 10 * 0.01)


def test_an_arm_has_its_whole_learning_rate_on_the_command_line() -> None:
    assert Arm("lora", 6.32e-4, 8).overrides == ["method=lora", "rank=8", "lr=0.000632"]
    assert Arm("ft", 2e-5).overrides == ["method=ft", "lr=2e-05"]


def test_a_limit_leaves_no_more_rows_than_there_are() -> None:
    rows = Rows(1000, reported=200, held_out=0.1, held_out_max=50)
    assert rows.limited(train=5000, reported=5000) == rows.limited() == rows
    fewer = rows.limited(train=30, reported=10)
    assert (fewer.train, fewer.reported, fewer.held_out) == (30, 10, 0.1)


@given(st.floats(1, 1e5), st.floats(1e-4, 1), st.floats(0, 20), st.integers(10, 10**5))
def test_what_is_planned_ends_within_the_budget(budget_s: float, row_s: float, start_s: float, train: int) -> None:
    found = counting(row_s=row_s, start_s=start_s, train=train)
    try:
        size = sized(ARMS, found, budget_s=budget_s, epochs=10, seeds=3)
    except UserError:
        assert start_s + min(train, 500) * row_s > 0.8 * USED * budget_s  # one epoch on the fewest rows is too long
        return
    rows = size.rows or train
    assert size.seconds == found.total_s(size.arms, size.epochs, size.seeds, rows) <= USED * budget_s
    assert size.arms == ARMS[: len(size.arms)]
    assert rows >= min(train, 500)
    assert size.rows is None or len(str(size.rows).rstrip("0")) <= 2  # a number that people can say


@given(st.floats(10, 1e5), st.floats(1.1, 10))
def test_more_time_never_makes_a_smaller_choice(budget_s: float, times: float) -> None:
    def found(seconds: float) -> tuple[int, ...]:
        try:
            size = sized(ARMS, counting(), budget_s=seconds, epochs=3, seeds=3)
        except UserError:
            return (0,)
        return size.seeds, len(size.arms), size.epochs, size.rows or 5000

    assume(found(budget_s)[0])
    assert found(times * budget_s) >= found(budget_s)


def test_what_the_user_fixed_stays() -> None:
    size = sized(ARMS, counting(), budget_s=3000, epochs=7, seeds=3, fixed_epochs=True, fixed_rows=True)
    assert (size.epochs, size.rows, size.seeds) == (7, None, 1)


def test_a_budget_too_small_for_one_run_is_refused_with_what_it_takes() -> None:
    with pytest.raises(
        UserError, match=r"too short for one run: lora rank 8 for 1 epoch on 500 rows takes about 0\.098"
    ):
        sized(ARMS, counting(), budget_s=5, epochs=10, seeds=3)
