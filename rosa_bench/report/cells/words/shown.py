"""How one run's metric and rows are shown: names, and numbers times 100 or as they are."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.words.facts import scored_on_test
from rosa_bench.report.writers.text import UNDEFINED

DIGITS, MOST_DECIMALS = 4, 8  # of the smallest error in a column, and of any
SELECTED_ON = {"held_out": "rows held out of train", "validation": "dev", "train": "train rows"}


class Ends(Protocol):
    """The ends of an interval, or None where they are not known."""

    @property
    def low(self) -> float | None: ...

    @property
    def high(self) -> float | None: ...


@dataclass(frozen=True)
class Scale:
    """The direction of a metric, and so how it is shown: a score times 100, an error or a loss as it is.

    decimals  of errors and losses; None: they have four digits. Scores times 100 have one
    """

    lower_is_better: bool
    decimals: int | None = None

    @property
    def times(self) -> int:
        """The factor by which values are shown."""
        return 1 if self.lower_is_better else 100

    @property
    def unit(self) -> str:
        """What follows a metric's name on an axis."""
        return " (lower is better)" if self.lower_is_better else " × 100"

    @property
    def digits(self) -> str:
        """The format of values that are already multiplied by `times`, without its sign."""
        if not self.lower_is_better:
            return "z.1f"
        return "z.4g" if self.decimals is None else f"z.{self.decimals}f"

    def merit(self, value: float) -> float:
        """Return a value by which higher is better."""
        return -value if self.lower_is_better else value

    def fitted(self, values: Iterable[float]) -> "Scale":
        """Return the scale of a column: errors have as many decimals as give the smallest of them four digits."""
        least = min((value for value in values if 0 < value < math.inf), default=0.0)
        decimals = DIGITS - 1 - math.floor(math.log10(least)) if least else MOST_DECIMALS + 1
        return replace(self, decimals=max(0, decimals) if decimals <= MOST_DECIMALS else None)

    def scaled(self, value: float | None) -> float | None:
        """Multiply a value that may be undefined by `times`."""
        return None if value is None else self.times * value

    def text(self, value: float, ends: Ends | None = None) -> str:
        """Format a value with its interval, if known: ``81.2 [79.8, 82.6]`` or ``0.6125 [0.6101, 0.6149]``."""
        return self._bracketed("", value, ends)

    def signed(self, value: float, ends: Ends | None = None) -> str:
        """Format a difference with its interval, if known: ``+0.4 [-0.9, +1.7]``."""
        return self._bracketed("+", value, ends)

    def column(self, name: str) -> str:
        """Name the column of a CSV file that has values multiplied by `times`."""
        return name if self.lower_is_better else f"{name}_x100"

    def _bracketed(self, sign: str, value: float, ends: Ends | None) -> str:
        def shown(one: float) -> str:
            return f"{self.times * one:{sign}{self.digits}}" if math.isfinite(one) else UNDEFINED

        if ends is None or ends.low is None or ends.high is None:
            return shown(value)
        return f"{shown(value)} [{shown(ends.low)}, {shown(ends.high)}]"


SCORES, ERRORS = Scale(lower_is_better=False), Scale(lower_is_better=True)


def scale(run: RunRecord) -> Scale:
    """Return the scale of a run's reported metric."""
    return Scale(run.scores.lower_is_better)


def selection_scale(run: RunRecord) -> Scale:
    """Return the scale of the metric that selects a run's epoch."""
    return Scale(run.scores.selected_by.lower_is_better)


def metric(run: RunRecord) -> str:
    """Return the name of the reported metric."""
    return (run.scores.reported or run.settings.task.score).replace("_", " ")


def selection_rows(run: RunRecord) -> str:
    """Name the rows that select the epoch."""
    usual = "held_out" if run.data.rows.held_out else "validation"
    return SELECTED_ON.get(run.scores.selected_on) or SELECTED_ON[usual]


def reported_rows(run: RunRecord) -> str:
    """Name the rows whose scores are reported."""
    return "train" if run.scores.selected_on == "train" else "test" if scored_on_test(run) else "dev"
