"""Recognise the published rows of a data set, so that a user's own rows are never taken for them."""

import logging
from collections.abc import Mapping, Sequence

from rosa_bench.data.rows import fingerprint
from rosa_bench.data.source import hub_name
from rosa_bench.data.spec import DataSpec

log = logging.getLogger(__name__)


def are_official(task: DataSpec, rows: Mapping[str, Sequence[tuple]], *, from_files: bool) -> bool | None:
    """Return whether all splits are the data set's published rows, or known subsets of them.

    ``rows`` maps each split to all of its rows, before any limit. A split is recognised by its fingerprint. Its number
    of rows is enough if it came from the declared hub id, or if no fingerprint of the whole split is declared.

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
            ((from_hub or split not in known.sha256) and len(some) == task.rows.get(split))
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
