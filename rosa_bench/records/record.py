"""The record of one run: everything a reader needs to trust a score, as one JSON file."""

import math
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from rosa_bench.records.mappings import PeakBytes, Result, Seconds, Weights, decoded
from rosa_bench.records.settings import Settings
from rosa_bench.records.types import (
    LARGEST,
    Count,
    Duration,
    FileName,
    Json,
    Key,
    Name,
    Positive,
    RunId,
    Score,
    Status,
)

SCHEMA = 1
# Fraction of the labels' standard deviation. With a thousand rows and two classes, the predictions' spread is below it
# only if all rows get the same class.
LEAST_SPREAD = 0.05
# Rows that may select the epoch: held out of train, dev itself, a validation split if a test split is reported, or the
# train rows where they are what is memorised.
SELECTED_ON = ("held_out", "validation", "validation_split", "train")


class Rows(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Number of rows in each split that the run used."""

    train: Count
    held_out: Count
    validation: Count
    test: Count | None = None

    @property
    def by_split(self) -> dict[str, int]:
        """Numbers of rows by split, for the splits that the task has."""
        return msgspec.to_builtins(self)

    @property
    def total(self) -> int:
        """Rows of all splits together."""
        return sum(self.by_split.values())


class BestOfRank(msgspec.Struct, kw_only=True):
    """Lowest loss that any update of each rank reaches: one list per replicate, with an entry per rank from 0 on."""

    train: list[list[Score]]
    validation: list[list[Score]]


class Data(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The data of one run.

    official_rows  rows of each split as published, to show whether this is a subset
    official       whether the rows are the published ones or a known subset. None if the task declares none, and in
                   records older than the check
    fingerprint    hash of the rows that the run used, in order
    commit         commit of the rows on the hub; None for other sources and in older records
    prompts        of a generation task: distinct prompts per split
    best_of_rank   of a synthetic regression: closed-form bounds
    facts          other facts that the task reports about its data
    """

    source: str
    synthetic: bool
    rows: Rows
    official_rows: dict[str, Count]
    subset: bool
    fingerprint: str
    official: bool | None = None
    commit: str | None = None
    prompts: dict[str, Count] | None = None
    best_of_rank: BestOfRank | None = None
    facts: dict[str, Json] = field(default_factory=dict)


class Device(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The device that made the run.

    threads    number of CPU threads on a CPU, else None
    shared_by  rosa_bench processes that used the GPU, this run's included: the largest count of the run's start and the
               ends of its epochs. More than 1 makes times longer; peak memory is this process's own. None on a CPU and
               in older records
    """

    type: Name
    name: str
    threads: Count | None = None
    shared_by: Positive | None = None
    precision: str


class Git(msgspec.Struct, kw_only=True):
    """Commit of this package, and whether it was modified. Both are None outside a checkout."""

    commit: str | None = None
    dirty: bool | None = None


class Parameters(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Number of parameters in total, and of those that train.

    saved_bytes  size of all tensors that training can change: what must be stored beside the base model. None in older
                 records
    """

    total: Count | None = None
    trainable: Count | None = None
    saved_bytes: Count | None = None


class EpochScores(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One epoch: mean training loss, scores on the selection rows, seconds since training started.

    A loss or score is None if it is not a finite number.
    """

    train_loss: Score
    scores: dict[str, Score]
    time_s: Duration | None = None


class Criterion(msgspec.Struct, kw_only=True):
    """The metric that chooses the epoch, and whether lower is better."""

    name: str = ""
    lower_is_better: bool = False


class Scores(msgspec.Struct, kw_only=True):
    """Scores of a run, as fractions. A run that did not finish has its scores so far.

    reported         metric that tables show
    selected_by      metric that chose the epoch: the reported one unless the record says otherwise
    selected_on      rows that chose it: one of `SELECTED_ON`
    signature        versions and options of the metric's implementation
    selected, last   scores of the selected and of the last epoch, on the reported rows
    selection_score  score that the epoch was selected by
    generations      name of the file with the generated texts, next to the record
    predictions      name of the file with the prediction for each reported row, next to the record

    A score is None where its metric is not defined, such as a correlation with labels that are all equal.
    """

    reported: str = ""
    lower_is_better: bool = False
    selected_by: Criterion = field(default_factory=Criterion)
    selected_on: str = ""
    signature: str = ""
    epochs: list[EpochScores] = field(default_factory=list)
    selected: Result | None = None
    last: Result | None = None
    selection_score: Score | UnsetType = UNSET
    generations: FileName | UnsetType = UNSET
    predictions: FileName | UnsetType = UNSET

    def __post_init__(self) -> None:
        if not self.selected_by.name:  # an older record, from when the two could not differ
            self.selected_by = Criterion(name=self.reported, lower_is_better=self.lower_is_better)


class WeightSpectrum(msgspec.Struct, kw_only=True):
    """Singular values of one weight's update, summed (`rosa_bench.training.spectrum`)."""

    rank: Count
    norm: Score
    norm_before: Score
    sum: Score
    sums: list[Score]


class Spectrum(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Spectra of the updates of adapted weights, by name. Empty unless requested."""

    ranks: list[Positive] = field(default_factory=list)
    weights: dict[str, WeightSpectrum] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.ranks and not self.weights:
            raise ValueError("has ranks and no weights")
        if longer := [name for name, weight in self.weights.items() if len(weight.sums) > len(self.ranks)]:
            raise ValueError(f"has more sums than ranks in {longer[0]}")

    def __bool__(self) -> bool:
        return bool(self.weights)


class Forgetting(msgspec.Struct, kw_only=True):
    """Loss on the validation text of another task, in nats per token, before training and after it.

    selected, last   loss of the selected and of the last epoch's model
    """

    task: Name
    before: Score
    selected: Score
    last: Score

    @property
    def rise(self) -> float:
        """How much the selected epoch's model has forgotten: its loss minus the loss before training."""
        return _number(self.selected) - _number(self.before)


class Stopped(msgspec.Struct, kw_only=True):
    """A run that was ended on purpose: after which epoch, counted from 1, and why."""

    epoch: Positive
    reason: str


class RunRecord(msgspec.Struct, kw_only=True, dict=True):
    """One run. Scores are fractions, times seconds, memory bytes.

    status      ``completed``, ``failed`` or ``interrupted``; ``error`` says why
    config      all settings as given; ``settings`` is a typed view of them
    deviations  settings that differ from the protocol's: key -> [value, the protocol's value]
    spectrum    spectra of the updates of adapted weights, if requested
    resamples   how many draws the method made after the first: of whole subspaces, or of one direction of every weight
                with ``stagger``. None in records older than the count
    basis_age   with draws along an earlier weight's directions (``method.svd_of``), how many steps old it was at most
    forgetting  loss on another task's text before and after training; None unless requested
    candidates  of a method that trains nothing, the names of the models that it chose among. Each took the place of an
                epoch, so the scores of the n-th are those of the n-th epoch
    stopped     set if the run was ended before its last epoch because it had collapsed. It is completed: its scores are
                those of the epochs made, and it counts as collapsed
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

    @property
    def path_name(self) -> str:
        """Name of the record's file."""
        return f"{self.id}.json"

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
        return _number(self.selected[self.scores.reported])

    @property
    def last_score(self) -> float:
        """The reported score of the last epoch, NaN if undefined. Raises `KeyError` if the run did not finish."""
        return _number(self.last[self.scores.reported])

    @property
    def selection_score(self) -> float:
        """The score that the epoch was selected by; NaN if it is undefined or the run did not finish."""
        found = self.scores.selection_score
        return math.nan if found is UNSET else _number(found)

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
        if self.stopped:
            return True
        spread = _number(self.last.spread)
        return None if math.isnan(spread) else spread < LEAST_SPREAD


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


def _number(score: float | None) -> float:
    return math.nan if score is None else score
