"""The parts of a record that say what a run measured: scores by epoch, spectra of updates, forgetting."""

import math

import msgspec
from msgspec import UNSET, UnsetType, field

from rosa_bench.records.parts.mappings import Result
from rosa_bench.records.parts.types import Count, Duration, FileName, Name, Positive, Score

# Rows that may select the epoch: held out of train, dev itself, a validation split if a test split is reported, or the
# train rows where they are what is memorised.
SELECTED_ON = ("held_out", "validation", "validation_split", "train")


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
        return number(self.selected) - number(self.before)


class Stopped(msgspec.Struct, kw_only=True):
    """A run that was ended on purpose: after which epoch, counted from 1, and why."""

    epoch: Positive
    reason: str


def number(score: float | None) -> float:
    """Return a score, NaN if it is undefined."""
    return math.nan if score is None else score
