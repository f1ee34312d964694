"""All methods of one setting side by side: score over tasks, memory, trained parameters, time and size when saved."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean, geometric_mean

from rosa_bench.config.files.preset import swept
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import PERIOD, arm_order, own_changes, period_words
from rosa_bench.report.cells.costs import made_on, most_common, peak_memory_bytes, time_ratio
from rosa_bench.report.cells.differences import Difference, stratified
from rosa_bench.report.cells.facts import is_memorised
from rosa_bench.report.cells.grid import BASELINE
from rosa_bench.report.cells.select import Cell, Group, writes_texts
from rosa_bench.report.cells.settings import Variant

PRESET, PROTOCOL = "methods", "fair"
MIN_METHODS, MAX_COMPARISONS = 4, 3
ENOUGH_SEEDS = 2  # for an interval


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method on every task of a comparison, each at its best learning rate there.

    name          of the method, without its rank
    score         the mean over tasks, with its interval over seeds
    against_lora  the same minus LoRA's, paired over seeds; None for LoRA itself or without shared seeds
    memory_bytes  peak memory in training, the mean over tasks; None if not measured on the comparison's device
    time_ratio    time of a step, divided by LoRA's in the same batch of runs: the geometric mean over tasks
    saved_bytes   what must be stored beside the base model; None in older records
    """

    variant: Variant
    name: str
    cells: Mapping[str, Cell]
    score: Difference
    against_lora: Difference | None
    memory_bytes: float | None
    time_ratio: float | None
    saved_bytes: int | None

    @property
    def runs(self) -> list[RunRecord]:
        """The runs at the chosen learning rates."""
        return [run for cell in self.cells.values() for run in cell.runs]

    @property
    def tried(self) -> list[RunRecord]:
        """The runs at all learning rates."""
        return [run for cell in self.cells.values() for run in cell.tried]

    @property
    def trainable(self) -> int:
        """Number of trained parameters: the largest over tasks, whose heads differ."""
        return max(cell.trainable for cell in self.cells.values())

    @property
    def seeds(self) -> int:
        """The smallest number of seeds of a task."""
        return min(self.score.seeds)

    @property
    def collapsed(self) -> int:
        """How many of `runs` are known to have collapsed."""
        return sum(bool(run.has_collapsed) for run in self.runs)

    @property
    def untuned(self) -> float | None:
        """The mean score over tasks at the method's default learning rate; None if a task has no run at it.

        Defaults change as more is measured. The one of the newest run counts.
        """
        scores = []
        for cell in self.cells.values():
            run = max(cell.tried, key=lambda one: one.started)
            lr = run.setting(f"method.default_lr.{run.settings.protocol.name}")
            runs = cell.by_lr.get(lr) if isinstance(lr, int | float) else None
            if not runs:
                return None
            scores.append(fmean(one.score for one in runs))
        return fmean(scores)


@dataclass(frozen=True, kw_only=True)
class MethodComparison:
    """The methods of one setting with all of its tasks, the best first.

    tasks     names of the tasks
    rank      rank of the methods that have one
    kind      device on which memory was measured, and how the runs were made there (`costs.made_on`)
    left_out  tasks and methods that are not compared, and why
    """

    group: Group
    tasks: tuple[str, ...]
    rank: int | None
    kind: Hashable
    rows: tuple[MethodRow, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> list[RunRecord]:
        """The runs at the chosen learning rates of all methods."""
        return [run for row in self.rows for run in row.runs]

    @property
    def tried(self) -> list[RunRecord]:
        """The runs at all learning rates."""
        return [run for row in self.rows for run in row.tried]

    @cached_property
    def measured(self) -> list[RunRecord]:
        """The runs whose memory is compared."""
        return [run for run in self.tried if made_on(run) == self.kind and run.memory_bytes.training]

    @property
    def common_seeds(self) -> int:
        """The number of seeds that most methods have; of ties, the larger."""
        counts = Counter(row.seeds for row in self.rows)
        return max(counts, key=lambda one: (counts[one], one))

    def titles(self) -> dict[str, str]:
        """The tasks' titles by name."""
        return {task: self.group.tasks[task].settings.task.title for task in self.tasks}

    def few_seeds(self, row: MethodRow) -> bool:
        """Whether a method has fewer seeds than most."""
        return row.seeds < self.common_seeds


def method_comparisons(groups: Iterable[Group]) -> list[MethodComparison]:
    """Return one comparison per model: the setting with most cells (methods x tasks); of ties, nearest to `PROTOCOL`.

    The tasks are those of the preset `PRESET` together, and each task that writes texts by itself. Memorised rows have
    tables and figures of their own. At most `MAX_COMPARISONS` with at least `MIN_METHODS` methods each are returned,
    those with most cells first.
    """
    best: dict[tuple[str, bool], MethodComparison] = {}
    found = [one for group in groups if not group.setting.is_timed for one in _comparisons(group)]
    for one in sorted(found, key=_place):
        best.setdefault((one.group.setting.model, writes_texts(one.runs[0])), one)
    return list(best.values())[:MAX_COMPARISONS]


def _place(one: MethodComparison) -> tuple:
    setting = one.group.setting
    is_other = setting.protocol != PROTOCOL
    cells = len(one.rows) * len(one.tasks)
    return -cells, is_other, setting.distance, -len(one.rows), -len(one.runs), setting.protocol, one.tasks


def _comparisons(group: Group) -> list[MethodComparison]:
    scored = {task for task, run in group.tasks.items() if not run.scores.lower_is_better and not is_memorised(run)}
    together = [task for task in swept(PRESET, "task") if task in scored]
    texts = [[task] for task in sorted(scored) if writes_texts(group.tasks[task])]
    made = [_comparison(group, tasks) for tasks in (together, *texts) if tasks]
    return [one for one in made if len(one.rows) >= MIN_METHODS]


def _comparison(group: Group, among: list[str]) -> MethodComparison:
    """Compare one variant of each method on the tasks that most methods were run on with enough seeds."""
    rank, methods = _one_per_method(group, among)
    seeds = _usual_seeds(methods.values(), among)
    tasks = tuple(task for task in among if seeds[task] >= min(ENOUGH_SEEDS, max(seeds.values())))
    titles = {task: group.tasks[task].settings.task.title for task in among}
    few = {titles[task]: "most methods have one seed of it, or none" for task in among if task not in tasks}
    complete, left_out = {}, {}
    for variant in sorted(methods, key=lambda one: arm_order(one, _run(methods[one]))):
        cells, name = methods[variant], _name(variant, _run(methods[variant]))
        if lacking := [titles[task] for task in tasks if task not in cells]:
            left_out[name] = f"no run of {', '.join(lacking)}"
        elif not all(cells[task].is_defined for task in tasks):
            left_out[name] = "an undefined score"
        else:
            complete[variant] = name, {task: cells[task] for task in tasks}
    measured = [
        run
        for _, cells in complete.values()
        for cell in cells.values()
        for run in cell.tried
        if run.memory_bytes.training
    ]
    kind = most_common(measured)
    lora = next((cells for variant, (_, cells) in complete.items() if variant.method == BASELINE), None)
    rows = [_row(variant, *named, kind=kind, lora=lora) for variant, named in complete.items()]
    rows.sort(key=lambda row: -row.score.mean)
    return MethodComparison(group=group, tasks=tasks, rank=rank, kind=kind, rows=tuple(rows), left_out=few | left_out)


def _usual_seeds(methods: Collection[Mapping[str, Cell]], among: list[str]) -> dict[str, int]:
    """Return, for each task, the number of seeds that at least half of the methods have.

    It is half of the methods of that task that most were run on. So a sweep that was stopped in its last task is still
    compared on the others.
    """
    counts = {
        task: sorted((len(cells[task].by_seed) for cells in methods if task in cells), reverse=True) for task in among
    }
    half = math.ceil(max(map(len, counts.values())) / 2)
    return {task: found[half - 1] if len(found) >= half else 0 for task, found in counts.items()}


def _one_per_method(group: Group, among: list[str]) -> tuple[int | None, dict[Variant, dict[str, Cell]]]:
    """Return the most common rank, and one variant of each method with its cells on the tasks ``among`` those.

    It has that rank, if it has any, and the fewest changed settings; of ties, it has the most runs.
    """
    by_variant: dict[Variant, dict[str, Cell]] = defaultdict(dict)
    for (variant, task), cell in group.cells.items():
        if task in among:
            by_variant[variant][task] = cell
    ranks = {(variant.method, variant.rank) for variant in by_variant if variant.rank is not None}
    counts = Counter(rank for _, rank in ranks)
    rank = max(counts, key=lambda one: (counts[one], one), default=None)

    def place(variant: Variant) -> tuple:
        return len(variant.changes), -sum(len(cell.runs) for cell in by_variant[variant].values()), variant.label

    best: dict[str, Variant] = {}
    for variant in sorted((one for one in by_variant if one.rank in (None, rank)), key=place):
        best.setdefault(variant.method, variant)
    return rank, {variant: by_variant[variant] for variant in best.values()}


def _name(variant: Variant, run: RunRecord) -> str:
    """Name a method with its changed settings, without its rank."""
    period = [period_words(run)] if any(change.key in PERIOD for change in variant.changes) else []
    changes = [f"{key}={value}" for key, value in own_changes(variant, run, {}).items()]
    return ", ".join([variant.title, *period, *changes])


def _run(cells: Mapping[str, Cell]) -> RunRecord:
    return next(iter(cells.values())).runs[0]


def _row(
    variant: Variant, name: str, cells: Mapping[str, Cell], *, kind: Hashable, lora: Mapping[str, Cell] | None
) -> MethodRow:
    score = stratified([(cell.by_seed, dict.fromkeys(cell.by_seed, 0.0)) for cell in cells.values()])
    assert score is not None  # every score is defined
    memory = [peak_memory_bytes(cell.tried, kind) for cell in cells.values()]
    known = [bytes_ for bytes_ in memory if bytes_ is not None]
    ratios = [time_ratio(cell.tried, lora[task].tried) for task, cell in cells.items()] if lora else []
    timed = [ratio for ratio in ratios if ratio]
    saved = [run.parameters.saved_bytes for cell in cells.values() for run in cell.tried]
    is_lora = variant.method == BASELINE
    pairs = [] if lora is None else [(cell.by_seed, lora[task].by_seed) for task, cell in cells.items()]
    return MethodRow(
        variant=variant,
        name=name,
        cells=cells,
        score=score,
        against_lora=stratified(pairs) if pairs and not is_lora else None,
        memory_bytes=fmean(known) if len(known) == len(cells) else None,
        time_ratio=geometric_mean(timed) if timed and len(timed) == len(cells) else None,
        saved_bytes=max((one for one in saved if one is not None), default=None),
    )
