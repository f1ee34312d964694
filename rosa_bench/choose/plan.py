"""What a choice tries: arms, epochs and rows such that everything ends within the budget. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import msgspec

from rosa_bench.choose.halving import ETA, FINALISTS, rungs
from rosa_bench.system.errors import UserError

USED = 0.85  # of the budget; the rest is for what takes longer than measured
SHORT = (3, 1)  # epochs, if the recipe's are too many
ENOUGH_ROWS, LEAST_ROWS = 2000, 500


class Arm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A method with its rank, if it has one, and a learning rate."""

    method: str
    lr: float
    rank: int | None = None

    @property
    def kind(self) -> str:
        """The method and its rank: what costs depend on."""
        return self.method if self.rank is None else f"{self.method} rank {self.rank}"

    @property
    def overrides(self) -> list[str]:
        """Its settings on the command line."""
        rank = [] if self.rank is None else [f"rank={self.rank}"]
        return [f"method={self.method}", *rank, f"lr={self.lr:g}"]

    def __str__(self) -> str:
        return f"{self.kind} lr {self.lr:g}"


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What runs of one kind cost. Times are in seconds; memory is the highest in training.

    start_s     loading data and model
    row_s       training on one row
    selected_s  scoring one of the rows that select, after every epoch
    reported_s  scoring one of the rows that are reported, at the end
    """

    start_s: float
    row_s: float
    selected_s: float
    reported_s: float
    memory_bytes: int


class Rows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many rows there are: all for training, before some are held out, and those that are reported.

    held_out  fraction of the train rows that is held out, and the largest number of them
    selected  rows of a validation split that select; None if held-out rows do
    """

    train: int
    reported: int
    held_out: float
    held_out_max: int
    selected: int | None = None

    def parts(self, train: float) -> tuple[float, float]:
        """Return how many rows train and how many select, if so many train rows are used."""
        if self.selected is not None:
            return train, self.selected
        held_out = min(train * self.held_out, self.held_out_max)
        return train - held_out, held_out


class Size(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The size of a choice. ``rows`` is None if it uses all train rows."""

    arms: list[Arm]
    epochs: int
    seeds: int
    rows: int | None
    seconds: float


@dataclass(frozen=True)
class Counting:
    """How long a choice takes, by what was measured."""

    costs: Mapping[str, Cost]
    rows: Rows
    reference: str

    def segment_s(self, kind: str, train: float, epochs: int, *, ends: bool) -> float:
        """Return the seconds of ``epochs`` epochs on so many train rows, with the start, and the report if it ends."""
        cost, (trained, selected) = self.costs[kind], self.rows.parts(train)
        epoch_s = trained * cost.row_s + selected * cost.selected_s
        return cost.start_s + epochs * epoch_s + (self.rows.reported * cost.reported_s if ends else 0)

    def total_s(self, arms: Sequence[Arm], epochs: int, seeds: int, train: float) -> float:
        """Return the seconds of a whole choice, as if the arms promoted cost what all cost on average."""
        lengths, kinds = rungs(epochs), list(dict.fromkeys(arm.kind for arm in arms))
        count, before, total = len(arms), 0, 0.0
        for length in lengths[:-1]:
            total += count * self._mean_s(arms, train, length - before, ends=False)
            count, before = max(1, count // ETA), length
        if len(lengths) == 1:
            total += len(arms) * self._mean_s(arms, train, epochs, ends=True)
            before = epochs
        last = min(FINALISTS, len(kinds))
        finals = [last * self._mean_s(arms, train, length, ends=True) for length in self._finals(epochs, before, seeds)]
        if more := self._beyond(arms, last):
            finals += [
                self.segment_s(more, train, length, ends=True) for length in self._finals(epochs, lengths[0], seeds)
            ]
        return total + sum(finals)

    def _finals(self, epochs: int, before: int, seeds: int) -> list[int]:
        """Return how many epochs each seed of a finalist still takes."""
        return [*([epochs - before] if epochs > before else []), *[epochs] * (seeds - 1)]

    def _beyond(self, arms: Sequence[Arm], last: int) -> str | None:
        """Return the kind of the reference if it may be one more finalist."""
        found = next((arm.kind for arm in arms if arm.method == self.reference), None)
        return found if len({arm.kind for arm in arms}) > last else None

    def _mean_s(self, arms: Sequence[Arm], train: float, epochs: int, *, ends: bool) -> float:
        return fmean(self.segment_s(arm.kind, train, epochs, ends=ends) for arm in arms)


def sized(
    arms: Sequence[Arm],
    counting: Counting,
    *,
    budget_s: float,
    epochs: int,
    seeds: int,
    fixed_epochs: bool = False,
    fixed_rows: bool = False,
) -> Size:
    """Return the largest choice that ends within the budget.

    Fewer rows come first, then fewer epochs, then fewer arms (the last ones are left out), then fewer seeds. Raises
    `UserError` if not even one run ends within the budget.
    """
    total, usable_s = counting.rows.train, budget_s * USED
    lengths = [epochs] if fixed_epochs else [epochs, *(short for short in SHORT if short < epochs)]
    tried = [(list(arms), length, seeds, ENOUGH_ROWS) for length in lengths[:2]]
    fewer = [list(arms[:count]) for count in range(len(arms) - 1, 0, -1)]
    tried += [(some, lengths[min(1, len(lengths) - 1)], seeds, LEAST_ROWS) for some in [list(arms), *fewer]]
    tried += [(list(arms[:count]), lengths[-1], 1, LEAST_ROWS) for count in range(min(3, len(arms)), 0, -1)]
    for some, length, count, least in tried:
        rows = total if fixed_rows else _most_rows(some, length, count, counting, usable_s)
        seconds = counting.total_s(some, length, count, rows)
        if rows >= min(total, least) and seconds <= usable_s * (1 + 1e-9):
            return Size(some, length, count, None if rows == total else rows, seconds)
    first, least = arms[0], total if fixed_rows else min(total, LEAST_ROWS)
    needed = counting.total_s([first], lengths[-1], 1, least) / USED
    raise UserError(
        f"the time is too short for one run: {first.kind} for {_plural(lengths[-1], 'epoch')} on {least:,} rows takes "
        f"about {needed / 60:.2g} minutes, and {budget_s / 60:.2g} are left; give more minutes, or smaller epochs, "
        "limit_train or limit_eval"
    )


def _most_rows(arms: Sequence[Arm], epochs: int, seeds: int, counting: Counting, budget_s: float) -> int:
    """Return the most train rows for which a choice ends within the budget, to two digits unless they are all."""
    total = counting.rows.train
    if counting.total_s(arms, epochs, seeds, total) <= budget_s:
        return total
    low, high = 0, total  # the time grows with the rows, though not in proportion: few are held out of many
    while high - low > 1:
        middle = (low + high) // 2
        fits = counting.total_s(arms, epochs, seeds, middle) <= budget_s
        low, high = (middle, high) if fits else (low, middle)
    unit = 10 ** max(0, len(str(low)) - 2)
    return low // unit * unit


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
