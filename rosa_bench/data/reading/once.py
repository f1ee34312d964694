"""Read rows once for several runs of one process, if asked to: files of millions of rows take minutes to read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

_kept: ContextVar[dict[str, Any] | None] = ContextVar("kept", default=None)


@contextmanager
def rows_read_once() -> Iterator[None]:
    """Keep what is read inside the block in memory until its end. Changes of the files meanwhile are not seen."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def once(key: str, read: Callable[[], T]) -> T:
    """Return what ``read`` returns; inside `rows_read_once` it is called once for each ``key``.

    The result is shared by all who ask for it, so it must not be changed.

    >>> with rows_read_once():
    ...     once("a", lambda: 1), once("a", lambda: 2)
    (1, 1)
    >>> once("a", lambda: 3)
    3
    """
    kept = _kept.get()
    if kept is None:
        return read()
    if key not in kept:
        kept[key] = read()
    return kept[key]
