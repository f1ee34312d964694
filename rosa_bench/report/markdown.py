"""A table as Markdown that reads well unrendered, too."""

import re

from rosa_bench.report.table import Column, Entry, Section, Table
from rosa_bench.report.text import MISSING, raised


def markdown(table: Table, counts: str) -> str:
    """The whole document. ``counts`` says what it was made from."""
    parts = [f"# {_plain(table.title)}", *map(_plain, table.intro), _plain(counts)]
    return (
        "\n\n".join([*parts, *(_section(number, section) for number, section in enumerate(table.sections, 1))]) + "\n"
    )


def entry_text(entry: Entry, column: Column, *, strong: str = "") -> str:
    """``54.3 ± 1.2 (3) / 54.27``; ``strong`` is put around the best mean."""
    if entry.mean is None and entry.paper is None:
        return MISSING
    quote = strong if entry.best else ""
    ours = MISSING if entry.mean is None else f"{quote}{entry.mean}{quote}"
    ours += f" ± {entry.spread}" if entry.spread else ""
    ours += f" ({entry.count}){entry.mark}" if entry.count else ""
    return f"{ours} / {entry.paper or MISSING}" if column.paper else ours


def column_text(column: Column) -> str:
    """A column's heading, with its note's number."""
    return f"{column.title}{raised(column.note)}" if column.note else column.title


def _section(number: int, section: Section) -> str:
    facts = "\n".join(f"- {name}: {_plain(text)}" for name, text in section.facts.items())
    head = ["Method", *(_plain(column_text(column)) for column in section.columns)]
    body = [
        [
            _plain(line.label),
            *(entry_text(*pair, strong="**") for pair in zip(line.entries, section.columns, strict=True)),
        ]
        for line in section.lines
    ]
    widths = [max(len(row[index]) for row in [head, *body]) for index in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    rows = "\n".join(_row(row, widths) for row in [head, rule, *body])
    notes = "\n".join(f"- {_plain(_numbered(note))}" for note in section.notes)
    return "\n\n".join(filter(None, [f"## {number}. {_plain(section.heading)}", facts, rows, notes]))


def _row(cells: list[str], widths: list[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    return f"| {' | '.join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)])} |"


def _numbered(note: str) -> str:
    number, _, text = note.partition(" ")
    return f"{raised(int(number))} {text}" if number.isdecimal() else note


def _plain(text: str) -> str:
    """Text in which no character is Markdown."""
    return re.sub(r"([\\`*|<>\[\]])", r"\\\1", text)
