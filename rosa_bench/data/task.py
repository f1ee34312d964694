"""What a task is: a declaration, composed from ``conf/task/<name>.yaml``. Imports nothing heavy."""

from abc import ABC
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from rosa_bench.errors import UserError
from rosa_bench.models.spec import Encoder, Model


@dataclass(kw_only=True)
class HubData:
    """Where a task lives on the Hugging Face hub. ``name`` is the configuration of a data set that has several.

    files  where its parquet files are, ``{split}`` in it, for one that has no readable form of its own
    """

    path: str
    name: str | None = None
    revision: str | None = None
    files: str | None = None


@dataclass(kw_only=True)
class Mark:
    """A word to point at inside a text: the columns of its first character and of the one after its last."""

    start: str
    end: str


class Figure(NamedTuple):
    """A figure among a run's scores, and which way is up."""

    name: str
    lower_is_better: bool


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """What every kind of task declares. `rosa_bench.problems` makes of each kind what a run works on.

    title      as in a table
    score      the figure that is reported, ``lower_is_better`` or not
    has_text   whether its examples are texts, which are cut and padded
    rows       official number of rows by split, so that a partial copy is known as one
    synthetic  whether the rows are made by a program; said wherever its figures appear
    embedded   ``module:function`` of that program
    folder     under ``data_dir``; ``hub`` is the other source
    train, validation  names of the splits
    """

    name: str
    title: str
    score: str
    train: str = "train"
    validation: str = "validation"
    rows: dict[str, int] = field(default_factory=dict)
    synthetic: bool = False
    embedded: str | None = None
    folder: str | None = None
    hub: HubData | None = None

    lower_is_better: ClassVar[bool] = False
    has_text: ClassVar[bool] = False
    model_kind: ClassVar[type[Model]]

    def __post_init__(self) -> None:
        if self.hub is None and self.folder is None and self.embedded is None:
            raise UserError(f"task {self.name} must say where its rows are: hub, folder or embedded")

    @property
    def selects_by(self) -> Figure:
        """The figure of an epoch that says how good it was: the reported one, unless that costs too much to have."""
        return Figure(self.score, self.lower_is_better)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that a run reads."""
        return (self.train, self.validation)

    def check(self, model: Model) -> None:
        """Raise `UserError` unless the task can be run with ``model``."""
        if not isinstance(model, self.model_kind):
            raise UserError(f"task={self.name} is not for model={model.name}; it needs {self.model_kind.described}")


@dataclass(frozen=True, kw_only=True)
class TextTask(Task):
    """Classification of, or regression on, one text or a pair.

    text       the columns of the text, or of the pair
    marks      by text column, a word to set between ``marker`` signs
    label      the column of the label
    labels     names of the classes in the order of their numbers; none means regression
    interval   for regression, the least and the greatest label
    metric     module of `rosa_bench.metrics`; ``score`` is one of its figures
    """

    text: list[str]
    label: str = "label"
    labels: list[str] = field(default_factory=list)
    interval: list[float] = field(default_factory=list)
    marks: dict[str, Mark] = field(default_factory=dict)
    marker: str = "*"
    metric: str

    has_text: ClassVar[bool] = True
    model_kind: ClassVar[type[Model]] = Encoder

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.text) <= 2:
            raise UserError(f"task.text={self.text} must name one column, or two for a pair")
        if bool(self.labels) == bool(self.interval):
            raise UserError(f"task {self.name} must name either its classes (labels) or its interval, for regression")

    @property
    def num_outputs(self) -> int:
        """How many figures the model's head gives for an example: one a class, or one for regression."""
        return len(self.labels) or 1

    @property
    def numbers(self) -> list[str]:
        """The columns that hold numbers: the spans of marked words, and the label."""
        return [*(column for mark in self.marks.values() for column in (mark.start, mark.end)), self.label]

    @property
    def columns(self) -> list[str]:
        """Every column that must be there."""
        return [*self.text, *self.numbers]
