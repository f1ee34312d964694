"""The record of one run: everything a reader needs to trust a score, as one JSON file."""

import math
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from rosa_bench.records.parts.conditions import Data, Device, Git, Parameters
from rosa_bench.records.parts.mappings import PeakBytes, Result, Seconds, Weights, decoded
from rosa_bench.records.parts.measured import Forgetting, Scores, Spectrum, Stopped, number
from rosa_bench.records.parts.settings import Settings
from rosa_bench.records.parts.types import LARGEST, Count, Json, Key, Positive, RunId, Status

SCHEMA = 1


class RunRecord(msgspec.Struct, kw_only=True, dict=True):
    """One run. Scores are fractions, times seconds, memory bytes.

    status      ``completed``, ``failed`` or ``interrupted``; ``running`` before it is saved. ``error`` says why a run
                failed or stopped
    config      all settings as given; ``settings`` is a typed view of them
    deviations  settings that differ from the protocol's: key -> [value, the protocol's value]
    spectrum    spectra of the updates of adapted weights, if requested
    resamples   how many draws the method made after the first: of whole subspaces, or of one direction of every weight
                with ``stagger``. Of projectors, as GaLore's, the first counts too. None in records older than the count
    basis_age   with draws along an earlier weight's directions (``method.svd_of``), how many steps old it was at most
    forgetting  loss on another task's text before and after training; None unless requested
    candidates  of a method that trains nothing, the names of the models that it chose among. Each took the place of an
                epoch, so the scores of the n-th are those of the n-th epoch
    stopped     set if the run was ended before its last epoch because it had collapsed. It is completed: its scores are
                those of the epochs made, and it counts as collapsed
    packed      with how many runs it trained in one pass when it began, itself included. Its times and its peak memory
                are those of all of them. Unset if it trained alone
    """

    id: RunId
    status: Status
    config: dict[str, Json]
    deviations: dict[Key, Annotated[list[Json], Meta(min_length=2, max_length=2)]]
    data: Data
    model: Weights
    device: Device
    versions: dict[str, str]
    git: Git
    started_at: str
    parameters: Parameters = field(default_factory=Parameters)
    scores: Scores = field(default_factory=Scores)
    resamples: Count | None = None
    basis_age: Count | UnsetType = UNSET
    time_s: Seconds = field(default_factory=Seconds)
    memory_bytes: PeakBytes = field(default_factory=PeakBytes)
    spectrum: Spectrum = field(default_factory=Spectrum)
    forgetting: Forgetting | None = None
    candidates: list[str] | UnsetType = UNSET
    stopped: Stopped | UnsetType = UNSET
    packed: Positive | UnsetType = UNSET
    error: str | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        try:
            _ = self.settings
        except msgspec.ValidationError as error:
            raise ValueError(f"{error} - at `$.config`") from error

    @cached_property
    def settings(self) -> Settings:
        """Typed view of ``config``."""
        return msgspec.convert(self.config, Settings)

    def setting(self, key: str, default: Any = None) -> Any:
        """Return a setting in ``config`` by its dotted key, such as ``method.rank``, or ``default``."""
        place: Any = self.config
        for name in key.split("."):
            if not isinstance(place, dict) or name not in place:
                return default
            place = place[name]
        return place

    @cached_property
    def started(self) -> datetime:
        """When the run started. Raises `ValueError` if ``started_at`` is not an ISO date and time."""
        return datetime.fromisoformat(self.started_at)

    @property
    def selected(self) -> Result:
        """Scores of the selected epoch; empty if the run did not finish."""
        return self.scores.selected or Result()

    @property
    def last(self) -> Result:
        """Scores of the last epoch; empty if the run did not finish."""
        return self.scores.last or Result()

    @property
    def score(self) -> float:
        """The reported score of the selected epoch, NaN if undefined. Raises `KeyError` if the run did not finish."""
        return number(self.selected[self.scores.reported])

    @property
    def last_score(self) -> float:
        """The reported score of the last epoch, NaN if undefined. Raises `KeyError` if the run did not finish."""
        return number(self.last[self.scores.reported])

    @property
    def selection_score(self) -> float:
        """The score that the epoch was selected by; NaN if it is undefined or the run did not finish."""
        found = self.scores.selection_score
        return math.nan if found is UNSET else number(found)

    @property
    def selected_candidate(self) -> str | None:
        """Name of the selected candidate. None for a method that trains, or if the run did not finish."""
        if not self.candidates or self.selected.epoch is None:
            return None
        return self.candidates[self.selected.epoch - 1]

    @property
    def bits_per_parameter(self) -> float | None:
        """Bits that the selected epoch's model has memorised per trained parameter. None if unknown."""
        bits, trained = self.selected.get("bits_stored"), self.parameters.trainable
        return None if bits is None or not trained else bits / trained

    @property
    def has_custom_rows(self) -> bool:
        """Whether it ran on other rows than those published under the task's name."""
        return self.data.official is False

    @property
    def has_collapsed(self) -> bool | None:
        """Whether the last epoch's model predicts nearly the same for all rows. None if unknown.

        A run that was stopped for it has collapsed, even if its predictions for the reported rows differ a little.
        """
        return True if self.stopped else self.last.has_collapsed


def from_values(values: dict[str, Any]) -> RunRecord:
    """Make a record from JSON values. NaN and Infinity, which older records may have, are read as None.

    Raises `msgspec.ValidationError` for a missing or wrong value.
    """
    try:
        return msgspec.convert(values, RunRecord, dec_hook=decoded)
    except msgspec.ValidationError:
        return msgspec.convert(without_undefined(values), RunRecord, dec_hook=decoded)


def to_values(record: RunRecord) -> dict[str, Any]:
    """Return a record as JSON values. Numbers that JSON cannot hold, NaN and Infinity, are None."""
    return without_undefined(msgspec.to_builtins(record))


def without_undefined(value: Any) -> Any:
    """Replace NaN, Infinity and numbers beyond `LARGEST` in JSON values by None, at any depth."""
    if isinstance(value, dict):
        return {key: without_undefined(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_undefined(inner) for inner in value]
    return None if isinstance(value, float) and not abs(value) <= LARGEST else value
