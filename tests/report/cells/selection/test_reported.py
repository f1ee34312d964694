"""Records read as if another of their scores were the reported one."""

from collections.abc import Callable

import pytest

from rosa_bench.records.record import RunRecord, to_values
from rosa_bench.report.cells.selection.reported import reporting
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.language_modelling.task import SCORES

MakeRecord = Callable[..., RunRecord]


def test_the_score_and_its_direction_change_and_the_record_does_not(make_memorised: MakeRecord) -> None:
    runs = [make_memorised(0.5, "method=ft", loss=1.5), make_memorised(0.25, "method=lora", loss=2.5)]
    before = [to_values(run) for run in runs]
    errors, scores = reporting("loss", runs), reporting("bits_stored", runs)
    assert [(run.score, run.last_score, run.scores.lower_is_better) for run in errors] == [
        (1.5, 1.5, True), (2.5, 2.5, True)
    ]  # fmt: skip
    assert [run.score for run in scores] == [run.selected["bits_stored"] for run in runs]
    assert not any(run.scores.lower_is_better for run in scores)
    assert [run.selection_score for run in errors] == [run.selection_score for run in runs]
    assert [to_values(run) for run in runs] == before


def test_every_score_of_a_text_is_better_lower(make_continued: MakeRecord) -> None:
    """As `rosa_bench.tasks` declares; the record itself says so of the reported one alone."""
    run = make_continued(1.5, "method=ft")
    for metric in SCORES:
        [found] = reporting(metric, [run])
        assert found.scores.lower_is_better


def test_forgetting_is_the_rise_of_the_loss_on_another_text(make_continued: MakeRecord) -> None:
    measured, without = make_continued(1.5, "method=ft", forgotten=0.25), make_continued(1.5, "method=lora")
    [found] = reporting("forgetting", [measured, without])
    assert (found.id, found.score, found.scores.lower_is_better) == (measured.id, pytest.approx(0.25), True)


def test_a_score_that_no_run_has_is_an_error_that_lists_them(make_memorised: MakeRecord) -> None:
    with pytest.raises(UserError, match=r"no run has the score recal; did you mean recall\?; found: bits_stored, "):
        reporting("recal", [make_memorised(0.5, "method=ft")])
