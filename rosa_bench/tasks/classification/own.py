"""Declaration of a task on the user's own data. Imports nothing heavy."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from rosa_bench.data.reading.values import as_number, brief, class_name
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting
from rosa_bench.tasks.classification.task import TextTask

if TYPE_CHECKING:
    from rosa_bench.data.hub import Place

CLASSES, NUMBERS = "classes", "numbers"


@dataclass(frozen=True, kw_only=True)
class OwnTask(TextTask):
    """Classification of, or regression on, the user's own texts. What is not set is found in the data.

    A label in a file is the name of a class, as a word or a number, or a number to predict.
    """

    text: list[str] = setting(
        "column of the text, or the two columns of a pair; []: found in the data", default_factory=list, found=True
    )
    label: str = setting("column of the label; '': found in the data", default="", found=True)
    labels: list[str] = setting("class names; []: those in the data, sorted", default_factory=list, found=True)
    interval: list[float] = setting(
        "smallest and largest label, for regression; []: found in the data", default_factory=list, found=True
    )
    metric: str = setting("module of rosa_bench.metrics; '': the one for the labels", default="", found=True)
    score: str = setting("the metric that is reported; '': accuracy or pearson", default="", found=True)
    learns: str | None = setting(
        "classes or numbers; null: numbers if labels have fractions or more than 20 whole values",
        default=None, choices=(CLASSES, NUMBERS), found=True,
    )  # fmt: skip
    validation: str = setting(
        "name of the split to evaluate on; '': the first of validation, valid, dev, val and test",
        default="",
        found=True,
    )
    validation_share: float = setting(
        "fraction of the train rows that replaces a missing file of validation rows, the same for every seed",
        default=0.2, above=0, below=1,
    )  # fmt: skip

    def check_declared(self) -> None:
        if len(self.text) > 2 or len(set(self.text)) < len(self.text):
            raise UserError(f"task.text={self.text} must list one column, or two for a pair")
        if self.labels and self.interval:
            raise UserError("task.labels is for classes and task.interval for numbers; set one of them")

    def found_in(self, place: Place, *, title: str) -> Self:
        return importlib.import_module("rosa_bench.tasks.classification.found").found(self, place, title=title)

    def label_of(self, value: object) -> int | float:
        if self.labels:
            name = class_name(value)
            if name not in self.labels:
                raise ValueError(f"label {brief(value)} is not one of {brief(self.labels)}")
            return self.labels.index(name)
        return super().label_of(as_number(value))

    @property
    def numbers(self) -> list[str]:
        return [column for column in super().numbers if column != self.label]  # words or numbers: read as written

    @property
    def columns(self) -> list[str]:
        return [*self.text, *self.numbers, self.label]

    @property
    def optional_splits(self) -> tuple[str, ...]:
        return (self.validation,)

    @property
    def validation_fraction(self) -> float:
        return self.validation_share
