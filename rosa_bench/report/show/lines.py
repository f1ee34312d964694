"""Plain tables for the terminal, in lines that fit it: what all rows share is said once, above."""

import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence

from rich.cells import cell_len, set_cell_size

from rosa_bench.system.text.printable import printable

GAP = 2  # blanks between columns
LEAST = 10  # width to which a column may be cut
CUT = ("method", "model", "task")  # columns that may be cut, the first one first
LEFT_OUT = ("started", "MiB", "time", "protocol")  # columns that may be left out, the least useful first
TEXTS = ("run", "started", "task", "model", "protocol", "method", "status")  # all others are figures, on the right
RULE = "─"

Columns = Mapping[str, Sequence[str]]  # title -> one text per row


def table_lines(columns: Columns, width: int) -> list[str]:
    """Return a head, a rule and one line per row. Columns are left out, and then cut, until the lines fit the width."""
    shown = fitting({title: list(map(printable, texts)) for title, texts in columns.items()}, width)
    widths = narrowed({title: _width(title, texts) for title, texts in shown.items()}, width)
    rows = [list(shown), [RULE * room for room in widths.values()], *map(list, zip(*shown.values(), strict=True))]
    return [_line(dict(zip(shown, row, strict=True)), widths) for row in rows]


def without_shared(columns: Columns, may_be: Collection[str]) -> tuple[dict[str, str], dict[str, Sequence[str]]]:
    """Take out the columns, of those that ``may_be``, in which several rows are all alike: title -> text, and the rest.

    >>> without_shared({"run": ["a", "b"], "task": ["cola", "cola"]}, ["task"])
    ({'task': 'cola'}, {'run': ['a', 'b']})
    """
    shared = {
        title: texts[0]
        for title, texts in columns.items()
        if title in may_be and len(texts) > 1 and len(set(texts)) == 1
    }
    return shared, {title: texts for title, texts in columns.items() if title not in shared}


def shared_lines(shared: Mapping[str, str], width: int, *further: str) -> list[str]:
    """Say what all rows share: ``all: task=cola seed=0``; no line if nothing."""
    said = ["all:", *(f"{key}={text}" for key, text in shared.items())] if shared else []
    return textwrap.wrap(printable(" ".join([*said, *further])), width, break_on_hyphens=False, break_long_words=False)


def fitting(columns: Columns, width: int) -> dict[str, Sequence[str]]:
    """Leave out columns, the least useful first, until the others fit the width."""
    kept = dict(columns)
    for title in LEFT_OUT:
        if _together(_width(*one) for one in kept.items()) <= width:
            break
        kept.pop(title, None)
    return kept


def narrowed(widths: Mapping[str, int], width: int) -> dict[str, int]:
    """Narrow the columns that may be cut, one after the other, until a line fits the width.

    >>> narrowed({"run": 10, "method": 60, "score": 5}, 80), narrowed({"run": 10, "method": 90, "score": 5}, 80)
    ({'run': 10, 'method': 60, 'score': 5}, {'run': 10, 'method': 61, 'score': 5})
    >>> narrowed({"method": 30, "task": 4, "score": 5}, 20)
    {'method': 10, 'task': 4, 'score': 5}
    """
    found = dict(widths)
    for title in CUT:
        too_much = _together(found.values()) - width
        if title in found and too_much > 0:
            found[title] = max(min(LEAST, found[title]), found[title] - too_much)
    return found


def _width(title: str, texts: Iterable[str]) -> int:
    return max(map(cell_len, [title, *texts]))


def _together(widths: Iterable[int]) -> int:
    """Return the width of a line."""
    widths = list(widths)
    return sum(widths) + GAP * (len(widths) - 1)


def _line(texts: Mapping[str, str], widths: Mapping[str, int]) -> str:
    """Return one line: figures to the right, and a text that is too long with an ellipsis."""
    cells = []
    for title, text in texts.items():
        room = widths[title]
        short = text if cell_len(text) <= room else f"{set_cell_size(text, room - 1)}…"
        blank = " " * (room - cell_len(short))
        cells.append(short + blank if title in TEXTS else blank + short)
    return (" " * GAP).join(cells).rstrip()
