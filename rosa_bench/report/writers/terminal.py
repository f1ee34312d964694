"""Print a table to the terminal: only rows and columns with figures of ours, in blocks that fit the width."""

from collections.abc import Iterable

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from rosa_bench.report.tables.building.table import Section, Table, with_texts
from rosa_bench.report.writers.markdown import CONTRAST_HEAD, column_text, contrast_texts, entry_text
from rosa_bench.report.writers.text import blocks
from rosa_bench.system.text.printable import printable

GAP = 2  # blank characters after a cell
DIVIDER = 1  # extra character between two columns
LEAST_WIDTHS = {"Method": 10, "Task": 6}  # of the columns of comparisons that may wrap, because names can be long


def show(table: Table, console: Console) -> None:
    """Print every section of a table."""
    console.print(Text(table.title, style="bold"))
    console.print(Text(table.legend, style="dim"))
    show_sections(table.sections, console)


def show_sections(sections: Iterable[Section], console: Console) -> None:
    """Print numbered sections."""
    for number, section in enumerate((with_texts(section, printable) for section in sections), start=1):
        console.print()
        console.print(Text(f"{number}. {section.heading}", style="bold"))
        _show_section(section, console)


def _show_section(section: Section, console: Console) -> None:
    section = section.filled
    header = RichTable.grid(padding=(0, GAP, 0, 0))
    for name, text in section.header.items():
        header.add_row(Text(name, style="dim"), Text(text))
    console.print(header)
    for block in _blocks(section, console.width):
        console.print()
        console.print(_block(section, block))
    if section.notes:
        console.print()
    for note in section.notes:
        console.print(Text(note, style="dim"))
    if section.contrasts:
        console.print()
        console.print(Text(section.contrast_heading, style="dim"))
        console.print()
        console.print(_contrasts(section))


def _contrasts(section: Section) -> RichTable:
    table = _empty()
    for name, is_figure in CONTRAST_HEAD.items():
        least = LEAST_WIDTHS.get(name)
        table.add_column(
            name, justify="right" if is_figure else "left", no_wrap=least is None, min_width=least, overflow="fold"
        )
    for contrast in section.contrasts:
        table.add_row(*(Text(text) for text in contrast_texts(contrast)))
    return table


def _blocks(section: Section, width: int) -> list[list[int]]:
    """Split the columns' indices into blocks that fit the width. A column that is too wide gets its own block."""

    def needed(index: int) -> int:
        column = section.columns[index]
        texts = [column_text(column), *(entry_text(line.entries[index], column) for line in section.lines)]
        return GAP + DIVIDER + max(map(cell_len, texts))

    label = max(cell_len(text) for text in [section.head, *(line.title for line in section.lines)])
    return blocks([needed(index) for index in range(len(section.columns))], width - label)


def _empty() -> RichTable:
    return RichTable(box=box.SIMPLE_HEAD, padding=(0, GAP, 0, 0), pad_edge=False, show_edge=False)


def _block(section: Section, block: list[int]) -> RichTable:
    table = _empty()
    table.add_column(Text(section.head))
    for index in block:
        table.add_column(Text(column_text(section.columns[index])), justify="right", no_wrap=True)
    for line in section.lines:
        if all(line.entries[index].mean is None for index in block):
            continue
        texts = (
            Text(
                entry_text(line.entries[index], section.columns[index]),
                style="bold" if line.entries[index].best else "",
            )
            for index in block
        )
        table.add_row(Text(line.title), *texts)
    return table
