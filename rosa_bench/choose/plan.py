"""What a choice tries: arms, epochs and rows such that everything ends within the budget. Pure functions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import msgspec

from rosa_bench.choose.halving import ETA, FINALISTS, rungs
from rosa_bench.system.errors import UserError

USED = 0.85  # of the budget; the rest is for what takes longer than measured
SHORT = 3  # epochs, if the recipe's are too many
FEW_ARMS = 6  # with fewer, more arms are worth more than more seeds
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

    def limited(self, *, train: int | None = None, reported: int | None = None) -> "Rows":
        """Return the rows that limits leave."""
        fewer = {
            "train": min(self.train, train or self.train),
            "reported": min(self.reported, reported or self.reported),
        }
        return msgspec.structs.replace(self, **fewer)

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


class Option(NamedTuple):
    """A size that is considered: it needs at least so many train rows."""

    arms: list[Arm]
    epochs: int
    seeds: int
    least_rows: int


def options(arms: Sequence[Arm], epochs: int, seeds: int, *, fixed_epochs: bool) -> Iterator[Option]:
    """Yield sizes from the largest to one run. The last arms are left out first."""
    brief = epochs if fixed_epochs else min(epochs, SHORT)
    yield Option(list(arms), epochs, seeds, ENOUGH_ROWS)
    yield Option(list(arms), brief, seeds, ENOUGH_ROWS)
    for count in range(len(arms), FEW_ARMS - 1, -1):
        yield Option(list(arms[:count]), brief, seeds, LEAST_ROWS)
    for count in range(len(arms), 0, -1):
        yield Option(list(arms[:count]), brief, 1, LEAST_ROWS)
    yield Option(list(arms[:1]), brief if fixed_epochs else 1, 1, LEAST_ROWS)


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
    """Return the largest choice that ends within the budget, with as many rows as fit.

    Raises `UserError` if not even one run ends within the budget.
    """
    total, usable_s = counting.rows.train, budget_s * USED
    option = None
    for option in options(arms, epochs, seeds, fixed_epochs=fixed_epochs):
        some, length, count, least = option
        rows = total if fixed_rows else _most_rows(some, length, count, counting, usable_s)
        seconds = counting.total_s(some, length, count, rows)
        if rows >= min(total, least) and seconds <= usable_s:
            return Size(some, length, count, None if rows == total else rows, seconds)
    assert option is not None
    [first], length, count, least = option
    least = total if fixed_rows else min(total, least)
    needed_s = counting.total_s([first], length, count, least) / USED
    raise UserError(
        f"the time is too short for one run: {first.kind} for {plural(length, 'epoch')} on {least:,} rows takes "
        f"about {needed_s / 60:.2g} minutes, and {max(0.0, budget_s) / 60:.2g} are left; give more minutes, or smaller "
        "epochs, limit_train or limit_eval"
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


def plural(count: int, what: str) -> str:
    """Return a number of things: ``1 seed``, ``3 seeds``."""
    return f"{count} {what}" + ("" if count == 1 else "s")
