"""Choose the runs behind each cell of a table: pure functions from records to cells."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.learning_rate import RULE, SEED, best_by_seed, best_lr, runner_up
from rosa_bench.report.cells.selection.same_data import split_by_data
from rosa_bench.report.cells.settings import Setting, Variant, setting_of, variant_of
from rosa_bench.report.cells.statistics import Interval, interval_of, shown_interval_of

Key = TypeVar("Key", bound=Hashable)
COUNTED = ("completed", "failed")  # an interrupted run proves nothing yet


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The runs behind one figure: one setting, variant and task, with one run per seed.

    lr          the chosen learning rate. If each seed chose for itself, the one that most seeds chose
    lrs         learning rates that were compared
    shared      seeds that all of ``lrs`` have, on which they were compared. If empty, each used its own seeds
    lrs_left    learning rates that were not compared because they have too few seeds
    lrs_failed  learning rates at which a run failed: the loss became non-finite, or the program crashed
    runner_up   learning rate that may turn out better than the chosen one (`learning_rate.runner_up`)
    tried       all candidates, compared or not: one run per learning rate and seed, sorted by both
    """

    runs: tuple[RunRecord, ...]
    lr: float
    lrs: tuple[float, ...]
    shared: tuple[int, ...]
    lrs_left: tuple[float, ...]
    lrs_failed: tuple[float, ...]
    runner_up: float | None
    tried: tuple[RunRecord, ...]

    @property
    def mean(self) -> float:
        """Mean reported score of the selected epoch, as a fraction."""
        return statistics.fmean(run.score for run in self.runs)

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds; None for a single seed or if any score is not finite."""
        scores = [run.score for run in self.runs]
        return statistics.stdev(scores) if len(scores) > 1 and all(map(math.isfinite, scores)) else None

    @property
    def is_defined(self) -> bool:
        """Whether every run has a score. Without, there is no mean: leaving a run out would change what it says."""
        return math.isfinite(self.mean)

    @property
    def by_seed(self) -> dict[int, float]:
        """The reported scores by seed."""
        return {run.settings.seed: run.score for run in self.runs}

    @property
    def per_seed(self) -> "Cell":
        """The same, if each seed chose its own learning rate."""
        return choose(self.tried, rule=SEED)

    def of_seeds(self, seeds: Collection[int]) -> "Cell | None":
        """Return the cell that these seeds alone give; None if it has no run of them. A rate that failed stays so."""
        some = [run for run in self.tried if run.settings.seed in seeds]
        return replace(choose(some), lrs_failed=self.lrs_failed) if some else None

    @property
    def collapsed(self) -> int | None:
        """How many runs collapsed; None if no run recorded it."""
        known = [collapsed for run in self.runs if (collapsed := run.has_collapsed) is not None]
        return sum(known) if known else None

    @property
    def lr_counts(self) -> dict[float, int]:
        """How many seeds use each learning rate. Only one does, unless each seed chose for itself."""
        return dict(sorted(Counter(run.settings.lr for run in self.runs).items()))

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of `mean`, or None if unknown."""
        return interval_of(self.runs)

    @property
    def shown_interval(self) -> Interval | None:
        """`interval` as it is shown: cut at the ends of the metric's range."""
        return shown_interval_of(self.runs)

    @property
    def by_lr(self) -> dict[float, list[RunRecord]]:
        """All runs tried, by learning rate in increasing order."""
        found: dict[float, list[RunRecord]] = defaultdict(list)
        for run in self.tried:
            found[run.settings.lr].append(run)
        return dict(found)

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest learning rate tried, including those that failed."""
        lrs = [*self.by_lr, *self.lrs_failed]
        return min(lrs), max(lrs)

    @property
    def is_inside(self) -> bool:
        """Whether smaller and larger learning rates than the chosen one were tried; if not, another may be better.

        A learning rate with too few seeds to be compared counts, because it would be the `runner_up` if it were ahead.
        So does one at which a run failed.
        """
        return not self.lr_counts.keys() & set(self.ends)

    @property
    def had_choice(self) -> bool:
        """Whether another learning rate was tried, even if it failed or had few seeds."""
        return self.ends != (self.lr, self.lr)

    @property
    def at_an_end(self) -> bool:
        """Whether several learning rates were tried and the chosen one is the smallest or the largest of them."""
        return self.had_choice and not self.is_inside

    @property
    def last_mean(self) -> float:
        """Like `mean`, for the last epoch."""
        return statistics.fmean(run.last_score for run in self.runs)

    @property
    def trainable(self) -> int:
        """Number of trainable parameters."""
        return self.runs[0].parameters.trainable or 0


@dataclass(frozen=True, kw_only=True)
class Group:
    """The cells of one setting, by variant and task."""

    setting: Setting
    cells: dict[tuple[Variant, str], Cell]

    @property
    def tasks(self) -> dict[str, RunRecord]:
        """The tasks that have a cell, by name. Each maps to one run, which represents all of its runs."""
        return {task: cell.runs[0] for (_, task), cell in sorted(self.cells.items(), key=lambda item: item[0][1])}

    @property
    def variants(self) -> list[Variant]:
        """The variants that have a cell, in a fixed order."""
        return sorted({variant for variant, _ in self.cells}, key=lambda one: (one.title, one.rank or 0, one.label))

    def of_task(self, task: str) -> dict[Variant, Cell]:
        """Return the cells of a task by variant."""
        return {variant: cell for (variant, one), cell in self.cells.items() if one == task}

    @property
    def runs(self) -> list[RunRecord]:
        """All runs behind the cells."""
        return [run for cell in self.cells.values() for run in cell.runs]


def select(records: Iterable[RunRecord]) -> list[Group]:
    """Group the completed and failed ``records`` into cells that may be compared.

    If the data of a task differs between runs of one setting, each version of the data gets its own group.
    """
    by_task: dict[tuple[Setting, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.status in COUNTED:
            by_task[setting_of(record), record.settings.task.name].append(record)

    groups: dict[tuple[Setting, int], dict[tuple[Variant, str], Cell]] = defaultdict(dict)
    for (setting, task), runs in by_task.items():
        for number, same_data in enumerate(split_by_data(runs)):
            by_variant: dict[Variant, list[RunRecord]] = defaultdict(list)
            for run in same_data:
                by_variant[variant_of(run)].append(run)
            for variant, some in by_variant.items():
                if cell := cell_of(some):
                    groups[setting, number][variant, task] = cell
    return [Group(setting=setting, cells=cells) for (setting, _), cells in groups.items()]


def cell_of(runs: Iterable[RunRecord], *, rule: str = RULE) -> Cell | None:
    """Like `choose`, from ``runs`` of any status; None if no run is completed."""
    by_status: dict[str, list[RunRecord]] = defaultdict(list)
    for run in runs:
        by_status[run.status].append(run)
    return choose(by_status["completed"], by_status["failed"], rule=rule) if by_status["completed"] else None


def choose(runs: Iterable[RunRecord], failed: Iterable[RunRecord] = (), *, rule: str = RULE) -> Cell:
    """Choose the best learning rate of one setting, variant and task, and return its completed ``runs`` as a cell.

    Let n be the second-largest number of seeds at any learning rate. Learning rates with at least n seeds are compared,
    on the seeds that all of them share. So extra seeds for the best one do not affect the comparison. If n is 1, only
    the learning rates with the most seeds are compared: a single seed is never compared with several. If a seed and
    learning rate were run twice, the run started last counts. If learning rates tie, the smaller wins.

    ``rule`` is one of `learning_rate.RULES`. By ``seed``, each of the shared seeds uses the rate that is best for it.
    """
    by_lr: dict[float, dict[int, RunRecord]] = defaultdict(dict)
    for run in sorted(runs, key=lambda run: (run.started, run.id)):
        by_lr[run.settings.lr][run.settings.seed] = run
    most, *fewer = sorted(map(len, by_lr.values()), reverse=True)
    enough = fewer[0] if fewer and fewer[0] > 1 else most
    compared = {lr: seeds for lr, seeds in by_lr.items() if len(seeds) >= enough}
    shared = set.intersection(*(set(seeds) for seeds in compared.values()))
    left = by_lr.keys() - compared.keys()
    chosen = best_by_seed(compared, shared) if rule == SEED else compared[best_lr(compared, shared, rule)]
    counts = Counter(run.settings.lr for run in chosen.values())
    return Cell(
        runs=tuple(run for _, run in sorted(chosen.items())),
        lr=max(counts, key=lambda lr: (counts[lr], -lr)),
        lrs=tuple(sorted(compared)),
        shared=tuple(sorted(shared)),
        lrs_left=tuple(sorted(left)),
        lrs_failed=tuple(sorted({run.settings.lr for run in failed})),
        runner_up=runner_up(by_lr, chosen, left, rule),
        tried=tuple(run for _, seeds in sorted(by_lr.items()) for _, run in sorted(seeds.items())),
    )


def open_ended(cells: Mapping[Key, Cell]) -> set[Key]:
    """Return the cells whose learning rate is at an end of those tried, or is the only one.

    Returns an empty set if no cell had more than one learning rate to choose from.
    """
    had_choice = any(cell.had_choice for cell in cells.values())
    return {key for key, cell in cells.items() if had_choice and not cell.is_inside}
