"""A finished table in memory: made by the builders, and written as Markdown, LaTeX and other formats."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

Part = TypeVar("Part")
OWN_LEGEND = "mean ± standard deviation (seeds)"
CONTRASTS = "Compared with LoRA at equal rank, paired over seeds"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One cell as text: our figure and the paper's. Either may be missing.

    spread     standard deviation over ``count`` runs; None for one run, or if it is not meaningful
    collapsed  how many of these runs collapsed
    mark       symbol that one of the section's notes explains
    best       better than every other row in its column by more than chance; of a difference: significant
    """

    mean: str | None = None
    spread: str | None = None
    count: int | None = None
    collapsed: int = 0
    mark: str = ""
    paper: str | None = None
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column's heading. ``note`` is the number of its note; ``paper`` says whether it has figures from the paper."""

    title: str
    note: int | None = None
    paper: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row: its name, and one entry per column. ``mark`` is a symbol that holds for all its entries."""

    label: str
    entries: list[Entry]
    mark: str = ""

    @property
    def title(self) -> str:
        """The row's name with its mark."""
        return self.label + self.mark

    @property
    def is_empty(self) -> bool:
        """Whether the row has no figure of ours."""
        return all(entry.mean is None for entry in self.entries)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A row's figure minus LoRA's at the same rank, in one column, as text.

    difference  with its interval, if known: ``-0.9 [-3.5, +1.7]``
    p           p-value after Holm's correction over the section; None if there is no test
    """

    label: str
    column: str
    difference: str
    p: str | None
    count: str
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """The runs of one setting: what they share (``header``: name -> text), their table, its notes, and comparisons.

    head  heading of the column of row names
    """

    heading: str
    header: dict[str, str]
    columns: list[Column]
    lines: list[Line]
    head: str = "Method"
    notes: list[str] = field(default_factory=list)
    contrasts: list[Contrast] = field(default_factory=list)

    @property
    def filled(self) -> "Section":
        """The same without rows and columns that have no figure of ours, whatever the paper printed there."""
        lines = [line for line in self.lines if not line.is_empty]
        shown = [index for index in range(len(self.columns)) if any(line.entries[index].mean for line in lines)]
        printed = [
            column.paper and any(line.entries[index].paper for line in lines)
            for index, column in enumerate(self.columns)
        ]
        return replace(
            self,
            columns=[replace(self.columns[index], paper=printed[index]) for index in shown],
            lines=[replace(line, entries=[line.entries[index] for index in shown]) for line in lines],
        )

    @property
    def contrast_heading(self) -> str:
        """The heading of the comparisons, with the size of their family."""
        tests = sum(one.p is not None for one in self.contrasts)
        return f"{CONTRASTS}; Holm's correction is over {tests} test{'' if tests == 1 else 's'}"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A reproduction of one of the paper's tables, with one section per setting.

    name    stem of its files
    intro   paragraphs on how to read it
    tidy    the same figures, one row per cell
    legend  what a terminal shows of ``intro``
    """

    name: str
    title: str
    intro: list[str]
    sections: list[Section]
    tidy: list[dict[str, str]]
    legend: str = f"ours / the paper's, if any; {OWN_LEGEND}"


def with_texts(part: Part, change: Callable[[str], str]) -> Part:
    """Return a copy of a section, or of any part of one, with every text changed."""
    return _changed(part, change)


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_changed(one, change) for one in value]
    if isinstance(value, dict):
        return {change(key): _changed(one, change) for key, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: _changed(getattr(value, one.name), change) for one in fields(value)})
    return value
