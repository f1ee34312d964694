"""Find which columns of the user's own data hold the texts and the label, by their names and their contents."""

from collections.abc import Mapping, Sequence
from typing import Any

from rosa_bench.data.reading.values import as_number, is_blank
from rosa_bench.data.rows import check_columns, columns_of, listed
from rosa_bench.system.errors import UserError

Rows = Sequence[Mapping[str, Any]]

LABELS = ("label", "labels", "class", "category", "target", "sentiment", "rating", "stars", "score", "similarity", "y")
TEXTS = ("text", "sentence", "review", "content", "body", "comment", "document", "message", "description", "tweet")
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "passage"),
    ("question", "sentence"),
    ("question", "answer"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("query", "document"),
)
NUMBERS_OF_ROWS = ("id", "idx", "index", "")  # pandas writes its index without a name


def find_label(rows: Rows, asked: str, text: Sequence[str], *, where: str) -> str:
    """Return the column of the label: the one ``asked`` for, or one of a usual name, or the only one left.

    ``text`` are the columns of the texts, if they are given. Raises `UserError`, which lists the columns.
    """
    present = columns_of(rows)
    if asked:
        check_columns(present, [asked], where=where)
        return asked
    left = [name for name in present if name not in text and name.lower() not in NUMBERS_OF_ROWS]
    if found := _named(LABELS, left):
        return found
    others = [name for name in left if name not in _usual_text(left)]
    if len(others) == 1 and len(left) + len(text) > 1:
        return others[0]
    raise UserError(f"{where}: which column is the label? Set task.label=NAME; {_first_line(present)}")


def _first_line(present: Sequence[str]) -> str:
    """List the columns and say where their names come from. One column with ``;`` is a file of another separator."""
    if len(present) == 1 and (mark := next((mark for mark in ";\t|" if mark in present[0]), None)):
        return f"the only column is {listed(present)}, so separate the columns by a comma instead of {mark!r}"
    return f"the columns, named by the first line, are {listed(present)}"


def find_text(rows: Rows, asked: Sequence[str], label: str, *, where: str) -> list[str]:
    """Return the column of the text, or the two of a pair: those ``asked`` for, or found by name or as what is left.

    ``rows`` are the first ones of the data. Raises `UserError`, which lists the columns.
    """
    present = columns_of(rows)
    if asked:
        check_columns(present, asked, where=where)
        return list(asked)
    left = [name for name in present if name != label and name.lower() not in NUMBERS_OF_ROWS]
    if found := _usual_text(left):
        return found
    texts = [name for name in left if _holds_texts(rows, name)]
    if 1 <= len(texts) <= 2:
        return texts
    raise UserError(
        f"{where}: which column is the text? Set task.text=[NAME], or task.text=[ONE,OTHER] for a pair; the columns "
        f"are {listed(present)}"
    )


def _usual_text(columns: Sequence[str]) -> list[str]:
    """Return the columns of a pair, or of a text, that have usual names; none if there are no such columns."""
    for pair in PAIRS:
        if len(found := [one for name in pair if (one := _named([name], columns))]) == len(pair):
            return found
    text = _named(TEXTS, columns)
    return [text] if text else []


def _named(names: Sequence[str], columns: Sequence[str]) -> str | None:
    """Return the column with the first of these names that there is, whatever its case."""
    lower = {column.lower(): column for column in reversed(columns)}
    return next((lower[name] for name in names if name in lower), None)


def _holds_texts(rows: Rows, name: str) -> bool:
    """Whether most cells of a column that are not empty are texts, and no numbers written as such."""
    filled = [value for row in rows if not is_blank(value := row.get(name))]
    texts = sum(isinstance(value, str) and as_number(value) is None for value in filled)
    return 2 * texts > len(filled)
