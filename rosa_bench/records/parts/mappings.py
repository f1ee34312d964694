"""Parts of a record with open keys, such as scores by metric, and properties for the keys that readers need.

Each is a dictionary and is written to JSON unchanged. Msgspec does not support such types, so `decoded` makes them.
"""

import math
from typing import Any, ClassVar, TypeVar

import msgspec

from rosa_bench.records.parts.types import Count, Duration, Json, Score

Kind = TypeVar("Kind")
# Fraction of the labels' standard deviation. With a thousand rows and two classes, the predictions' spread is below it
# only if all rows get the same class.
LEAST_SPREAD = 0.05


class _Open(msgspec.Struct):
    """Any JSON object. Msgspec prepares a type once for a struct, but for ``dict[str, Json]`` at every conversion."""

    it: dict[str, Json]


class _Weights(msgspec.Struct):
    source: str
    requirements: list[str] | None = None
    sha256: list[str] | str | None = None
    id: str | None = None
    revision: str | None = None
    commit: str | None = None


class Weights(dict[str, Any]):
    """Source of a model's weights, with what identifies them: hashes of files, or id and commit on the hub."""

    json_type: ClassVar[Any] = _Weights

    @property
    def source(self) -> str:
        """Kind of source: ``hub``, ``wheel``, ``folder`` or ``random``."""
        return self["source"]

    @property
    def requirements(self) -> list[str]:
        """Pinned packages that hold the weights."""
        return self.get("requirements") or []

    @property
    def sha256(self) -> str | list[str] | None:
        """Hash of the weights' file, or one hash per file."""
        return self.get("sha256")

    @property
    def id(self) -> str | None:
        """Name on the hub."""
        return self.get("id")

    @property
    def commit(self) -> str:
        """Commit on the hub, or the requested revision if the commit is unknown."""
        return self.get("commit") or self.get("revision") or ""


class Result(dict[str, Score]):
    """The scores of one epoch's model, by metric; None if undefined. Empty if the run did not get that far."""

    json_type: ClassVar[Any] = dict[str, Score]

    @property
    def epoch(self) -> int | None:
        """Number of the epoch, from 1."""
        number = self.get("epoch")
        return None if number is None else int(number)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the predictions, divided by that of the labels. None in older records."""
        return self.get("spread")

    @property
    def has_collapsed(self) -> bool | None:
        """Whether the predictions are nearly the same for all rows. None if unknown."""
        spread = self.spread
        return None if spread is None or math.isnan(spread) else spread < LEAST_SPREAD


class Seconds(dict[str, float]):
    """Wall-clock time by phase, in seconds."""

    json_type: ClassVar[Any] = dict[str, Duration]

    @property
    def total(self) -> float | None:
        """Sum over all phases."""
        return self.get("total")

    @property
    def train(self) -> float | None:
        """Training, without evaluation and resampling."""
        return self.get("train")

    @property
    def resample(self) -> float | None:
        """All resamples together."""
        return self.get("resample")


class PeakBytes(dict[str, int]):
    """Peak memory by phase, in bytes."""

    json_type: ClassVar[Any] = dict[str, Count]

    @property
    def training(self) -> int | None:
        """Peak while training or resampling. None if it was not measured."""
        return max(self.get("train", 0), self.get("resample", 0)) or None


def decoded(kind: type[Kind], value: Any) -> Kind:
    """Make one of the mappings above from JSON values. This is msgspec's hook for types that it does not support.

    Raises `ValueError`, with the place inside ``value``, if a value has the wrong type. Msgspec adds the place of
    ``value`` itself to a `ValueError`, but not to its own errors.
    """
    try:
        msgspec.convert({"it": value}, _Open)
        msgspec.convert(value, kind.json_type)  # pyrefly: ignore[missing-attribute]
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("`$.it", "`$")) from error
    return kind(value)  # pyrefly: ignore[bad-argument-count]
