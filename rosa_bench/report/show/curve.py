"""A run's training as a table in the terminal: one line per epoch, with a bar for the score that selects.

The candidates of a method that trains nothing take the place of epochs.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.words.shown import selection_rows, selection_scale
from rosa_bench.report.writers.text import MISSING

MOST = 20  # epochs shown; of more, some are left out
BAR = 30  # longest bar, in characters
WIDE = 100.0  # errors whose greatest is so many times the least get a logarithmic bar


class Line(NamedTuple):
    """One epoch: its number, its figures as texts, the length of its bar, and whether it was selected."""

    epoch: int
    texts: tuple[str, ...]
    bar: int
    selected: bool


class Curve(NamedTuple):
    """A curve's columns, its lines, and its title, which says what the bars show."""

    columns: tuple[str, ...]
    lines: list[Line]
    title: str


def curve(run: RunRecord) -> Curve | None:
    """Return a run's epochs, at most `MOST` of them, among them the first, the selected and the last. None if none."""
    epochs, by = run.scores.epochs, run.scores.selected_by
    if not epochs:
        return None
    scores = [selection_scale(run).scaled(epoch.scores.get(by.name)) for epoch in epochs]
    lengths, scale = bars(scores, logarithmic=by.lower_is_better)
    name, where = by.name.replace("_", " "), selection_rows(run)
    lines = [
        Line(
            number + 1,
            (*([] if run.candidates else [_text(epochs[number].train_loss)]), _text(scores[number])),
            lengths[number],
            number + 1 == run.selected.epoch,
        )
        for number in chosen(len(epochs), run.selected.epoch)
    ]
    columns, what = (("candidate",), "Candidates") if run.candidates else (("epoch", "train loss"), "Training")
    return Curve((*columns, name), lines, f"{what}: {name} on {where}{scale}")


def chosen(count: int, selected: int | None) -> list[int]:
    """Return the indices of the epochs to show, evenly spaced.

    >>> chosen(3, 2), chosen(100, 50)[:4], len(chosen(100, 50)), 49 in chosen(100, 50)
    ([0, 1, 2], [0, 6, 11, 16], 20, True)
    """
    if count <= MOST:
        return list(range(count))
    kept = MOST - 1 if selected else MOST
    found = {round(place * (count - 1) / (kept - 1)) for place in range(kept)}
    return sorted({*found, *([min(selected, count) - 1] if selected else [])})


def bars(scores: Sequence[float | None], *, logarithmic: bool = False) -> tuple[list[int], str]:
    """Return the length of each score's bar, from 1 to `BAR`, and words about their ends. Undefined scores have none.

    Errors over several orders of magnitude are drawn by their logarithms.

    >>> bars([0.0, 50.0, None, 100.0])
    ([1, 15, 0, 30], ', bars from 0 to 100')
    >>> bars([1.0, 10.0], logarithmic=True)[1], bars([1.0, 1000.0], logarithmic=True)[1]
    (', bars from 1 to 10', ', bars from 1 to 1000 (logarithmic)')
    """
    known = [score for score in scores if score is not None and math.isfinite(score)]
    if not known:
        return [0] * len(scores), ""
    low, high = min(known), max(known)
    by_logarithm = logarithmic and low > 0 and high / low >= WIDE
    shown = math.log if by_logarithm else float
    width = shown(high) - shown(low)
    lengths = [
        0 if score is None or not math.isfinite(score)
        else BAR if not width
        else 1 + round((BAR - 1) * (shown(score) - shown(low)) / width)
        for score in scores
    ]  # fmt: skip
    return lengths, f", bars from {low:.4g} to {high:.4g}{' (logarithmic)' if by_logarithm else ''}"


def _text(score: float | None) -> str:
    return MISSING if score is None or not math.isfinite(score) else f"{score:.4g}"
