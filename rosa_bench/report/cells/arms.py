"""Arms of a capacity experiment: short names for the variants of one comparison, and their means with intervals."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from rosa_bench.config.files.looks import order_of
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import Cell, Group
from rosa_bench.report.cells.settings import METHOD, Variant, frozen, words
from rosa_bench.report.cells.statistics import ROUNDING, student
from rosa_bench.report.writers.text import MISSING

PERIOD = ("method.resample_every", "method.resample_unit")
# What a period is followed by, keyed by its unit.
EVERY = {"steps": "{:g} steps", "epochs": "{:g} epochs", "run": "{:g} of the run"}
HOW = ("last_resample", "rewarm_steps")  # settings without effect unless an arm resamples
RESAMPLED = "methods that resample"
INTERVALS = "95 % intervals over seeds (Student)"
NO_INTERVAL = "one seed, or seeds that agree exactly, have none"
CUT = "Intervals are cut to the possible values."
Range = tuple[float, float]  # the least and the greatest value that is possible


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds and its 95 % interval, which is None without spread."""

    mean: float
    low: float | None
    high: float | None

    @property
    def whiskers(self) -> tuple[float, float]:
        """The distances from the mean to both ends of the interval; 0 without one."""
        if self.low is None or self.high is None:
            return 0.0, 0.0
        return self.mean - self.low, self.high - self.mean

    def times(self, factor: float) -> "Estimate":
        """This estimate in another unit."""
        low, high = (None if end is None else factor * end for end in (self.low, self.high))
        return Estimate(mean=factor * self.mean, low=low, high=high)

    def within(self, low: float, high: float) -> "Estimate":
        """This estimate with its interval cut to what values can be."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(self.low, min(low, self.mean)), high=min(self.high, max(high, self.mean)))

    def text(self, form: str = "{:.3g}") -> str:
        """Format as ``0.95 [0.91, 0.99]``."""
        mean = form.format(self.mean)
        return mean if self.low is None else f"{mean} [{form.format(self.low)}, {form.format(self.high)}]"


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """Return the mean of one value per seed, with Student's (1908) interval; None if a value is unknown or not finite.

    One seed, and seeds that agree up to rounding, have no interval.
    """
    known = [math.nan if value is None else value for value in values]
    if not known or not np.isfinite(known).all():
        return None
    mean = fmean(known)
    if np.ptp(known) <= ROUNDING * max(map(abs, known)):
        return Estimate(mean=mean, low=None, high=None)
    low, high = student(known)
    return Estimate(mean=mean, low=low, high=high)


def over_seeds(
    cell: Cell,
    value: Callable[[RunRecord], float | None],
    possible: Callable[[RunRecord], Range | None] = lambda _: None,
) -> Estimate | None:
    """Return the mean of a value over the runs of a cell; its interval is cut to the values that are ``possible``."""
    found, ends = estimate(value(run) for run in cell.runs), possible(cell.runs[0])
    return found.within(*ends) if found and ends else found


def text_of(found: Estimate | None, form: str = "{:.3g}", *, times: float = 1) -> str:
    """Format an estimate, scaled by ``times``; a dash if it is unknown."""
    return MISSING if found is None else found.times(times).text(form)


def is_resampled(run: RunRecord) -> bool:
    """Whether the subspace that a run trains in is drawn again during training."""
    return bool(run.settings.method.resample_every)


def period_words(run: RunRecord) -> str:
    """Say how often a run resamples: ``every 100 steps``; ``never`` if it could; empty for methods that cannot."""
    method = run.settings.method
    if method.resample_every is None:
        return ""
    if not method.resample_every:
        return "never"
    unit = method.resample_unit or "epochs"
    return f"every {EVERY[unit].format(method.resample_every)}"


def arm_order(variant: Variant, run: RunRecord) -> tuple:
    """Return the sort key of an arm: method in the order of legends, rank, its form, and its period from long to short.

    The form is all that is changed but `HOW`. Among its periods, never comes first.
    """
    changes = sorted(_changes(variant).items())
    form = [change for change in changes if change[0] not in HOW]
    return (
        order_of(variant.method),
        variant.method,
        variant.rank or 0,
        len(form),
        form,
        period_order(run),
        changes,
        variant.label,
    )


def in_order(runs: Mapping[Variant, RunRecord]) -> dict[Variant, RunRecord]:
    """Return arms, with any run of each, by their `arm_order`."""
    return {variant: runs[variant] for variant in sorted(runs, key=lambda one: arm_order(one, runs[one]))}


def one_run_each(cells: Mapping[Variant, Cell]) -> dict[Variant, RunRecord]:
    """Return any one run of each arm, to read what its seeds share."""
    return {variant: cell.runs[0] for variant, cell in cells.items()}


def arms_of(group: Group, task: str, keep: Callable[[RunRecord], object]) -> dict[Variant, Cell]:
    """Return the cells of a task whose runs ``keep`` accepts, by their `arm_order`."""
    found = {variant: cell for variant, cell in group.of_task(task).items() if all(map(keep, cell.runs))}
    return {variant: found[variant] for variant in in_order(one_run_each(found))}


def period_order(run: RunRecord) -> tuple[bool, str, float]:
    """Return the sort key of a period: never first, then by unit, from long to short."""
    method = run.settings.method
    return is_resampled(run), (method.resample_unit or "") if is_resampled(run) else "", -(method.resample_every or 0)


def common_changes(runs: Mapping[Variant, RunRecord]) -> dict[str, dict[str, str]]:
    """Return the changes that need not be in every name: title -> setting -> value. ``runs`` has any run of each arm.

    These are the changes that all arms of a method share, and under `RESAMPLED` what all arms that resample share of
    `HOW`, whatever their method.
    """
    resampled = {variant: run for variant, run in runs.items() if is_resampled(run)}
    how = {key: {_value(key, variant, run) for variant, run in resampled.items()} for key in HOW}
    changed = {key for variant in runs for key in _changes(variant)}
    shared = {RESAMPLED: {key: found.pop() for key, found in how.items() if len(found) == 1 and key in changed}}
    for title in dict.fromkeys(variant.title for variant in runs):
        own = [set(_changes(variant).items()) for variant in runs if variant.title == title]
        shared[title] = {key: value for key, value in sorted(set.intersection(*own)) if key not in shared[RESAMPLED]}
    return {title: changes for title, changes in shared.items() if changes}


def own_changes(variant: Variant, run: RunRecord, shared: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the changes that set an arm apart from others of its method, except its rank and period."""
    common = {**shared.get(RESAMPLED, {}), **shared.get(variant.title, {})}
    return {
        key: value
        for key, value in sorted(_changes(variant).items())
        if common.get(key) != value and (key not in HOW or is_resampled(run))
    }


def plain_arms(runs: Mapping[Variant, RunRecord]) -> set[Variant]:
    """Return the arms of a method's usual form. ``runs`` has any run of each.

    Rank, period, `HOW` and `common_changes` may differ, and settings that several methods change (which layers are
    adapted, for example).
    """
    shared = common_changes(runs)
    titles: dict[str, set[str]] = {}
    for variant in runs:
        for key in _changes(variant):
            titles.setdefault(key, set()).add(variant.title)
    return {
        variant
        for variant, run in runs.items()
        if all(key in HOW or len(titles[key]) > 1 for key in own_changes(variant, run, shared))
    }


def arm_labels(runs: Mapping[Variant, RunRecord]) -> dict[Variant, str]:
    """Name each arm briefly: ``ROSA r=1, every 100 steps, init=balanced``. ``runs`` has any run of each.

    `common_changes` are left out. That a method never resamples is said only if it would by default.
    """
    shared = common_changes(runs)
    labels = {}
    for variant, run in runs.items():
        rank = [] if variant.rank is None else [f"r={variant.rank}"]
        period = period_words(run)
        if period == "never" and not any(change.key == PERIOD[0] for change in variant.changes):
            period = ""
        changes = [f"{key}={value}" for key, value in own_changes(variant, run, shared).items()]
        labels[variant] = ", ".join([" ".join([variant.title, *rank]), *([period] if period else []), *changes])
    return _distinct(labels)


def common_words(runs: Mapping[Variant, RunRecord]) -> str:
    """List the changed settings that names leave out: ``ROSA: init=balanced; LoRA: targets=all-linear``."""
    said = [
        f"{title}: {', '.join(f'{key}={value}' for key, value in changes.items())}"
        for title, changes in common_changes(runs).items()
    ]
    return "; ".join(said)


def in_all_arms(runs: Mapping[Variant, RunRecord]) -> str:
    """Like `common_words`, as a sentence; empty if there is nothing to say."""
    return f"In all arms of {said}." if (said := common_words(runs)) else ""


def sharing_words(runs: Sequence[RunRecord]) -> str:
    """Say how many runs shared their GPU, as far as the records know."""
    shared = [count for run in runs if (count := run.device.shared_by or 1) > 1]
    unknown = sum(run.device.shared_by is None and run.device.type == "cuda" for run in runs)
    said = [
        *([f"shared by up to {max(shared)} processes in {len(shared)} of {len(runs)} runs"] if shared else []),
        *([f"not recorded in {unknown}"] if unknown else []),
    ]
    return f"GPU {'; '.join(said)}. Sharing changes times, not this memory." if shared else ""


def _changes(variant: Variant) -> dict[str, str]:
    """Return a variant's changed settings and their values, without its period."""
    return {
        change.key.removeprefix(METHOD): words(change.value) for change in variant.changes if change.key not in PERIOD
    }


def _value(key: str, variant: Variant, run: RunRecord) -> str:
    return _changes(variant).get(key) or words(frozen(run.setting(f"{METHOD}{key}")))


def _distinct(labels: Mapping[Variant, str]) -> dict[Variant, str]:
    """Replace names that two variants share by the long ones."""
    known = list(labels.values())
    return {variant: label if known.count(label) == 1 else variant.label for variant, label in labels.items()}
