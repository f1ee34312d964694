"""Keep what is derived from a record with the record, so that every table that asks again gets it at once."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from rosa_bench.records.record import RunRecord

Derived = TypeVar("Derived")


def kept(function: Callable[[RunRecord], Derived]) -> Callable[[RunRecord], Derived]:
    """Call a function of one record only once per record. Its result must not be changed, nor the record after it."""
    name = f"{function.__module__}.{function.__qualname__}"

    @wraps(function)
    def once(record: RunRecord) -> Derived:
        derived = vars(record)  # where its cached properties are; neither compared, copied nor written to the file
        if name not in derived:
            derived[name] = function(record)
        return derived[name]

    return once
