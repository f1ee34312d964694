"""How values of a metric are shown and compared, by its direction."""

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.words.shown import (
    ERRORS,
    SCORES,
    Scale,
    reported_rows,
    scale,
    selection_rows,
    selection_scale,
)
from rosa_bench.report.writers.text import UNDEFINED

SCORE, LOSS = SCORES, ERRORS


@pytest.mark.parametrize(
    ("scale", "values", "text", "signed"),
    [
        (SCORE, (0.54321, None, None), "54.3", "+54.3"),
        (SCORE, (-0.5, None, None), "-50.0", "-50.0"),
        (SCORE, (math.inf, None, None), UNDEFINED, UNDEFINED),
        (SCORE, (0.5678, 0.5, 0.6), "56.8 [50.0, 60.0]", "+56.8 [+50.0, +60.0]"),
        (SCORE, (-0.0001, None, None), "0.0", "+0.0"),
        (LOSS, (1.23456, 1.2, 1.3), "1.235 [1.2, 1.3]", "+1.235 [+1.2, +1.3]"),
        (LOSS.fitted([1.25, 20.0]), (-0.00123, -0.01, 0.2), "-0.001 [-0.010, 0.200]", "-0.001 [-0.010, +0.200]"),
        (LOSS, (math.nan, None, None), UNDEFINED, UNDEFINED),
    ],
)  # fmt: skip
def test_texts(scale: Scale, values: tuple[float, float | None, float | None], text: str, signed: str) -> None:
    value, low, high = values
    ends = SimpleNamespace(low=low, high=high)
    assert (scale.text(value, ends), scale.signed(value, ends)) == (text, signed)
    if low is None:
        assert (scale.text(value), scale.signed(value)) == (text, signed)


def test_an_undefined_score_stays_so() -> None:
    assert (SCORE.scaled(0.5), LOSS.scaled(0.5), SCORE.scaled(None)) == (50, 0.5, None)


@pytest.mark.parametrize("least", [0.00021, 0.9, 1.0, 9.5, 12.5, 999.0, 123456.0])
def test_all_losses_of_a_column_have_as_many_decimals_as_give_the_smallest_four_digits(least: float) -> None:
    fitted = LOSS.fitted([2 * least, least, math.inf, math.nan])
    shown = fitted.text(least)
    assert len(shown.replace(".", "").lstrip("0")) == max(4, len(str(int(least))))
    assert float(shown) == pytest.approx(least, rel=5e-4)
    assert len(shown.partition(".")[2]) == len(fitted.text(2 * least).partition(".")[2])


@pytest.mark.parametrize("values", [[], [0.0], [1e-9, 1.0], [math.nan], [math.inf]])
def test_without_a_smallest_that_is_shown_losses_have_four_digits(values: list[float]) -> None:
    assert LOSS.fitted(values).text(1.23456) == "1.235"


def test_scores_times_100_have_one_decimal_whatever_they_are() -> None:
    assert SCORE.fitted([0.001, 0.5]).text(0.001) == "0.1"


def test_rows_and_scale_are_those_that_select_or_are_reported(
    make_record: Callable[..., RunRecord], make_written: Callable[..., RunRecord]
) -> None:
    dev, held_out, written = make_record(), make_record(held_out=0.5), make_written([9.0])
    assert [selection_rows(run) for run in (dev, held_out)] == ["dev", "rows held out of train"]
    for run in (dev, held_out):
        run.scores.selected_on = ""  # an older record
    assert [selection_rows(run) for run in (dev, held_out)] == ["dev", "rows held out of train"]
    assert [reported_rows(run) for run in (dev, held_out, written)] == ["dev", "dev", "test"]
    assert (scale(written), selection_scale(written)) == (SCORE, LOSS)  # BLEU; perplexity selects


def test_a_higher_merit_is_better() -> None:
    assert max([1.0, 2.0], key=SCORE.merit) == 2.0
    assert max([1.0, 2.0], key=LOSS.merit) == 1.0
