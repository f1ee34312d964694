"""What runs cost, compared only between runs that were made in the same way on the same device."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from statistics import fmean

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.kept import kept
from rosa_bench.report.cells.settings import frozen

# Settings that change memory and time but no score, with their defaults: runs that differ in them share a cell.
HOW_RUN = {"accumulate": 1, "gradient_checkpointing": False, "offload": None, "compile": "none", "cuda_graphs": "auto"}


@kept
def made_on(run: RunRecord) -> Hashable:
    """Return what peak memory depends on besides the method: the device and `HOW_RUN`."""
    return run.device.name, *(frozen(run.setting(key, default)) for key, default in HOW_RUN.items())


def how_run(run: RunRecord) -> dict[str, Hashable]:
    """Return the settings of `HOW_RUN` that are not the default."""
    found = {key: (frozen(run.setting(key, default)), default) for key, default in HOW_RUN.items()}
    return {key: value for key, (value, default) in found.items() if value != default}


def made_with(run: RunRecord) -> Hashable:
    """Return what time depends on besides the method: a kind of device, how it is shared, and the code."""
    return made_on(run), run.device.threads, run.device.shared_by, run.git.commit, run.versions.get("torch")


def own_peak_bytes(run: RunRecord) -> int | None:
    """Return a run's peak memory in training; None if it was not measured, or if several runs shared each step."""
    return None if run.packed else run.memory_bytes.training


def most_common(runs: Iterable[RunRecord], kind: Callable[[RunRecord], Hashable] = made_on) -> Hashable:
    """Return the kind that most runs are of; None if there are no runs."""
    counts = Counter(map(kind, runs))
    return min(counts, key=lambda one: (-counts[one], str(one)), default=None)


def peak_memory_bytes(runs: Iterable[RunRecord], kind: Hashable) -> float | None:
    """Return the mean peak memory in training of the runs that were ``made_on`` this kind; None if none measured it."""
    known = [peak for run in runs if made_on(run) == kind and (peak := own_peak_bytes(run))]
    return fmean(known) if known else None


def step_time_s(run: RunRecord) -> float | None:
    """Return the mean time of an optimizer step, including resamples and excluding scoring.

    Returns None if it is not recorded, or how many runs shared the GPU is not: then it says little. Nor does it if
    several runs shared each step.
    """
    if not run.time_s.train or run.packed or (run.device.type == "cuda" and run.device.shared_by is None):
        return None
    settings = run.settings
    epochs = run.stopped.epoch if run.stopped else settings.epochs
    steps = epochs * -(-run.data.rows.train // settings.batch_size)
    return (run.time_s.train + (run.time_s.resample or 0)) / steps if steps else None


def time_ratio(ours: Sequence[RunRecord], theirs: Sequence[RunRecord]) -> float | None:
    """Return the time of our steps divided by that of theirs, on one task.

    Only runs that are the same by `made_with` are compared. Several such batches of runs are averaged, each weighted by
    our runs. Returns None if no batch has both.
    """
    sides: list[dict[Hashable, list[float]]] = []
    for runs in (ours, theirs):
        sides.append(defaultdict(list))
        for run in runs:
            if (time_s := step_time_s(run)) is not None:
                sides[-1][made_with(run)].append(time_s)
    left, right = sides
    both = left.keys() & right.keys()
    weighted = [ratio for kind in both for ratio in [fmean(left[kind]) / fmean(right[kind])] * len(left[kind])]
    return fmean(weighted) if weighted else None
