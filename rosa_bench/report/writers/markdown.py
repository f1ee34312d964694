"""Write a table as Markdown that is also readable as plain text."""

import re

from rosa_bench.report.tables.building.table import Column, Contrast, Entry, Section, Table
from rosa_bench.report.writers.text import MISSING, superscript
from rosa_bench.system.text.printable import printable

# Columns of a comparison -> whether they hold numbers.
CONTRAST_HEAD = {
    "Method": False,
    "Task": False,
    "Difference [95 %]": True,
    "p (Holm)": True,
    "Seeds": True,
    "Verdict": False,
}


def markdown(table: Table, counts: str) -> str:
    """Return the whole document. ``counts`` states the number of runs."""
    parts = [f"# {escape(table.title)}", *map(escape, table.intro), escape(counts)]
    return (
        "\n\n".join([*parts, *(_section(number, section) for number, section in enumerate(table.sections, 1))]) + "\n"
    )


def entry_text(entry: Entry, column: Column, *, strong: str = "") -> str:
    """Format ``54.3 ± 1.2 (3) / 54.27``; ``strong`` is put around the best mean."""
    if entry.mean is None and entry.paper is None:
        return MISSING
    quote = strong if entry.best else ""
    ours = MISSING if entry.mean is None else f"{quote}{entry.mean}{quote}"
    ours += f" ± {entry.spread}" if entry.spread else ""
    ours += (f" {count_text(entry)}" if entry.count else "") + entry.mark
    return f"{ours} / {entry.paper}" if column.paper and entry.paper else ours


def count_text(entry: Entry) -> str:
    """Format the number of seeds: ``(13)``, or if some collapsed ``(13, 1 collapsed)``."""
    return f"({entry.count}, {entry.collapsed} collapsed)" if entry.collapsed else f"({entry.count})"


def column_text(column: Column) -> str:
    """Return a column's heading with the number of its note."""
    return f"{column.title}{superscript(column.note)}" if column.note else column.title


def note_text(note: str) -> str:
    """Return a note, with its number as in the heading."""
    number, _, text = note.partition(" ")
    return f"{superscript(int(number))} {text}" if number.isdecimal() else note


def contrast_texts(contrast: Contrast) -> list[str]:
    """Return a comparison's cells in the order of `CONTRAST_HEAD`."""
    texts = [contrast.label, contrast.column, contrast.difference, contrast.p, contrast.count]
    return [*(text or MISSING for text in texts), contrast.verdict]


def _section(number: int, section: Section) -> str:
    section = section.filled
    header = "\n".join(f"- {name}: {escape(text)}" for name, text in section.header.items())
    head = [escape(section.head), *(escape(column_text(column)) for column in section.columns)]
    body = [
        [
            escape(line.title),
            *(entry_text(*pair, strong="**") for pair in zip(line.entries, section.columns, strict=True)),
        ]
        for line in section.lines
    ]
    rows = _aligned([head, *body], left={0})
    notes = "\n".join(f"- {escape(note_text(note))}" for note in section.notes)
    return "\n\n".join(
        filter(None, [f"## {number}. {escape(section.heading)}", header, rows, notes, *_contrasts(section)])  # pyrefly: ignore[no-matching-overload]
    )


def _contrasts(section: Section) -> list[str]:
    if not section.contrasts:
        return []
    # Brackets around an interval are no link, and stay readable in the source.
    body = [
        [
            text if name.startswith("Difference") else escape(text)
            for name, text in zip(CONTRAST_HEAD, texts, strict=True)
        ]
        for texts in map(contrast_texts, section.contrasts)
    ]
    left = {index for index, is_figure in enumerate(CONTRAST_HEAD.values()) if not is_figure}
    return [f"{section.contrast_heading}:", _aligned([list(CONTRAST_HEAD), *body], left=left)]


def _aligned(rows: list[list[str]], *, left: set[int]) -> str:
    """Align the rows of a table, the first being its head. Columns in ``left`` are left-aligned, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * width if index in left else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    head, *body = rows
    return "\n".join(_row(row, widths, left) for row in [head, rule, *body])


def _row(cells: list[str], widths: list[int], left: set[int]) -> str:
    padded = (
        cell.ljust(width) if index in left else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return f"| {' | '.join(padded)} |"


def escape(text: str) -> str:
    """Escape what Markdown, and GitHub's addresses without brackets, would turn into markup."""
    text = re.sub(r"([\\`*|<>\[\]])", r"\\\1", printable(text))
    text = re.sub(r"(?i)(https?:|ftp:|www)(?=//|\.)", r"\1\\", text)
    return re.sub(r"&(?=#?\w+;)", r"\\&", re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text))
