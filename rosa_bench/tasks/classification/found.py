"""Find in the user's own data what a task on them leaves open: columns, classes or numbers, and held-out rows."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from rosa_bench.data.columns import find_label, find_text
from rosa_bench.data.hub import Place, fetch_rows
from rosa_bench.data.reading.readers import stream_rows
from rosa_bench.data.reading.values import as_number, brief, class_name, is_blank
from rosa_bench.data.rows import check_columns, columns_of, files_of_rows
from rosa_bench.data.source import files_of_split
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.classification.own import CLASSES, NUMBERS, OwnTask

VALIDATION = ("validation", "valid", "dev", "val", "test")
HEAD = 1000  # rows in which columns are looked for
MOST_CLASSES = 1000
LARGEST = 1e15  # the squares of much larger numbers are no float32
MOST_WHOLE_NUMBERS = 20  # with more different whole numbers, they are learned as numbers

AnOwnTask = TypeVar("AnOwnTask", bound=OwnTask)


@dataclass
class Labels:
    """What the label column of some rows holds, gathered row by row. Memory is bounded by `MOST_CLASSES`.

    classes   how many rows have each class, while there are at most `MOST_CLASSES` + 1
    first     number of the first row with each class
    blank     number of rows without a label, and ``first_blank`` the first of them
    word, number   the first cell of each kind, with its row
    """

    column: str
    where: str
    rows: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    blank: int = 0
    first_blank: int = 0
    word: tuple[object, int] | None = None
    number: tuple[object, int] | None = None
    fractions: bool = False
    least: float = float("inf")
    greatest: float = float("-inf")

    def add(self, row: Mapping[str, Any]) -> None:
        """Take one more row into account."""
        self.rows += 1
        value = row.get(self.column)
        name = class_name(value)
        if name is None:
            if not is_blank(value):
                raise UserError(
                    f"{self.where}, row {self.rows}: column {self.column} contains {brief(value)}, which is no label"
                )
            self.blank += 1
            self.first_blank = self.first_blank or self.rows
            return
        if (number := as_number(value)) is None:
            self.word = self.word or (value, self.rows)
        else:
            self.number = self.number or (value, self.rows)
            self.fractions |= number != int(number)
            self.least, self.greatest = min(self.least, number), max(self.greatest, number)
        if name in self.classes or len(self.classes) <= MOST_CLASSES:
            self.classes[name] = self.classes.get(name, 0) + 1
            self.first.setdefault(name, self.rows)


def found(task: AnOwnTask, place: Place, *, title: str) -> AnOwnTask:
    """Return the task with its columns, labels, metric and splits filled in.

    Reads every row once, as a stream. Raises `UserError`, in one line, for data that cannot be learned or scored.
    """
    if place is None:  # on the hub, where only the usual name is known
        task = dataclasses.replace(task, validation=task.validation or VALIDATION[0])
        place = fetch_rows(task, place)
    train = _Split(task, task.train, place)
    label = find_label(train.head, task.label, task.text, where=train.where)
    text = find_text(train.head, task.text, label, where=train.where)
    if label in text:
        raise UserError(f"{train.where}: column {label} is both the text and the label; set task.label or task.text")
    labels = _looked_at(train, label, text)
    if labels.blank:
        raise UserError(f"{_unlabelled(labels)}; remove those rows, or give them labels")
    task = dataclasses.replace(task, text=text, label=label, title=title)
    validation, other = _validation(task, place)
    task = dataclasses.replace(task, validation=validation)
    return (
        _with_numbers(task, labels, other) if _learns(task, labels) == NUMBERS else _with_classes(task, labels, other)
    )


class _Split:
    """The rows of a split as a stream, of which the ``head`` is known. Raises `UserError` if there are none."""

    def __init__(self, task: OwnTask, split: str, place: Place):
        paths, self.where = files_of_rows(task, split, place)
        rows = chain.from_iterable(stream_rows(path) for path in paths)
        self.head = list(islice(rows, HEAD))
        self._rest = rows
        if not self.head:
            raise UserError(f"{self.where} has no rows")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return chain(self.head, self._rest)


def _looked_at(split: _Split, label: str, text: Iterable[str]) -> Labels:
    """Gather the labels of all rows. Raises `UserError` for a text column that is empty in all of them."""
    labels = Labels(label, split.where)
    empty = set(text)
    for row in split:
        labels.add(row)
        if empty:
            empty = {name for name in empty if is_blank(row.get(name))}
    if empty:
        name = sorted(empty)[0]
        others = ", ".join(one for one in columns_of(split.head) if one != name)
        raise UserError(f"{split.where}: column {name} is empty in all {labels.rows} rows; the other columns: {others}")
    return labels


def _validation(task: OwnTask, place: Place) -> tuple[str, Labels | None]:
    """Return the split to evaluate on, and its labels; None if there is no such file, so that train rows are held out.

    Test rows without labels cannot be scored and are left out.
    """
    for split in [task.validation] if task.validation else VALIDATION:
        if isinstance(place, Path) and not files_of_split(task, split, place):
            continue
        rows = _Split(task, split, place)
        check_columns(columns_of(rows.head), task.text, where=rows.where)
        without = task.label not in columns_of(rows.head)
        labels = Labels(task.label, rows.where) if without else _looked_at(rows, task.label, task.text)
        if not (without or labels.blank):
            return split, labels
        if split == "test" and not task.validation and (without or labels.blank == labels.rows):
            continue
        said = f"{rows.where} has no column {task.label}" if without else _unlabelled(labels)
        raise UserError(
            f"{said}, so its rows cannot be scored; add the labels, or remove the file: train rows are then held out"
        )
    return task.validation or VALIDATION[0], None


def _unlabelled(labels: Labels) -> str:
    many = f"all {labels.rows}" if labels.blank == labels.rows else f"{labels.blank} of {labels.rows}"
    return (
        f"{labels.where}: {many} rows have no label in column {labels.column} (the first is row {labels.first_blank})"
    )


def _learns(task: OwnTask, labels: Labels) -> str:
    """Return whether to learn classes or numbers, as the task or else the labels say."""
    if task.learns is not None or task.labels or task.interval:
        wanted = task.learns or (CLASSES if task.labels else NUMBERS)
        if wanted == NUMBERS and labels.word:
            value, row = labels.word
            raise UserError(
                f"{labels.where}, row {row}: column {labels.column} contains {brief(value)}, not a number; "
                "task.learns=classes, or task=classify, takes words"
            )
        return wanted
    if labels.word and labels.number:
        (word, at), (number, place) = labels.word, labels.number
        raise UserError(
            f"{labels.where}: column {labels.column} mixes numbers and words: {brief(number)} in row {place}, "
            f"{brief(word)} in row {at}; correct it, or set task.learns=classes to take each as a class"
        )
    many = not labels.word and len(labels.classes) > MOST_WHOLE_NUMBERS
    return NUMBERS if labels.fractions or many else CLASSES


def _with_classes(task: AnOwnTask, labels: Labels, other: Labels | None) -> AnOwnTask:
    where, column = labels.where, labels.column
    if len(labels.classes) > MOST_CLASSES:
        raise UserError(
            f"{where}: column {column} has more than {MOST_CLASSES:,} different labels; set task.label to the column "
            "of the classes"
        )
    if len(labels.classes) == 1:
        raise UserError(
            f"{where}: all {labels.rows} rows have the label {brief(next(iter(labels.classes)))} in column {column}; "
            "there must be two or more classes"
        )
    others = other.classes if other else {}
    if unknown := [name for name in others if name not in labels.classes]:
        assert other is not None
        raise UserError(
            f"{other.where}, row {other.first[unknown[0]]}: no train row has the label {brief(unknown[0])}; the labels "
            f"are {brief(sorted(labels.classes))}"
        )
    once = [name for name, count in labels.classes.items() if count + others.get(name, 0) == 1]
    if once:
        listed = ", ".join(f"{brief(name)} (row {labels.first[name]})" for name in once[:5])
        more = f" and {len(once) - 5} more" if len(once) > 5 else ""
        raise UserError(
            f"{where}: labels that occur once cannot be learned: {listed}{more}; correct or remove these rows, or set "
            f"task.learns=numbers if they are numbers"
        )
    if task.labels and set(task.labels) != set(labels.classes):
        raise UserError(f"task.labels={task.labels} are not the labels of {where}, which are {sorted(labels.classes)}")
    return dataclasses.replace(
        task,
        learns=CLASSES,
        labels=task.labels or sorted(labels.classes, key=_order),
        metric=task.metric or "classes",
        score=task.score or "accuracy",
    )


def _order(name: str) -> tuple[bool, float, str]:
    """Sort key of class names: numbers by size, then words by the alphabet."""
    number = as_number(name)
    return number is None, 0 if number is None else number, name


def _with_numbers(task: AnOwnTask, labels: Labels, other: Labels | None) -> AnOwnTask:
    if labels.least == labels.greatest:
        raise UserError(
            f"{labels.where}: all {labels.rows} rows have the label {labels.least:g} in column {labels.column}; there "
            "must be two or more"
        )
    if other and other.word:
        raise UserError(
            f"{other.where}, row {other.word[1]}: column {other.column} contains {brief(other.word[0])}, not a number"
        )
    ends: list[float] = []
    for some in [labels, other] if other else [labels]:
        ends += some.least, some.greatest
        if abs(far := max(some.least, some.greatest, key=abs)) > LARGEST:
            raise UserError(
                f"{some.where}: column {some.column} contains {far:g}, too large a number to learn; divide the labels "
                "to about 10 or less, or set task.learns=classes if they are names"
            )
    return dataclasses.replace(
        task,
        learns=NUMBERS,
        interval=task.interval or [float(min(ends)), float(max(ends))],
        metric=task.metric or "correlation",
        score=task.score or "pearson",
    )
