"""What one cell of a file means: a number, the name of a class, or nothing. Imports nothing heavy."""

import math
import reprlib


def brief(value: object) -> str:
    """Write a value from a row for an error message: on one line, and not much longer than that line."""
    return reprlib.repr(value)


def to_number(text: str) -> int | float | str:
    """Convert a text to a number. Return other texts unchanged; they are reported when the row is checked."""
    if "_" in text or not text.isascii():  # Python's own spellings of numbers
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def is_blank(value: object) -> bool:
    """Whether a cell is empty: a missing value, a blank text, or not a number (NaN)."""
    return value is None or (isinstance(value, str) and not value.strip()) or value != value  # noqa: PLR0124 - NaN


def as_number(value: object) -> int | float | None:
    """Return the finite number that a cell holds, also if it is written as a text; None for any other cell."""
    found = to_number(value.strip()) if isinstance(value, str) else value
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    try:
        return found if math.isfinite(found) else None
    except OverflowError:  # an integer beyond the range of floats
        return None


def class_name(value: object) -> str | None:
    """Return the class that a cell names: a text as it is, and a number without a fraction as a whole one.

    None if it names none: it is blank, or neither a text, a number nor a truth value.
    """
    if is_blank(value) or not isinstance(value, str | bool | int | float):
        return None
    if isinstance(value, bool):
        return str(value)
    number = as_number(value)
    if number is None:
        return str(value).strip()
    return str(int(number)) if number == int(number) else str(number)
