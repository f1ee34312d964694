"""Read JSON text that somebody else may have written: what readers disagree on is refused.

Python writes NaN and Infinity, which are not JSON, and older records have them. They are read as None.
"""

import json
from pathlib import Path
from stat import S_ISREG
from typing import Any

import msgspec

from rosa_bench.system.text.json_text import check_depth

MOST_BYTES = 256 * 2**20
MOST_DIGITS = 30  # of an integer; JSON's readers agree on 15 and Python takes time quadratic in the number


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return the content of a regular file. Raises `ValueError` for anything else, and for more than ``most`` bytes.

    A pipe or a device in a file's place would be waited for, or would never end. Raises `OSError` as `open` does.
    """
    status = path.stat()
    if not S_ISREG(status.st_mode):
        raise ValueError("it is not a file")
    if status.st_size > most:
        raise ValueError(f"it has {status.st_size:,} bytes, more than any record")
    return path.read_bytes()


def loads(text: str | bytes) -> Any:
    """Return the values of JSON text.

    Raises `ValueError` if it is not JSON or not UTF-8, if a key occurs twice in one object, or if it has an integer of
    more than `MOST_DIGITS` digits, half of a surrogate pair, or nesting that code cannot follow.
    """
    try:
        if isinstance(text, bytes):
            return _decoded(text)
    except (ValueError, RecursionError):
        pass  # what msgspec refuses may be fine here, or needs a better message
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        values = _decoder.decode(text)
        check_depth(values, text)
        if "\\u" in text:
            json.dumps(values, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a surrogate pair, {error.object[error.start]!r}, is not text") from None
    return values


def _decoded(text: bytes) -> Any:
    """Return what `loads` does, in half the time. Raises `ValueError` for all that it refuses, and for more.

    Msgspec takes the last of repeated keys. Encoded again, such values have fewer quotation marks than the text:
    without ``\\u``, every mark in a text is one in its values too.
    """
    if b"\\u" in text or b"0" * (MOST_DIGITS + 1) in text.translate(_as_zeros):
        raise ValueError("a character is written as a number, or a number is long")
    values = msgspec.json.decode(text)
    check_depth(values, text)
    if msgspec.json.encode(values).count(b'"') != text.count(b'"'):
        raise ValueError("a key occurs twice")
    return values


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {json.dumps(twice)} occurs twice")
    return values


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"an integer has {len(digits):,} digits")
    return int(digits)


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_constant=lambda _constant: None)
_as_zeros = bytes.maketrans(b"123456789", b"0" * 9)
