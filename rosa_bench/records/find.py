"""Find one record of a results folder by what a user types: an id, its beginning or its end, a path, or ``last``."""

from collections.abc import Iterable
from pathlib import Path

from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_record, load_records, precedence, record_paths
from rosa_bench.system.errors import UserError, did_you_mean
from rosa_bench.system.text.printable import printable

LAST = "last"
LISTED = 3  # ids, or folders, in a message
OUTPUTS = Path("outputs")


def find_record(name: str, results_dir: Path) -> tuple[RunRecord, Path]:
    """Return the record that ``name`` means, and its path.

    ``name`` is a run's id, its beginning, the digits that end it, the path of a record, or ``last`` for the record that
    was started last. Raises `UserError` if there is no such record, or more than one.
    """
    if name == LAST:
        return _last(results_dir)
    path = Path(name).expanduser()
    if name.endswith(".json"):
        return load_record(path), path
    places = record_paths(results_dir)
    stems = sorted({place.stem for place in places})
    if not (meant := [name] if name in stems else matching(name, stems)):
        near = did_you_mean(name, [LAST, *stems]) or ("; rosa-bench ls lists them" if stems else "")
        raise UserError(f"{name} is not a run in {results_dir}{near}")
    if len(meant) > 1:
        more = f" and {len(meant) - LISTED} more" if len(meant) > LISTED else ""
        raise UserError(f"{name} may mean {len(meant)} runs: {', '.join(meant[:LISTED])}{more}; type more of the id")
    return _counted([place for place in places if place.stem == meant[0]])


def matching(name: str, ids: Iterable[str]) -> list[str]:
    """Return the ids that begin with ``name``, or whose last part it is.

    >>> matching("cola-a", ["cola-a-1f", "cola-b-2e"]), matching("2e", ["cola-a-1f", "cola-b-2e"]), matching("", ["a"])
    (['cola-a-1f'], ['cola-b-2e'], [])
    """
    return [one for one in ids if name and (one.startswith(name) or one.endswith(f"-{name}"))]


def by_start(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Return records in the order in which they were started."""
    return sorted(records, key=lambda run: (run.started, run.id))


def elsewhere(results_dir: Path) -> str:
    """Name the folders in ``outputs`` that have runs, other than this one; nothing if there are none.

    Choices keep their runs in ``outputs`` itself, and a preset may in ``outputs/smoke``, where no command looks unless
    it is asked to.
    """
    folders = (OUTPUTS / "runs", *sorted(OUTPUTS.glob("*/runs")))
    runs = (folder for folder in folders if next(folder.glob("*/*/*.json"), None) is not None)
    named = [f"results_dir={printable(str(folder.parent))}" for folder in runs if folder.parent != results_dir]
    return f"; there are runs in {', '.join(named[:LISTED])}" if named else ""


def _last(results_dir: Path) -> tuple[RunRecord, Path]:
    found = load_records(results_dir)
    if not found:
        raise UserError(f"results_dir={results_dir} has no runs; run something first{elsewhere(results_dir)}")
    newest = by_start(found)[-1].id
    return _counted([path for path in record_paths(results_dir) if path.stem == newest])


def _counted(paths: Iterable[Path]) -> tuple[RunRecord, Path]:
    """Return the record that counts, as in `load_records`, among those of one run."""
    return max(((load_record(path), path) for path in paths), key=lambda one: precedence(one[0]))
