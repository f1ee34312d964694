"""A finished table before it is written: what the builders make, and the writers of Markdown, LaTeX and others take."""

from dataclasses import dataclass, field

CONTRASTS = "Compared with LoRA at equal rank, paired over seeds"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One cell, in words: our figure beside the paper's; either may be missing.

    spread  of the mean over ``count`` runs; none for one run, or where it means nothing
    mark    a sign that one of the section's notes explains
    best    better than every other row of its column, by more than chance would do
    """

    mean: str | None = None
    spread: str | None = None
    count: int | None = None
    mark: str = ""
    paper: str | None = None
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column's heading. ``note``: its note's number; ``paper``: whether the paper's figures stand in it."""

    title: str
    note: int | None = None
    paper: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row: its name, and an entry a column."""

    label: str
    entries: list[Entry]

    @property
    def is_empty(self) -> bool:
        """Whether there is no figure of ours."""
        return all(entry.mean is None for entry in self.entries)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A row's figure less LoRA's of equal rank, in one column, in words. ``interval`` and ``p`` may be unknown."""

    label: str
    column: str
    difference: str
    interval: str | None
    p: str | None
    count: int
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """The runs of one setting: what they share (``header``: name -> text), their table, notes to it, and comparisons.

    head  what stands above the rows' names
    """

    heading: str
    header: dict[str, str]
    columns: list[Column]
    lines: list[Line]
    head: str = "Method"
    notes: list[str] = field(default_factory=list)
    contrasts: list[Contrast] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper, made again: one section a setting. ``tidy`` has the same figures, one row a cell.

    name   of its files; ``intro`` tells how to read it
    """

    name: str
    title: str
    intro: list[str]
    sections: list[Section]
    tidy: list[dict[str, str]]
