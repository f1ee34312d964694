"""Write a table as LaTeX, for a document that loads only booktabs."""

import re

from rosa_bench.report.tables.table import Column, Contrast, Entry, Section, Table
from rosa_bench.report.writers.markdown import count_text
from rosa_bench.report.writers.text import MISSING, blocks
from rosa_bench.system.printable import printable

TEXT_WIDTH = 345  # text width of LaTeX's article class, in points
# Generous widths in points: a \scriptsize character, a subscript character, the gap between columns.
CHARACTER, SUBSCRIPT, GAP = 4.1, 3.6, 6
SPECIAL = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", '"': "''",
    "|": r"\textbar{}", "±": r"$\pm$", "×": r"$\times$", "–": "--", "³": r"\textsuperscript{3}",
    "†": r"$^\dagger$", "‡": r"$^\ddagger$", "§": r"\textsuperscript{\S}", "¶": r"\textsuperscript{\P}",
})  # fmt: skip


def latex(table: Table, counts: str) -> str:
    """Return one ``table`` environment per section. ``counts`` states the number of runs."""
    head = [
        r"% Needs \usepackage{booktabs}. Made by rosa-bench tables; changes will be overwritten.",
        f"% {printable(counts)}",
    ]
    return (
        "\n".join([*head, *(_section(table, number, section) for number, section in enumerate(table.sections, 1))])
        + "\n"
    )


def escape(text: str) -> str:
    """Escape characters that are special in LaTeX. A line break could end a comment, so it is shown, not made."""
    return printable(text).translate(SPECIAL)


def _section(table: Table, number: int, section: Section) -> str:
    header = [f"{name}: {escape(text)}." for name, text in section.header.items()]
    return "\n".join([
        "",
        r"\begin{table}[tp]",
        r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{escape(section.heading)}. After the paper's {escape(table.title)}.}}",
        rf"\label{{tab:{table.name}-{number}}}",
        *(_tabular(section, block) for block in _blocks(section)),
        r"\begin{minipage}{\linewidth}\raggedright",
        *map(escape, table.intro),
        *header,
        *(f"{_note(note)}." for note in section.notes),
        *_contrasts(section),
        r"\end{minipage}",
        r"\end{table}",
    ])  # fmt: skip


def _tabular(section: Section, block: list[int]) -> str:
    """Write one block of columns as a ``tabular``; the blocks of a section are stacked on the page."""
    columns = [section.columns[index] for index in block]
    head = [escape(section.head), *(_heading(column) for column in columns)]
    counted = _is_counted(section)
    body = [
        [escape(line.title), *(_cell(line.entries[index], section.columns[index], counted=counted) for index in block)]
        for line in section.lines
    ]
    return "\n".join([
        rf"\begin{{tabular}}{{@{{}}l{'r' * len(block)}@{{}}}}",
        r"\toprule",
        rf"{' & '.join(head)} \\",
        r"\midrule",
        *(rf"{' & '.join(row)} \\" for row in body),
        r"\bottomrule",
        r"\end{tabular}\par\medskip",
    ])  # fmt: skip


def _blocks(section: Section) -> list[list[int]]:
    """Split the columns' indices into blocks that fit the page."""
    counted = _is_counted(section)

    def width(index: int) -> float:
        column = section.columns[index]
        cells = (_width(line.entries[index], column, counted=counted) for line in section.lines)
        return GAP + max(CHARACTER * len(column.title), *cells)

    label = CHARACTER * max(len(line.title) for line in section.lines)
    return blocks([width(index) for index in range(len(section.columns))], TEXT_WIDTH - label)


def _is_counted(section: Section) -> bool:
    """Whether cells must show their number of seeds. If it is the same in all, the text below the table says it."""
    return len({entry.count for line in section.lines for entry in line.entries if entry.count}) > 1


def _heading(column: Column) -> str:
    return escape(column.title) + (rf"\textsuperscript{{{column.note}}}" if column.note else "")


def _cell(entry: Entry, column: Column, *, counted: bool) -> str:
    """Format a cell: ``$\\mathbf{54.3}_{\\pm 1.2}$ / 54.27``."""
    if entry.mean is None and entry.paper is None:
        return escape(MISSING)
    ours = escape(_words(entry))
    if entry.count:
        mean = rf"\mathbf{{{entry.mean}}}" if entry.best else entry.mean
        spread = rf"_{{\pm {entry.spread}}}" if entry.spread else ""
        ours = f"${mean}{spread}$"
        ours += f" {count_text(entry)}" if counted or entry.collapsed else ""
    return ours + escape(entry.mark) + (f" / {escape(entry.paper or MISSING)}" if column.paper else "")


def _words(entry: Entry) -> str:
    return MISSING if entry.mean is None else entry.mean


def _width(entry: Entry, column: Column, *, counted: bool) -> float:
    """Estimate the width of a cell in points."""
    count = f" {count_text(entry)}" if entry.count and (counted or entry.collapsed) else ""
    beside = f" / {entry.paper or MISSING}" if column.paper else ""
    return CHARACTER * len(_words(entry) + count + entry.mark + beside) + SUBSCRIPT * len(f"±{entry.spread or ''}")


def _contrasts(section: Section) -> list[str]:
    """Write the comparisons as a paragraph, because a table of them would be wider than the page."""
    if not section.contrasts:
        return []
    labels = dict.fromkeys(one.label for one in section.contrasts)
    sentences = [
        f"{escape(label)}: {'; '.join(_contrast(one) for one in section.contrasts if one.label == label)}."
        for label in labels
    ]
    return [rf"\par {section.contrast_heading}.", *sentences]


def _contrast(one: Contrast) -> str:
    """Format ``CoLA $-1.8$ [$-4.0$, $+0.5$], $p = 0.08$ by Holm, 3 seeds: within noise``."""
    difference = re.sub(r"[+-][0-9.]+", r"$\g<0>$", one.difference)
    p = "" if one.p is None else f", $p {one.p if one.p.startswith('<') else f'= {one.p}'}$ by Holm"
    seeds = f"{one.count} seed{'' if one.count == '1' else 's'}"
    return f"{escape(one.column)} {difference}{p}, {seeds}: {one.verdict}"


def _note(note: str) -> str:
    number, _, text = note.partition(" ")
    return rf"\textsuperscript{{{number}}} {escape(text)}" if number.isdecimal() else escape(note)
