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
from rosa_bench.report.page.details import Curve, Fact, curves_of, facts_of
from rosa_bench.report.page.run_list import FIELDS, Field, label_of, panel_of
from rosa_bench.system.printable import printable

Column = dict[str, Any]  # "values": each distinct value once; "at": for every run its place among them, -1 for none


def packed_runs(records: Sequence[RunRecord]) -> str:
    """Return the list, the details and the curves of all runs, packed."""
    facts = [facts_of(run) for run in records]
    curves = [curves_of(run) for run in records]
    content = {
        "ids": [run.id for run in records],
        "labels": column(_shown(label_of(run)) for run in records),
        "panels": column(_shown((panel_of(run),)) for run in records),
        "lower": column(run.scores.lower_is_better for run in records),
        "colours": column(look_of(run.settings.method.name).colour for run in records),
        "errors": column(None if run.error is None else _shown((run.error,))[0] for run in records),
        "selected": [run.selected.epoch for run in records],
        "fields": [_field(field, records) for field in FIELDS],
        "facts": _facts(facts),
        "curves": _curves(curves),
    }
    return packed(json.dumps(content, separators=(",", ":"), allow_nan=False).encode())


def packed(content: bytes) -> str:
    """Compress bytes for unpack.js: base64 of gzip without a timestamp."""
    return b64encode(gzip.compress(content, mtime=0)).decode()


def column(values: Iterable[Hashable]) -> Column:
    """Return a column of one value per run; None becomes no value."""
    places: dict[Hashable, int] = {}
    at = [-1 if value is None else places.setdefault(value, len(places)) for value in values]
    return {"values": list(places), "at": at}


def _field(field: Field, records: Iterable[RunRecord]) -> dict[str, Any]:
    """Return a column of the list. A number is a pair: its text, and what it is sorted and filtered by."""
    texts = [_shown((field.shown(run),))[0] for run in records]
    if field.kind == "number":
        return {"title": field.title, "kind": field.kind, **column(zip(texts, map(field.number, records), strict=True))}
    return {"title": field.title, "kind": field.kind, **column(texts)}


def _facts(runs: Sequence[Sequence[Fact]]) -> list[dict[str, Any]]:
    """Return one column for each key that any run has, those of a group together."""
    keys = dict.fromkeys((fact.group, fact.key) for facts in runs for fact in facts)
    groups = {group: place for place, group in enumerate(dict.fromkeys(group for group, _ in keys))}
    by_run = [{(fact.group, fact.key): _shown((fact.text, fact.expected)) for fact in facts} for facts in runs]
    return [
        {"group": _shown((group,))[0], "key": _shown((key,))[0], **column(one.get((group, key)) for one in by_run)}
        for group, key in sorted(keys, key=lambda pair: groups[pair[0]])
    ]


def _curves(runs: Sequence[Sequence[Curve]]) -> list[dict[str, Any]]:
    """Return the curves of each title: the values of every run, and the epochs, which many runs share."""
    titles = dict.fromkeys(curve.title for curves in runs for curve in curves)
    by_run = [{curve.title: curve for curve in curves} for curves in runs]
    return [
        {
            "title": _shown((title,))[0],
            "epochs": column(tuple(one[title].epochs) if title in one else None for one in by_run),
            "values": [one[title].values if title in one else None for one in by_run],
        }
        for title in titles
    ]


def _shown(texts: Sequence[str | None]) -> tuple[str | None, ...]:
    """Write invisible characters as escapes, as the templates do."""
    return tuple(None if text is None else printable(text, keep="\n\t") for text in texts)
