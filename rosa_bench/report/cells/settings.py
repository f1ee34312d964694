"""Decide which runs are comparable: settings, and variants of methods within a setting."""

import json
import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.kept import kept
from rosa_bench.report.cells.words.changes import changes_of

GROUPS = ("task", "model", "protocol", "method")  # config groups: a run picks each by name
METHOD = "method."
# Custom rows count as a change of the setting, so their runs are never beside official ones.
ROWS, CUSTOM, PUBLISHED = "rows", "custom", "published"


@dataclass(frozen=True)
class Deviation:
    """A setting that differs from its default today. ``expected``, the default, is only shown, never compared."""

    key: str
    value: Hashable
    expected: Hashable = field(compare=False)

    @property
    def text(self) -> str:
        """The setting as a user would type it: ``method.resample_every=0``."""
        return f"{self.key}={words(self.value)}"

    @property
    def short(self) -> str:
        """`text` without the name of the group ``method``: ``resample_every=0``."""
        return self.text.removeprefix(METHOD)


@dataclass(frozen=True)
class Variant:
    """A table row: a method, its rank if it has one, and changes to its settings. ``title`` is the display name."""

    method: str
    rank: int | None
    changes: tuple[Deviation, ...]
    title: str = field(compare=False)

    @property
    def plain(self) -> "Variant":
        """This variant without its changes."""
        return replace(self, changes=())

    @property
    def marks(self) -> list[str]:
        """What sets it apart from other variants of its method: ``["r=8", "resample_every=0"]``."""
        rank = [] if self.rank is None else [f"r={self.rank}"]
        return [*rank, *(change.short for change in self.changes)]

    @property
    def label(self) -> str:
        """The row's name, for example ``ROSA (r=8, resample_every=0)``."""
        return f"{self.title} ({', '.join(self.marks)})" if self.marks else self.title


@dataclass(frozen=True)
class Setting:
    """Everything that must be equal for two runs to appear in one table.

    weights     source of the model's weights, down to hashes or revisions, as JSON
    deviations  from the protocol, except in the method's own settings, which define a `Variant`
    """

    model: str
    weights: str
    protocol: str
    device: str
    precision: str
    deviations: tuple[Deviation, ...]

    @property
    def distance(self) -> tuple[int, str]:
        """Sort key: the number of deviations, then the model. The nearest to its protocol comes first."""
        return len(self.deviations), self.model

    @property
    def has_custom_rows(self) -> bool:
        """Whether its runs are on custom rows, which no published figure is for."""
        return any(change.key == ROWS for change in self.deviations)

    @property
    def is_timed(self) -> bool:
        """Whether its runs were made for Table 1. Padding all batches to one length costs time but changes no score."""
        return any(change.key == "pad_to_max" for change in self.deviations)


@kept
def setting_of(record: RunRecord) -> Setting:
    """Return the setting of a run."""
    return Setting(
        model=record.settings.model.name,
        weights=json.dumps(record.model, sort_keys=True),
        protocol=record.settings.protocol.name,
        device=record.device.type,
        precision=record.device.precision,
        deviations=(
            *(change for change in _deviations(record) if not change.key.startswith(METHOD)),
            *([Deviation(ROWS, CUSTOM, PUBLISHED)] if record.has_custom_rows else []),
        ),
    )


@kept
def variant_of(record: RunRecord) -> Variant:
    """Return the variant, and so the table row, of a run."""
    method = record.settings.method
    changes = _deviations(record)
    rest = [change for change in changes if not change.key.startswith(METHOD)]
    own = (change for change in changes if change.key.startswith(METHOD) and not _follows(change, rest))
    return Variant(method.name, method.rank, tuple(own), title=method.title)


class Named(tuple[tuple[str, Hashable], ...]):
    """Settings by name, as sorted pairs that can be hashed and compared."""


def frozen(value: Any) -> Hashable:
    """Turn a JSON value into one that can be hashed and compared."""
    if isinstance(value, dict):
        return Named(sorted((key, frozen(inner)) for key, inner in value.items()))
    return tuple(frozen(inner) for inner in value) if isinstance(value, list) else value


def words(value: Hashable) -> str:
    """Format a setting's value as a user would type it."""
    match value:
        case Named():
            return f"{{{', '.join(f'{key}: {words(inner)}' for key, inner in value)}}}"
        case tuple():
            return f"[{', '.join(words(inner) for inner in value)}]"
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def listed(values: Iterable[Hashable]) -> str:
    """Format values in order: numbers by size, then all others by their text."""

    def place(value: Hashable) -> tuple[float, str]:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value, ""
        return math.inf, words(value)

    return ", ".join(map(words, sorted(values, key=place)))


def _deviations(record: RunRecord) -> list[Deviation]:
    return [Deviation(key, frozen(value), frozen(default)) for key, (value, default) in changes_of(record).items()]


def _follows(change: Deviation, others: Iterable[Deviation]) -> bool:
    """Whether a change to a method only follows from a change to its protocol (``${protocol.train_head}``)."""
    name, pair = change.key.removeprefix(METHOD), (change.value, change.expected)
    return any(other.key.endswith(name) and (other.value, other.expected) == pair for other in others)
