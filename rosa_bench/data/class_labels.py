"""The names that a data set itself gives its classes, compared with a task's."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from rosa_bench.system.errors import UserError


def declared_classes(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Return the class names, in the order of their numbers, by column. `datasets` writes them into parquet files."""
    found: dict[str, list[str]] = {}
    for path in paths:
        if path.suffix != ".parquet":
            continue
        metadata = pyarrow.parquet.read_schema(path).metadata or {}
        try:
            features = json.loads(metadata[b"huggingface"])["info"]["features"]
            found |= {column: it["names"] for column, it in features.items() if _names_classes(it)}
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError):  # written by another program
            continue
    return found


def _names_classes(feature: Any) -> bool:
    """Return whether a column's type is that of classes with names. The types of other columns may be of any form."""
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return False
    names = feature.get("names")
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def check_order(declared: Sequence[str] | None, *known: Sequence[str] | None, where: str) -> None:
    """Raise `UserError` if ``declared`` are the same names as one of the ``known`` lists, in another order.

    Other names are no contradiction: BoolQ's classes are False and True on the hub.
    """
    names = [_plain(name) for name in declared or ()]
    for expected in known:
        ours = [_plain(name) for name in expected or ()]
        if names != ours and sorted(names) == sorted(ours):
            raise UserError(
                f"{where} numbers its classes {', '.join(declared or ())}, and the task {', '.join(expected or ())}; "
                "use data with the task's order, or set task.labels to the data's"
            )


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_").replace(" ", "_")
