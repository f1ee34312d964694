"""Read JSON that is not nested deeper than code can follow, in every version of Python.

Python's parser raises RecursionError after about a thousand levels in version 3.11, and after ten thousand in later
ones. What takes the values then, in Python or in a library, raises it after fewer.
"""

import json
from typing import Any

DEEPEST = 100  # levels


def loads(text: str, **options: Any) -> Any:
    """Do what `json.loads` does. Raises `RecursionError` for values that are nested deeper than `DEEPEST` levels."""
    values = json.loads(text, **options)
    check_depth(values, text)
    return values


def check_depth(values: Any, text: str | bytes) -> None:
    """Raise `RecursionError` if ``values``, parsed from ``text``, are nested deeper than `DEEPEST` levels."""
    opening = (b"{", b"[") if isinstance(text, bytes) else ("{", "[")
    if sum(text.count(one) for one in opening) <= DEEPEST:  # pyrefly: ignore[bad-argument-type]
        return
    level, depth = [values], 0
    while level := [one for one in level if isinstance(one, dict | list)]:
        depth += 1
        if depth > DEEPEST:
            raise RecursionError(f"it is nested deeper than {DEEPEST} levels")
        level = [child for one in level for child in (one.values() if isinstance(one, dict) else one)]
