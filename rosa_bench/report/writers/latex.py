"""Write a table as LaTeX, for a document that loads only booktabs. Every part fits a page of the article class."""

import re
from dataclasses import replace

from rosa_bench.report.tables.building.table import Column, Contrast, Entry, Section, Table
from rosa_bench.report.writers.latex_pages import Block, is_counted, is_wide, pages, short_labels
from rosa_bench.report.writers.text import MISSING
from rosa_bench.system.text.printable import printable

BELOW = ("Protocol", "Metric", "Selection", "Seeds")  # of a section's header, what is written below its table
LONGEST = 250  # characters of a text below a table; longer ones are comments
SPECIAL = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", '"': "''",
    "|": r"\textbar{}", "±": r"$\pm$", "×": r"$\times$", "–": "--", "³": r"\textsuperscript{3}",
    "†": r"$^\dagger$", "‡": r"$^\ddagger$", "§": r"\textsuperscript{\S}", "¶": r"\textsuperscript{\P}",
})  # fmt: skip


def latex(table: Table, counts: str) -> str:
    """Return the paper's rows of each section as ``table`` environments, and then its other rows.

    A ``table`` that would be longer than a page is continued in another one. What is too long to stand below a table is
    in comments: how to read it, the whole header, and every comparison. ``counts`` states the number of runs.
    """
    head = [
        r"% Needs \usepackage{booktabs}. Made by rosa-bench tables; changes will be overwritten.",
        f"% {escape(counts)}",
        *(f"% {escape(text)}" for text in table.intro),
    ]
    parts = [text for number, section in enumerate(table.sections, 1) for text in _section(table, number, section)]
    return "\n".join([*head, *parts]) + "\n"


def escape(text: str) -> str:
    """Escape characters that are special in LaTeX. A line break could end a comment, so it is shown, not made."""
    return printable(text).translate(SPECIAL)


def _section(table: Table, number: int, section: Section) -> list[str]:
    comments = [f"% {escape(name)}: {escape(text)}" for name, text in section.header.items()]
    comments += [f"% {escape(note)}" for note in section.notes]
    for one in section.contrasts:
        texts = [one.label, one.column, one.difference, one.p, one.count, one.verdict]
        comments.append(f"% {escape(', '.join(filter(None, texts)))}")
    filled = section.filled
    printed = [line for line in filled.lines if any(entry.paper for entry in line.entries)]
    others = [line for line in filled.lines if line not in printed]
    divided = [("", printed), ("-variants", others)] if printed and others else [("", filled.lines)]
    parts = [_part(table, f"{number}{name}", replace(filled, lines=lines).filled) for name, lines in divided]
    return ["", *comments, *(text for part in parts for text in part)]


def _part(table: Table, number: str, section: Section) -> list[str]:
    """Write the rows of a section as one ``table`` environment, or as several if they are longer than a page."""
    below = _below(section)
    texts = []
    for place, blocks in enumerate(pages(section, below)):
        of = f"After the paper's {table.title}" if table.title.startswith("Table ") else table.title
        kind = "Variants. " if number.endswith("-variants") else ""
        again = " (continued)" if place else ""
        texts += [
            "",
            r"\begin{table}[tp]",
            r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{escape(section.heading)}{again}. {kind}{escape(of)}.}}",
            *([] if place else [rf"\label{{tab:{table.name}-{number}}}"]),
            *(_tabular(section, block) for block in blocks),
            *([] if place else [r"\begin{minipage}{\linewidth}\raggedright", *below, r"\end{minipage}"]),
            r"\end{table}",
        ]
    return texts


def _tabular(section: Section, block: Block) -> str:
    """Write one block of columns as a ``tabular``; the blocks of a page are stacked."""
    columns = [section.columns[index] for index in block.columns]
    labels = short_labels(section.lines)
    first, ragged = (r"p{.45\linewidth}", r"\raggedright ") if is_wide(section) else ("l", "")
    head = [escape(section.head), *(_heading(column) for column in columns)]
    counted = is_counted(section)
    body = [
        [
            ragged + escape(labels[line.label] + line.mark),
            *(_cell(line.entries[index], section.columns[index], counted=counted) for index in block.columns),
        ]
        for line in block.lines
    ]
    return "\n".join([
        rf"\begin{{tabular}}{{@{{}}{first}{'r' * len(columns)}@{{}}}}",
        r"\toprule",
        rf"{' & '.join(head)} \\",
        r"\midrule",
        *(rf"{' & '.join(row)} \\" for row in body),
        r"\bottomrule",
        r"\end{tabular}\par\medskip",
    ])  # fmt: skip


def _heading(column: Column) -> str:
    return escape(column.title) + (rf"\textsuperscript{{{column.note}}}" if column.note else "")


def _cell(entry: Entry, column: Column, *, counted: bool) -> str:
    """Format a cell: ``$\\mathbf{54.3}_{\\pm 1.2}$ / 54.27``."""
    if entry.mean is None and entry.paper is None:
        return escape(MISSING)
    ours = escape(MISSING if entry.mean is None else entry.mean)
    if entry.count:
        mean = rf"\mathbf{{{entry.mean}}}" if entry.best else entry.mean
        spread = rf"_{{\pm {entry.spread}}}" if entry.spread else ""
        ours = f"${mean}{spread}$" + (f" ({entry.count})" if counted else "")
    return ours + escape(entry.mark) + (f" / {escape(entry.paper)}" if column.paper and entry.paper else "")


def _below(section: Section) -> list[str]:
    """Return what is written below a table: what its runs share, its marks and notes in a line each, comparisons."""
    shared = [(name, section.header[name]) for name in BELOW if name in section.header]
    said = [f"{name}: {escape(text)}." for name, text in shared if len(text) <= LONGEST]
    said += [rf"\par {_note(note)}." for note in map(_in_one_line, section.notes) if _is_used(note, section)]
    return [*said, *_collapsed(section), *_contrasts(section)]


def _in_one_line(note: str) -> str:
    """Leave out which cells a mark is on, because the table shows it."""
    return note if len(note) <= LONGEST or note[0].isalnum() else note.partition(": ")[0]


def _is_used(note: str, section: Section) -> bool:
    """Whether a note is about something in the table, and short enough."""
    number = note.partition(" ")[0]
    if number.isdecimal():
        return int(number) in {column.note for column in section.columns}
    marks = "".join([line.mark + "".join(entry.mark for entry in line.entries) for line in section.lines])
    return len(note) <= LONGEST and (note[0].isalnum() or note[0] in marks)


def _collapsed(section: Section) -> list[str]:
    """Say how many runs collapsed in which cells."""
    labels = short_labels(section.lines)
    said = []
    for line in section.lines:
        cells = [
            f"{escape(column.title)} {entry.collapsed} of {entry.count}"
            for entry, column in zip(line.entries, section.columns, strict=True)
            if entry.collapsed
        ]
        said += [f"{escape(labels[line.label])} {', '.join(cells)}"] if cells else []
    return [rf"\par Collapsed runs, which are counted in: {'; '.join(said)}."] if said else []


def _contrasts(section: Section) -> list[str]:
    """Write the comparisons that are significant; all of them are in comments."""
    labels = short_labels(section.lines)
    own = [one for one in section.contrasts if one.label in labels]
    if not own:
        return []
    shown = [
        f"{escape(labels[one.label])}, {_contrast(one)}" for one in own if one.verdict in ("above LoRA", "below LoRA")
    ]
    return [rf"\par {section.contrast_heading}. Significant: {'; '.join(shown) or 'none'}."]


def _contrast(one: Contrast) -> str:
    """Format ``CoLA $-1.8$ [$-4.0$, $+0.5$], $p = 0.08$ by Holm, 3 seeds: within noise``."""
    difference = re.sub(r"[+-][0-9.]+", r"$\g<0>$", one.difference)
    p = "" if one.p is None else f", $p {one.p if one.p.startswith('<') else f'= {one.p}'}$ by Holm"
    seeds = f"{one.count} seed{'' if one.count == '1' else 's'}"
    return f"{escape(one.column)} {difference}{p}, {seeds}: {one.verdict}"


def _note(note: str) -> str:
    number, _, text = note.partition(" ")
    return rf"\textsuperscript{{{number}}} {escape(text)}" if number.isdecimal() else escape(note)
