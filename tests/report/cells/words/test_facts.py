"""What a record says about its task."""

from collections.abc import Callable

import pytest

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.words.facts import best_of_rank, scores_references

MakeRecord = Callable[..., RunRecord]


def test_references_are_scored_if_a_task_with_prompts_has_a_loss(
    make_record: MakeRecord, make_written: MakeRecord, make_referenced: MakeRecord, make_synthetic: MakeRecord
) -> None:
    runs = make_record(), make_synthetic([[0.5]]), make_written([9.0]), make_referenced(1.5)
    assert [scores_references(run) for run in runs] == [False, False, False, True]


@pytest.mark.parametrize(("method", "rank", "expected"), [
    ("rosa", 1, 0.3), ("rosa", 2, 0.1), ("rosa", 3, None), ("ft", 1, 0.1)
])  # fmt: skip
def test_the_best_update_is_that_of_the_rank_and_of_any_without_one(
    make_synthetic: MakeRecord, method: str, rank: int, expected: float | None
) -> None:
    asked = (f"method={method}", f"rank={rank}")
    run, unknown = make_synthetic([[0.5]], *asked, bounds=[[0.5, 0.3, 0.1]]), make_synthetic([[0.5]], *asked, "seed=1")
    assert best_of_rank([run]) == expected
    assert best_of_rank([unknown]) is None
    assert best_of_rank([run, unknown]) is None  # a mean over some of the runs would be of other problems
