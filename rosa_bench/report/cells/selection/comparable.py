"""Which methods may be compared: those of one setting, on the tasks and the seeds that most of them have."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from rosa_bench.config.files.preset import swept
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import PERIOD, arm_order, own_changes, period_words
from rosa_bench.report.cells.costs import most_common, own_peak_bytes
from rosa_bench.report.cells.grid import BASELINE
from rosa_bench.report.cells.methods import MethodComparison, method_row
from rosa_bench.report.cells.selection.select import Cell, Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.words.facts import scored_on_test
from rosa_bench.report.cells.words.shown import scale

PRESET, PROTOCOL = "methods", "fair"
MIN_METHODS, MAX_COMPARISONS = 4, 4
ENOUGH_SEEDS = 2  # for an interval


def method_comparisons(groups: Iterable[Group]) -> list[MethodComparison]:
    """Return one comparison per model: the setting with most cells (methods x tasks); of ties, nearest to `PROTOCOL`.

    The tasks are those of the preset `PRESET` together, and each task with prompts by itself. A model's prompts may
    have two comparisons: by a score of the outputs, and by the loss or perplexity of the references. The two are never
    one, and no mean is over both. Memorised rows, regressions and language modelling have tables and figures of their
    own. At most `MAX_COMPARISONS` with at least `MIN_METHODS` methods each are returned, those with most cells first.
    """
    best: dict[tuple[str, bool, bool], MethodComparison] = {}
    found = [one for group in groups if not group.setting.is_timed for one in _comparisons(group)]
    for one in sorted(found, key=_place):
        best.setdefault((one.group.setting.model, scored_on_test(one.runs[0]), one.scale.lower_is_better), one)
    return list(best.values())[:MAX_COMPARISONS]


def _place(one: MethodComparison) -> tuple:
    setting = one.group.setting
    is_other = setting.protocol != PROTOCOL
    cells = len(one.rows) * len(one.tasks)
    return -cells, is_other, setting.distance, -len(one.rows), -len(one.runs), setting.protocol, one.tasks


def _comparisons(group: Group) -> list[MethodComparison]:
    runs = group.tasks
    together = [task for task in swept(PRESET, "task") if task in runs and not scale(runs[task]).lower_is_better]
    texts = [[task] for task in sorted(runs) if scored_on_test(runs[task])]
    made = [_comparison(group, tasks) for tasks in (together, *texts) if tasks]
    return [one for one in made if len(one.rows) >= MIN_METHODS]


def _comparison(group: Group, among: list[str]) -> MethodComparison:
    """Compare one variant of each method on the tasks and seeds that most methods have; apart, on their other seeds.

    Leaders are often run again with new seeds. Those test a lead without the luck that made it, and a mean over more
    seeds than the others have would meet rare failures more often.
    """
    rank, methods = _one_per_method(group, among)
    usual = _usual_seeds(methods.values(), among)
    most = max(map(len, usual.values()))
    tasks = [task for task in among if len(usual[task]) >= min(ENOUGH_SEEDS, most)]
    others = {
        task: {seed for cells in methods.values() if task in cells for seed in cells[task].by_seed} - usual[task]
        for task in tasks
    }
    again = {variant: cells for variant in methods if (cells := _of_seeds(methods[variant], others))}
    few = {_title(group, task): "most methods share one seed of it, or none" for task in among if task not in tasks}
    found = _compared(group, rank, tasks, {variant: _of_seeds(methods[variant], usual) for variant in methods})
    return replace(
        found, left_out={**few, **found.left_out}, spare=len(again), others=_others(group, rank, tasks, again)
    )


def _others(
    group: Group, rank: int | None, among: Sequence[str], methods: Mapping[Variant, Mapping[str, Cell]]
) -> MethodComparison | None:
    """Compare methods on the tasks of which most have enough of these seeds; None if there is nothing to compare."""
    usual = _usual_seeds(methods.values(), among)
    tasks = [task for task in among if len(usual[task]) >= ENOUGH_SEEDS]
    found = _compared(group, rank, tasks, methods) if tasks else None
    return replace(found, follows=True) if found and len(found.rows) > 1 else None


def _compared(
    group: Group, rank: int | None, tasks: Sequence[str], methods: Mapping[Variant, Mapping[str, Cell]]
) -> MethodComparison:
    """Compare the methods that have a score on each of these tasks."""
    complete, left_out = {}, {}
    for variant in sorted(methods, key=lambda one: arm_order(one, _run(group, one))):
        cells, name = methods[variant], _name(variant, _run(group, variant))
        if lacking := [task for task in tasks if task not in cells]:
            has_run = any((variant, task) in group.cells for task in lacking)
            titles = ", ".join(_title(group, task) for task in lacking)
            left_out[name] = f"no run of {titles}{' with these seeds' if has_run else ''}"
        elif not all(cells[task].is_defined for task in tasks):
            left_out[name] = "an undefined score"
        else:
            complete[variant] = name, {task: cells[task] for task in tasks}
    measured = [
        run for _, cells in complete.values() for cell in cells.values() for run in cell.tried if own_peak_bytes(run)
    ]
    kind = most_common(measured)
    lora = next((cells for variant, (_, cells) in complete.items() if variant.method == BASELINE), None)
    rows = [method_row(variant, *named, kind=kind, lora=lora) for variant, named in complete.items()]
    measure = scale(group.tasks[tasks[0]])
    rows.sort(key=lambda row: -measure.merit(row.score.mean))
    return MethodComparison(group=group, tasks=tuple(tasks), rank=rank, kind=kind, rows=tuple(rows), left_out=left_out)


def _usual_seeds(methods: Collection[Mapping[str, Cell]], among: Iterable[str]) -> dict[str, frozenset[int]]:
    """Return, for each task, the seeds that at least half of the methods have; all seeds if they share none.

    It is half of the methods of that task that most were run on, and a method has a seed if it has most of its rates
    there. So a sweep that was stopped in its last task is still compared on the others, and one that was stopped within
    a seed on the seeds before.
    """
    half = math.ceil(max(sum(task in cells for cells in methods) for task in among) / 2)
    counts = {
        task: Counter(seed for cells in methods if task in cells for seed in _tuned_seeds(cells[task]))
        for task in among
    }
    usual = {task: frozenset(seed for seed, n in found.items() if n >= half) for task, found in counts.items()}
    return usual if any(usual.values()) else {task: frozenset(found) for task, found in counts.items()}


def _tuned_seeds(cell: Cell) -> set[int]:
    """Return the seeds of a cell that have more than half of the learning rates of the seed with most."""
    rates = Counter(run.settings.seed for run in cell.tried)
    return {seed for seed, count in rates.items() if 2 * count > max(rates.values())}


def _of_seeds(cells: Mapping[str, Cell], seeds: Mapping[str, Collection[int]]) -> dict[str, Cell]:
    """Return what is left of a method's cells with these seeds of each task."""
    found = {task: cell.of_seeds(seeds[task]) for task, cell in cells.items() if task in seeds}
    return {task: cell for task, cell in found.items() if cell is not None}


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


def _run(group: Group, variant: Variant) -> RunRecord:
    return next(cell.runs[0] for (one, _), cell in group.cells.items() if one == variant)


def _title(group: Group, task: str) -> str:
    return group.tasks[task].settings.task.title
