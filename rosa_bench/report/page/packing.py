"""Pack thousands of runs into a few hundred kilobytes, for the page's script to unpack.

Values stand in columns, each distinct value once, because most runs share most settings.
"""

import gzip
import json
from base64 import b64encode
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from rosa_bench.config.files.looks import look_of
from rosa_bench.records.record import RunRecord
from rosa_bench.report.page.details import curves_of, facts_of
from rosa_bench.report.page.panels import panels
from rosa_bench.report.page.run_list import FIELDS, Field, label_of
from rosa_bench.system.text.printable import printable

Column = dict[str, Any]  # "values": each distinct value once; "at": for every run its place among them, -1 for none


def packed_runs(records: Sequence[RunRecord]) -> str:
    """Return the list, the details and the curves of all runs, packed."""
    return packed(json.dumps(_content(records), separators=(",", ":"), allow_nan=False).encode())


def _content(records: Sequence[RunRecord]) -> dict[str, Any]:
    return {
        "ids": [run.id for run in records],
        "labels": column(tuple(map(_shown, label_of(run))) for run in records),
        "panels": [{**panel, "name": _shown(panel["name"])} for panel in panels(records)],
        "colours": column(look_of(run.settings.method.name).colour for run in records),
        "errors": column(_shown(run.error) for run in records),
        "selected": [run.selected.epoch for run in records],
        "fields": [_field(field, records) for field in FIELDS],
        "facts": _facts(records),
        "curves": _curves(records),
    }


def packed(content: bytes) -> str:
    """Compress bytes for unpack.js: base64 of gzip without a timestamp."""
    return b64encode(gzip.compress(content, mtime=0)).decode()


class Growing:
    """A column that is filled run by run, so that the details of all runs are never in memory together."""

    def __init__(self) -> None:
        self._places: dict[Hashable, int] = {}
        self._at: list[int] = []

    def put(self, run: int, value: Hashable) -> None:
        """Give the value of the run with this number. Runs that are passed over have none."""
        self._at += [-1] * (run - len(self._at))
        self._at.append(-1 if value is None else self._places.setdefault(value, len(self._places)))

    def of(self, runs: int) -> Column:
        """Return the column of so many runs."""
        return {"values": list(self._places), "at": self._at + [-1] * (runs - len(self._at))}


def column(values: Iterable[Hashable]) -> Column:
    """Return a column of one value per run; None becomes no value."""
    growing, run = Growing(), -1
    for run, value in enumerate(values):
        growing.put(run, value)
    return growing.of(run + 1)


def _field(field: Field, records: Iterable[RunRecord]) -> dict[str, Any]:
    """Return a column of the list. A number is a pair: its text, and what it is sorted by."""
    texts = [_shown(field.shown(run)) for run in records]
    values = zip(texts, map(field.number, records), strict=True) if field.kind == "number" else texts
    return {"title": field.title, "kind": field.kind, **column(values)}


def _facts(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return one column for each key that any run has, those of a group together."""
    columns: dict[tuple[str, str], Growing] = {}
    for number, run in enumerate(records):
        for place, fact in {(fact.group, fact.key): fact for fact in facts_of(run)}.items():
            columns.setdefault(place, Growing()).put(number, (_shown(fact.text), _shown(fact.expected)))
    groups = {group: place for place, group in enumerate(dict.fromkeys(group for group, _ in columns))}
    return [
        {"group": _shown(group), "key": _shown(key), **columns[group, key].of(len(records))}
        for group, key in sorted(columns, key=lambda pair: groups[pair[0]])
    ]


def _curves(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return the curves of each title: the values of every run, and the epochs, which many runs share."""
    epochs: dict[str, Growing] = {}
    values: dict[str, list[list[float | None] | None]] = {}
    for number, run in enumerate(records):
        for curve in curves_of(run):
            epochs.setdefault(curve.title, Growing()).put(number, tuple(curve.epochs))
            values.setdefault(curve.title, [None] * len(records))[number] = curve.values  # pyrefly: ignore[no-matching-overload]
    return [
        {"title": _shown(title), "epochs": epochs[title].of(len(records)), "values": values[title]} for title in epochs
    ]


def _shown(text: str | None) -> str | None:
    """Write invisible characters as escapes, as the templates do."""
    return None if text is None else printable(text, keep="\n\t")
