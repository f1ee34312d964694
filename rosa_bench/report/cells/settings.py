"""What may be compared with what: runs of one setting, and in it the variants of methods."""

import json
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from rosa_bench.config.identity import is_identity
from rosa_bench.records.record import RunRecord

GROUPS = ("task", "model", "protocol", "method")  # whose settings a run chooses by one name
METHOD = "method."


@dataclass(frozen=True)
class Deviation:
    """A setting that differs from the protocol's. ``expected``, the protocol's value, is for the reader alone."""

    key: str
    value: Hashable
    expected: Hashable = field(compare=False)


@dataclass(frozen=True)
class Variant:
    """A row of a table: a method, its rank if it has one, and the changes made to it. ``title`` is as in a table."""

    method: str
    rank: int | None
    changes: tuple[Deviation, ...]
    title: str = field(compare=False)

    @property
    def plain(self) -> "Variant":
        """The variant without the changes."""
        return replace(self, changes=())

    @property
    def label(self) -> str:
        """For example ``ROSA (r=8, resample_every=0)``."""
        rank = [] if self.rank is None else [f"r={self.rank}"]
        marks = [*rank, *(f"{change.key.removeprefix(METHOD)}={words(change.value)}" for change in self.changes)]
        return f"{self.title} ({', '.join(marks)})" if marks else self.title


@dataclass(frozen=True)
class Setting:
    """Everything that must be equal for two runs to stand in one table.

    weights     where the model's weights come from, down to hashes or revisions, as JSON
    deviations  from the protocol, the method's own left out: those make a `Variant`
    """

    model: str
    weights: str
    protocol: str
    device: str
    precision: str
    deviations: tuple[Deviation, ...]

    @property
    def distance(self) -> tuple[int, str]:
        """How far from its protocol, with which model: the nearest come first, then the model with the most runs."""
        return len(self.deviations), self.model

    @property
    def is_timed(self) -> bool:
        """Whether its runs were made for Table 1: padding all batches alike costs time, and changes no score."""
        return any(change.key == "pad_to_max" for change in self.deviations)


def setting_of(record: RunRecord) -> Setting:
    """The setting a run was made in."""
    return Setting(
        model=record.settings.model.name,
        weights=json.dumps(record.model, sort_keys=True),
        protocol=record.settings.protocol.name,
        device=record.device.type,
        precision=record.device.precision,
        deviations=tuple(change for change in _deviations(record) if not change.key.startswith(METHOD)),
    )


def variant_of(record: RunRecord) -> Variant:
    """The row a run belongs to."""
    method = record.settings.method
    changes = _deviations(record)
    rest = [change for change in changes if not change.key.startswith(METHOD)]
    own = (change for change in changes if change.key.startswith(METHOD) and not _follows(change, rest))
    return Variant(method.name, method.rank, tuple(own), title=method.title)


def frozen(value: Any) -> Hashable:
    """A value out of JSON as one that compares and hashes."""
    if isinstance(value, dict):
        return tuple(sorted((key, frozen(inner)) for key, inner in value.items()))
    return tuple(frozen(inner) for inner in value) if isinstance(value, list) else value


def words(value: Hashable) -> str:
    """A setting's value as it would be typed."""
    match value:
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


def _deviations(record: RunRecord) -> list[Deviation]:
    """All deviations that can change a figure, by key."""
    return [
        Deviation(key, frozen(value), frozen(expected))
        for key, (value, expected) in sorted(record.deviations.items())
        if is_identity(key)
    ]


def _follows(change: Deviation, others: Iterable[Deviation]) -> bool:
    """Whether a method's change was not asked for, but came with one of its protocol (``${protocol.train_head}``)."""
    name, pair = change.key.removeprefix(METHOD), (change.value, change.expected)
    return any(other.key.endswith(name) and (other.value, other.expected) == pair for other in others)
