"""The plan of a sweep: what would run, what is completed, what failed before, and how long the rest will take.

A sweep makes the same checks before its first job starts.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from rosa_bench.config.composing.compose import Overrides, composing
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.schema import RunConfig
from rosa_bench.models.weights.hub import fetch_weights
from rosa_bench.models.weights.source import stored_configuration
from rosa_bench.records.parts.settings import Settings
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import Records, load_records
from rosa_bench.runs.packing.packs import packs
from rosa_bench.runs.planning.fits import Fits
from rosa_bench.runs.resolve import Inputs, ResolvedRun, find_inputs, resolve
from rosa_bench.runs.status import status_of

KINDS = ("completed", "failed", "unfinished", "new")
TO_RUN = ("unfinished", "new")


@dataclass(frozen=True)
class Job:
    """One combination of a sweep.

    resolved  the run it would make; None if the job is invalid
    kind      status of that run (`rosa_bench.runs.status`), ``duplicate`` of an earlier job's run, or ``invalid``
    reason    why the run failed before, or why the job is invalid
    """

    overrides: Overrides
    resolved: ResolvedRun | None
    kind: str
    reason: str = ""

    @property
    def will_run(self) -> bool:
        """Whether the sweep makes this run."""
        if self.resolved is None or self.kind == "duplicate":
            return False
        config = self.resolved.config
        return config.resume == "never" or self.kind in TO_RUN or (self.kind == "failed" and config.retry_failed)


def plan(arguments: Sequence[str], explain: Callable[[Exception], str]) -> list[Job]:
    """Return every job of a sweep, checked without starting it. ``explain`` turns an error into a message."""
    inputs: dict[str, Inputs] = {}
    writable: set[Path] = set()
    seen: set[str] = set()
    jobs = []
    with composing() as composer:
        for overrides in composer.expand(arguments):
            try:
                config = parse(composer.settings(overrides))
                resolved = resolve(config, {}, inputs=_remembered(inputs, config), writable=writable)
                found = status_of(resolved)
            except Exception as error:  # of any type: the user should see it before anything runs
                jobs.append(Job(overrides, None, "invalid", explain(error)))
                continue
            reason = (found.record.error or "") if found.kind == "failed" and found.record is not None else ""
            jobs.append(Job(overrides, resolved, "duplicate" if resolved.id in seen else found.kind, reason))
            seen.add(resolved.id)
    return _checked_shapes(jobs, explain)


def _checked_shapes(jobs: Iterable[Job], explain: Callable[[Exception], str]) -> list[Job]:
    """Return the jobs; those whose method does not fit their model are invalid.

    That is known before any weight is read, except for a model whose configuration is still on the hub.
    """
    shapes: dict[str, Any] = {}
    known = Fits()
    mistakes: dict[tuple[str, str], str] = {}  # by model and method: jobs often differ in nothing else but numbers

    def mistake(run: ResolvedRun) -> str:
        model = repr((run.config.task, run.source))
        pair = model, repr(run.config.method)
        if pair not in mistakes:
            mistakes[pair] = "" if run in known else _failure(lambda: _check_shapes(run, model, shapes), explain)
            if not mistakes[pair]:
                known.add(run)
        return mistakes[pair]

    checked = _refused(jobs, mistake)
    known.save()
    return checked


def with_weights(jobs: Iterable[Job], explain: Callable[[Exception], str]) -> list[Job]:
    """Fetch weights of which nothing is on this machine. Return the jobs; those whose weights cannot be are invalid.

    The hub is not asked for others: a run looks for newer ones itself, and goes on with the cached ones if it fails.
    """
    mistakes: dict[str, str] = {}

    def mistake(run: ResolvedRun) -> str:
        model, source = run.config.model, run.source
        key = repr(source)
        if key not in mistakes:
            here = source.kind != "hub" or stored_configuration(model, source)
            mistakes[key] = "" if here else _failure(lambda: fetch_weights(model, source), explain)
        return mistakes[key]

    return _refused(jobs, mistake)


def _refused(jobs: Iterable[Job], mistake: Callable[[ResolvedRun], str]) -> list[Job]:
    """Return the jobs; those that would run, and have a mistake, are invalid. ``mistake`` is empty if there is none."""
    checked = []
    for job in jobs:
        reason = mistake(job.resolved) if job.resolved is not None and job.will_run else ""
        checked.append(Job(job.overrides, None, "invalid", reason) if reason else job)
    return checked


def _failure(check: Callable[[], object], explain: Callable[[Exception], str]) -> str:
    """Return why a check fails; empty if it does not."""
    try:
        check()
    except Exception as error:  # of any type: the user should see it before anything runs
        return explain(error)
    return ""


def _check_shapes(run: ResolvedRun, model: str, shapes: dict[str, Any]) -> None:
    """Raise if a run's method does not fit its model, whose shapes are kept in ``shapes`` by ``model``."""
    if model not in shapes:
        shapes[model] = run.config.task.shapes(run.config.model, run.source)
    if shapes[model] is not None:
        run.config.method.check_shapes(shapes[model])


def _remembered(known: dict[str, Inputs], config: RunConfig) -> Inputs:
    """Return where a job's rows and weights are, looked up once for all jobs that share them."""
    key = repr((config.task, config.model, config.data, config.data_dir, config.forgetting_on))
    if key not in known:
        known[key] = find_inputs(config)
    return known[key]


def epoch_times_s(records: Iterable[RunRecord]) -> dict[Hashable, float]:
    """Return the mean seconds per epoch of completed runs, by what they have in common (`_kind`)."""
    found: dict[Hashable, list[float]] = defaultdict(list)
    for record in records:
        if record.status == "completed" and record.time_s.total is not None:
            epochs = record.stopped.epoch if record.stopped else record.settings.epochs
            own_s = record.time_s.total / (record.packed or 1)
            found[_kind(record.settings, record.device.type)].append(own_s / epochs)
    return {kind: fmean(times) for kind, times in found.items()}


def estimate_s(resolved: ResolvedRun, known: Mapping[Hashable, float]) -> float | None:
    """Estimate the seconds that a run takes from ``known`` times per epoch (`epoch_times_s`).

    Returns None if no run with its task, model, method and type of device is known. Machines and their load differ, so
    this is rough.
    """
    epoch_s = known.get(_kind(resolved.config, resolved.device_type))
    return None if epoch_s is None else epoch_s * resolved.config.epochs


def _kind(settings: RunConfig | Settings, device_type: str) -> Hashable:
    """Return what runs have in common whose epochs take the same time."""
    names = (settings.task.name, settings.model.name, settings.method.name)
    return device_type, *names, settings.limit_train, settings.pad_to_max


def show(jobs: Sequence[Job], console: Console) -> None:
    """Print one row per task, model, protocol, method and rank, then the jobs that failed before."""
    totals = Counter(job.kind for job in jobs)
    kinds = [kind for kind in (*KINDS, "duplicate") if totals[kind]]
    table = Table("runs of", box=box.SIMPLE, pad_edge=False)
    for name in (*kinds, "time left"):
        table.add_column(name, justify="right")
    records = _records_of(job.resolved for job in jobs if job.resolved and job.will_run)
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        if job.resolved:
            groups.setdefault(_label(job.resolved.config), []).append(job)
    known = {folder: epoch_times_s(some) for folder, some in records.items()}
    left: list[float | None] = []
    for label, members in groups.items():
        counts = Counter(job.kind for job in members)
        times = [
            estimate_s(job.resolved, known[job.resolved.results_dir])
            for job in members
            if job.resolved and job.will_run
        ]
        left += times
        table.add_row(label, *(str(counts[kind] or "") for kind in kinds), _duration(times))
    console.print(table)
    counted = ", ".join(f"{count} {kind}" for kind, count in totals.items())
    todo = f"{len(left)} to run, one after another: {_duration(left)}" if left else "nothing to run"
    console.print(f"{len(jobs)} job{'s' if len(jobs) > 1 else ''}: {counted}; {todo}", soft_wrap=True)
    sizes = Counter(len(pack) for pack in packs([job.resolved for job in jobs if job.resolved and job.will_run]))
    if together := [f"{count} x {size}" for size, count in sorted(sizes.items(), reverse=True) if size > 1]:
        console.print(f"runs in one pass: {', '.join(together)} (packed=1: each alone)", soft_wrap=True)
    for job in jobs:
        if job.kind == "failed":
            console.print(f"failed before: {' '.join(job.overrides)}: {job.reason}", markup=False, soft_wrap=True)
    for read in records.values():
        read.remind()


def _records_of(runs: Iterable[ResolvedRun]) -> dict[Path, Records]:
    """Return the records of the tasks and models of these runs, by folder. Reading all would take most of a plan."""
    pairs: dict[Path, set[tuple[str, str]]] = defaultdict(set)
    for run in runs:
        pairs[run.results_dir].add((run.config.task.name, run.config.model.name))
    return {folder: load_records(folder, some) for folder, some in pairs.items()}


def _label(config: RunConfig) -> str:
    rank = [f"r={config.method.rank}"] if hasattr(config.method, "rank") else []
    return " ".join([config.task.name, config.model.name, config.protocol.name, config.method.name, *rank])


def _duration(times: Sequence[float | None]) -> str:
    """Return a duration such as ``about 12 min``, and the number of runs whose time is unknown."""
    known = [time for time in times if time is not None]
    if not times:
        return ""
    if not known:
        return "not known"
    seconds = sum(known)
    spans = ((3600, "h"), (60, "min"), (1, "s"))
    size, unit = next((span for span in spans if seconds >= span[0]), spans[-1])
    unknown = f", and {len(times) - len(known)} not known" if len(known) < len(times) else ""
    return f"about {seconds / size:.0f} {unit}{unknown}"
