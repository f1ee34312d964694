"""Recognise the published rows of a data set, and describe those of a run."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from rosa_bench.data.hub import Place
from rosa_bench.data.rows import DataInfo, fingerprint
from rosa_bench.data.source import describe_source, hub_name
from rosa_bench.data.spec import DataSpec
from rosa_bench.system.hub.cache import Snapshot

log = logging.getLogger(__name__)


def describe_rows(
    task: DataSpec,
    place: Place,
    everything: Mapping[str, Sequence[tuple]],
    *,
    kept: Mapping[str, int],
    rows: dict[str, int],
    used: Sequence[tuple],
) -> DataInfo:
    """Return the description of a run's rows for its record.

    ``everything`` maps each split to all of its rows, and ``kept`` to how many of them the limits left. ``rows`` are
    the numbers that the record names, and ``used`` the rows of the run in order, for the fingerprint.
    """
    folder = place if isinstance(place, Path) else None
    official = are_official(task, everything, from_files=folder is not None)
    return DataInfo(
        source=describe_source(task, folder),
        synthetic=task.synthetic,
        rows=rows,
        official_rows=dict(task.rows),
        subset=is_subset(task, {split: len(some) for split, some in everything.items()}, kept, official),
        fingerprint=fingerprint(used),
        official=official,
        commit=place.commit if isinstance(place, Snapshot) else None,
        available={split: len(some) for split, some in everything.items()},
    )


def are_official(task: DataSpec, rows: Mapping[str, Sequence[tuple]], *, from_files: bool) -> bool | None:
    """Return whether all splits are the data set's published rows, or known subsets of them.

    ``rows`` maps each split to all of its rows, before any limit. A split is recognised by its fingerprint. Its number
    of rows is enough only if it came from the declared hub id: anybody's file may have as many.

    Returns True for generated rows, and None if the task declares nothing. Logs a warning if rows are not official.
    """
    if task.embedded is not None:
        return True
    known = task.official
    if known is None:
        return None
    from_hub = not from_files and task.hub is not None and hub_name(task.hub) == known.hub
    others = [
        split
        for split, some in rows.items()
        if not (
            (from_hub and len(some) == task.rows.get(split))
            or fingerprint(some) in (known.sha256.get(split), known.subsets.get(split))
        )
    ]
    if others:
        log.warning(
            "task=%s: the %s rows are not the published ones, so tables keep this run apart as one on custom rows",
            task.name,
            " and ".join(others),
        )
    return not others


def is_subset(task: DataSpec, everything: Mapping[str, int], kept: Mapping[str, int], official: bool | None) -> bool:
    """Return whether any split has fewer rows than there are: by the declaration, or for custom rows in the source."""
    declared = {} if official is False else task.rows
    return any(kept[split] < declared.get(split, count) for split, count in everything.items())
