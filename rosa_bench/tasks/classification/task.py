"""Declaration of a text classification or regression task. Imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from rosa_bench.data.reading.values import brief
from rosa_bench.models.spec import Encoder, Model
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting
from rosa_bench.tasks.base import Task


@dataclass(kw_only=True)
class Mark:
    """A word to mark in a text: the columns with the index of its first character and of the one after its last."""

    start: str
    end: str


@dataclass(frozen=True, kw_only=True)
class TextTask(Task):
    """Classification of, or regression on, one text or a pair."""

    text: list[str] = setting("column of the text, or the two columns of the pair")
    label: str = setting("column of the label", default="label")
    labels: list[str] = setting("class names in the order of their indices; empty for regression", default_factory=list)
    interval: list[float] = setting("smallest and largest label, for regression", default_factory=list)
    marks: dict[str, Mark] = setting("by text column, a word to enclose in markers", default_factory=dict)
    marker: str = setting("the marker", default="*")
    metric: str = setting("module of rosa_bench.metrics; score is one of its scores")

    refused: ClassVar[Mapping[str, str]] = {}
    model_kind: ClassVar[type[Model]] = Encoder
    prepared_by: ClassVar[str] = "rosa_bench.tasks.classification.prepare"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_declared()

    def check_declared(self) -> None:
        """Raise `UserError` unless the columns and the labels are declared."""
        if not 1 <= len(self.text) <= 2:
            raise UserError(f"task.text={self.text} must list one column, or two for a pair")
        if bool(self.labels) == bool(self.interval):
            raise UserError(f"task {self.name} needs either task.labels (classification) or task.interval (regression)")

    @property
    def validation_fraction(self) -> float:
        """Fraction of the train rows that replaces a missing file of validation rows; 0: there must be one."""
        return 0.0

    def label_of(self, value: object) -> int | float:
        """Return the class index or the value that a file's label means. Raises `ValueError` if it is none."""
        if self.labels:
            if isinstance(value, (int, float)) and value in range(len(self.labels)):
                return int(value)
            numbers = f"0 to {len(self.labels) - 1} in {brief(self.labels)}"
            raise ValueError(f"label {brief(value)} is not the number of a class, {numbers}")
        least, greatest = self.interval
        if isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= greatest:
            return float(value)
        raise ValueError(f"label {brief(value)} is not between {least:g} and {greatest:g}")

    @property
    def num_outputs(self) -> int:
        """Size of the model's head: one output per class, or one for regression."""
        return len(self.labels) or 1

    @property
    def numbers(self) -> list[str]:
        """Columns that hold numbers: the spans of marked words, and the label."""
        return [*(column for mark in self.marks.values() for column in (mark.start, mark.end)), self.label]

    @property
    def columns(self) -> list[str]:
        """All required columns."""
        return [*self.text, *self.numbers]
