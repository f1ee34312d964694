"""Divide a LaTeX table into blocks of columns and rows that fit a page of the article class, with short row names."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from rosa_bench.report.tables.building.table import Column, Entry, Line, Section
from rosa_bench.report.writers.text import MISSING, blocks

TEXT_WIDTH = 345  # text width of LaTeX's article class, in points
PAGE_LINES = 55  # of a page, beside the caption
RULES = 3.5  # lines that a block's head, rules and gaps take
# Generous widths in points: a \scriptsize character, a subscript character, the gap between columns.
CHARACTER, SUBSCRIPT, GAP = 4.1, 3.6, 6
LABEL_WIDTH = 0.45 * TEXT_WIDTH  # at most; wider names are broken into lines
NOTE_CHARACTERS = 110  # in a line below the table
LONGEST_VALUE, LAST = 14, 10  # characters of a setting's value: of a longer one, only the last are shown


@dataclass(frozen=True)
class Block:
    """Some columns, by index, and rows of a section: one ``tabular``."""

    columns: tuple[int, ...]
    lines: tuple[Line, ...]


def pages(section: Section, below: Sequence[str]) -> list[list[Block]]:
    """Divide a section into pages of blocks. The first page has room for the lines ``below`` them."""
    noted = sum(math.ceil(len(text) / NOTE_CHARACTERS) for text in below)
    room = max(PAGE_LINES - noted, PAGE_LINES // 3)
    found: list[list[Block]] = [[]]
    left = room
    for block in _blocks(section, room):
        height = RULES + sum(_height(section, line) for line in block.lines)
        if found[-1] and height > left:
            found.append([])
            left = PAGE_LINES
        found[-1].append(block)
        left -= height
    return found


def short_labels(lines: Sequence[Line]) -> Mapping[str, str]:
    """Return a short name of each row by its label, or the label itself if two would share a short one.

    >>> short_labels([Line(label="ROSA (r=8, resample_every=2)", entries=[])])
    {'ROSA (r=8, resample_every=2)': 'ROSA (r=8, every 2)'}
    """
    return _short_names(tuple(line.label for line in lines))


def is_counted(section: Section) -> bool:
    """Whether cells must show their number of seeds. If it is the same in all, the text below the table says it."""
    return len({entry.count for line in section.lines for entry in line.entries if entry.count}) > 1


def is_wide(section: Section) -> bool:
    """Whether row names are so long that they are broken into lines."""
    return CHARACTER * _longest(section) > LABEL_WIDTH


@cache
def _short_names(labels: tuple[str, ...]) -> dict[str, str]:
    short = {label: _short(label) for label in labels}
    counts = Counter(short.values())
    return {label: name if counts[name] == 1 else label for label, name in short.items()}


def _short(label: str) -> str:
    parts = []
    for part in label.replace("resample_every=", "every ").split(", "):
        key, equals, value = part.partition("=")
        long = equals and len(value.rstrip(")")) > LONGEST_VALUE
        parts.append(f"{key}=...{value[-LAST:]}" if long else part)
    return ", ".join(parts)


def _blocks(section: Section, room: int) -> Iterator[Block]:
    """Yield blocks of columns, each without rows that are empty in it, and in chunks that fit a page."""
    counted = is_counted(section)
    widths = [
        GAP
        + max(
            CHARACTER * len(column.title),
            *(_width(line.entries[index], column, counted=counted) for line in section.lines),
        )
        for index, column in enumerate(section.columns)
    ]
    label = min(CHARACTER * _longest(section), LABEL_WIDTH)
    for columns in blocks(widths, TEXT_WIDTH - label):
        lines = [line for line in section.lines if any(line.entries[index].mean for index in columns)]
        chunk: list[Line] = []
        height = RULES
        for line in lines:
            if chunk and height + _height(section, line) > room:
                yield Block(tuple(columns), tuple(chunk))
                chunk, height = [], RULES
            chunk.append(line)
            height += _height(section, line)
        yield Block(tuple(columns), tuple(chunk))


def _longest(section: Section) -> int:
    labels = short_labels(section.lines)
    return max(len(labels[line.label] + line.mark) for line in section.lines)


def _height(section: Section, line: Line) -> int:
    """Return the lines that a row takes."""
    name = short_labels(section.lines)[line.label]
    return math.ceil(CHARACTER * len(name) / LABEL_WIDTH)


def _width(entry: Entry, column: Column, *, counted: bool) -> float:
    """Estimate the width of a cell in points."""
    count = f" ({entry.count})" if entry.count and counted else ""
    beside = f" / {entry.paper}" if column.paper and entry.paper else ""
    text = (MISSING if entry.mean is None else entry.mean) + count + entry.mark + beside
    return CHARACTER * len(text) + SUBSCRIPT * len(f"±{entry.spread or ''}")
