"""Which runs a table's cell is made of: pure functions from records to chosen cells.

The learning rate is chosen as the records say that the epoch was (``scores.selected_on``): where it was on rows held
out of train (``held_out``), or on a validation split beside the reported test split (``validation_split``), what is
reported is never looked at; where it was on dev itself (``validation``), by the dev score of the selected epoch, which
is the paper's way: the maximum over learning rates and epochs.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import TypeVar

from rosa_bench.config.identity import is_identity
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.settings import Setting, Variant, frozen, setting_of, variant_of
from rosa_bench.report.cells.statistics import Interval, interval

# What a learning rate is chosen by, by ``scores.selected_on``.
CRITERIA: dict[str, Callable[[RunRecord], float]] = {
    "held_out": lambda run: run.selection_score,
    "validation_split": lambda run: run.selection_score,
    "validation": lambda run: run.score,
}
Key = TypeVar("Key", bound=Hashable)
COUNTED = ("completed", "failed")  # a run that was interrupted says nothing yet


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The runs behind one figure: one setting, variant, task and learning rate, one run a seed.

    lrs         the learning rates that were compared
    shared      the seeds on which they were: those that all of them have. Without any, each was taken with its own
    lrs_left    those that were not, having too few seeds
    lrs_failed  those at which a run failed: its loss was no number any more, or the program broke off
    runner_up   learning rate that may turn out to be better than the chosen one. Either it was not compared and is
                ahead on the seeds that both have; or its mean over all its seeds is ahead, if it was compared or if the
                chosen one collapsed on some seeds. Of several, the one ahead by most
    tried       all that it was chosen among, compared or not: a run for each learning rate and seed, in their order
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
        """Mean of the reported dev score of the selected epoch, a fraction."""
        return statistics.fmean(run.score for run in self.runs)

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds; none for one seed, and where a score is no number."""
        scores = [run.score for run in self.runs]
        return statistics.stdev(scores) if len(scores) > 1 and all(map(math.isfinite, scores)) else None

    @property
    def by_seed(self) -> dict[int, float]:
        """The reported dev scores, by seed."""
        return {run.settings.seed: run.score for run in self.runs}

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of `mean`, if one is known."""
        run = self.runs[0]
        return interval(list(self.by_seed.values()), metric=run.scores.reported, dev_rows=run.data.rows.validation)

    @property
    def by_lr(self) -> dict[float, list[RunRecord]]:
        """All that were tried, by learning rate, from the smallest on."""
        found: dict[float, list[RunRecord]] = defaultdict(list)
        for run in self.tried:
            found[run.settings.lr].append(run)
        return dict(found)

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the greatest learning rate that was tried, also where that failed."""
        lrs = [*self.by_lr, *self.lrs_failed]
        return min(lrs), max(lrs)

    @property
    def is_inside(self) -> bool:
        """Whether a smaller and a greater learning rate than the chosen one were tried; if not, another may be better.

        One with too few seeds to be compared counts, because it would be the `runner_up` if it were ahead on them. So
        does one at which a run failed.
        """
        return self.lr not in self.ends

    @property
    def had_choice(self) -> bool:
        """Whether another learning rate was tried, with however few seeds, or failed."""
        return self.ends != (self.lr, self.lr)

    @property
    def at_an_end(self) -> bool:
        """Whether there was a choice, and the chosen learning rate is the smallest or the greatest that was tried."""
        return self.had_choice and not self.is_inside

    @property
    def last_mean(self) -> float:
        """As `mean`, of the last epoch."""
        return statistics.fmean(run.last_score for run in self.runs)

    @property
    def trainable(self) -> int:
        """Parameters that train."""
        return self.runs[0].parameters.trainable or 0


@dataclass(frozen=True, kw_only=True)
class Group:
    """The chosen cells of one setting, by variant and task."""

    setting: Setting
    cells: dict[tuple[Variant, str], Cell]

    @property
    def tasks(self) -> dict[str, RunRecord]:
        """The tasks that have a cell, by name, each with one of its runs for what they all share."""
        return {task: cell.runs[0] for (_, task), cell in sorted(self.cells.items(), key=lambda item: item[0][1])}

    @property
    def variants(self) -> list[Variant]:
        """The variants that have a cell, in a fixed order."""
        return sorted({variant for variant, _ in self.cells}, key=lambda one: (one.title, one.rank or 0, one.label))

    @property
    def runs(self) -> list[RunRecord]:
        """All runs behind the cells."""
        return [run for cell in self.cells.values() for run in cell.runs]


def writes_texts(run: RunRecord) -> bool:
    """Whether the task is to write texts, which are scored on a test split."""
    return run.data.prompts is not None


def select(records: Iterable[RunRecord]) -> list[Group]:
    """Groups of cells that may be compared, from the completed ones among ``records``, and what failed beside them.

    A task whose data differs between runs of one setting is split: each data in a group of its own.
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


def cell_of(runs: Iterable[RunRecord]) -> Cell | None:
    """As `choose`, out of ``runs`` of every status; none if none is completed."""
    by_status: dict[str, list[RunRecord]] = defaultdict(list)
    for run in runs:
        by_status[run.status].append(run)
    return choose(by_status["completed"], by_status["failed"]) if by_status["completed"] else None


def choose(runs: Iterable[RunRecord], failed: Iterable[RunRecord] = ()) -> Cell:
    """The cell of one setting, variant and task: of its completed ``runs`` those at the best learning rate.

    Compared are those with the most seeds that two of them have, on the seeds that all of these share: the best one may
    then be given more, and is not compared by them. But a single seed is not compared with several. Of runs with one
    seed and learning rate, the one started last counts. Of equal learning rates, the smaller wins.
    """
    by_lr: dict[float, dict[int, RunRecord]] = defaultdict(dict)
    for run in sorted(runs, key=lambda run: (run.started, run.id)):
        by_lr[run.settings.lr][run.settings.seed] = run
    most, *fewer = sorted(map(len, by_lr.values()), reverse=True)
    enough = fewer[0] if fewer and fewer[0] > 1 else most
    compared = {lr: seeds for lr, seeds in by_lr.items() if len(seeds) >= enough}
    shared = set.intersection(*(set(seeds) for seeds in compared.values()))

    def criterion(lr: float) -> float:
        return _criterion(run for seed, run in compared[lr].items() if seed in shared or not shared)

    best = max(compared, key=lambda lr: (criterion(lr), -lr))
    left = by_lr.keys() - compared.keys()
    return Cell(
        runs=tuple(run for _, run in sorted(compared[best].items())),
        lr=best,
        lrs=tuple(sorted(compared)),
        shared=tuple(sorted(shared)),
        lrs_left=tuple(sorted(left)),
        lrs_failed=tuple(sorted({run.settings.lr for run in failed})),
        runner_up=_runner_up(by_lr, best, left),
        tried=tuple(run for _, seeds in sorted(by_lr.items()) for _, run in sorted(seeds.items())),
    )


def open_ended(cells: Mapping[Key, Cell]) -> set[Key]:
    """Where any had a choice: those whose learning rate is at an end of the ones tried, or the only one."""
    had_choice = any(cell.had_choice for cell in cells.values())
    return {key for key, cell in cells.items() if had_choice and not cell.is_inside}


def split_by_data(runs: Iterable[RunRecord]) -> list[list[RunRecord]]:
    """Runs of one task, split into those on the same data: from one source, or with one fingerprint.

    The largest data comes first, then what has the most runs. A fingerprint alone would not do: it covers the held-out
    split, which a seed draws.
    """
    parts: list[tuple[set, list[RunRecord]]] = []
    for run in runs:
        task = frozen({key: value for key, value in run.setting("task").items() if is_identity(f"task.{key}")})
        marks = {(task, run.data.source), (task, run.data.fingerprint)}
        alike = [part for part in parts if part[0] & marks]
        others = [part for part in parts if not part[0] & marks]
        merged = set().union(marks, *(part[0] for part in alike)), [*(r for part in alike for r in part[1]), run]
        parts = [*others, merged]
    return sorted((part[1] for part in parts), key=lambda part: (-part[0].data.rows.total, -len(part)))


def _criterion(runs: Iterable[RunRecord]) -> float:
    """What a learning rate is chosen by, the higher the better: a mean over seeds. An undefined one always loses."""
    mean = statistics.fmean(
        CRITERIA[run.scores.selected_on](run) * (-1 if run.scores.selected_by.lower_is_better else 1) for run in runs
    )
    return mean if math.isfinite(mean) else -math.inf


def _runner_up(by_lr: dict[float, dict[int, RunRecord]], best: float, left: Set[float]) -> float | None:
    """The learning rate that may have to take the best one's place, as `Cell` has it; ``left`` were not compared."""
    breaks = any(run.has_collapsed for run in by_lr[best].values())  # maybe on seeds that those left were not run with
    leads: dict[float, float] = {}
    for lr in by_lr.keys() - {best}:
        ways = {True, not breaks} if lr in left else {False}
        leads[lr] = max(_lead(by_lr[lr], by_lr[best], paired=paired) for paired in ways)
    return max((lr for lr in leads if leads[lr] > 0), key=lambda lr: (leads[lr], -lr), default=None)


def _lead(ours: dict[int, RunRecord], theirs: dict[int, RunRecord], *, paired: bool) -> float:
    """How far the one is ahead of the other by what chooses; ``paired``: on the seeds that both have, 0 without any."""
    if paired:
        both = ours.keys() & theirs.keys()
        ours, theirs = ({seed: runs[seed] for seed in both} for runs in (ours, theirs))
    lead = _criterion(ours.values()) - _criterion(theirs.values()) if ours and theirs else 0.0
    return 0.0 if math.isnan(lead) else lead
