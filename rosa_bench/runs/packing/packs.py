"""Which runs of a sweep train together in one pass. Light: `plan` shows them."""

from collections.abc import Sequence
from dataclasses import replace

from rosa_bench.runs.resolve import ResolvedRun

AUTO_ON_GPU = 8  # runs


def size_of(resolved: ResolvedRun) -> int:
    """Return how many runs like this one may train in one pass."""
    config = resolved.config
    if config.packed != "auto":
        return int(config.packed)
    return AUTO_ON_GPU if resolved.device_type == "cuda" and config.unpackable is None else 1


def packs(runs: Sequence[ResolvedRun]) -> list[list[ResolvedRun]]:
    """Group runs that differ in the learning rate alone, and are equally far, into packs; the others are alone."""
    cells: dict[str, list[ResolvedRun]] = {}
    for run in runs:
        cells.setdefault(run.id if size_of(run) == 1 else _cell(run), []).append(run)
    return [
        cell[start : start + size]
        for cell in cells.values()
        for size in [size_of(cell[0])]
        for start in range(0, len(cell), size)
    ]


def _cell(run: ResolvedRun) -> str:
    return repr((replace(run.config, lr=1.0), run.source, run.device_name, run.precision, progress(run)))


def progress(run: ResolvedRun) -> str:
    """Return the name of a run's newest checkpoint, which says how far it is; an empty one if there is none."""
    names = [path.name for path in run.checkpoints.glob("step-*")] if run.config.resume == "auto" else []
    return max(names, default="")
