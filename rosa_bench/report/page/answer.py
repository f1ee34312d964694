"""The answer at the top of the page, computed from the records: ROSA minus LoRA, and the best variant of every task."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import period_words
from rosa_bench.report.cells.differences import Difference, paired, stratified
from rosa_bench.report.cells.grid import BASELINE, SHARED
from rosa_bench.report.cells.selection.select import Cell, Group, select
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.words.header import heading
from rosa_bench.report.cells.words.shown import Scale, scale
from rosa_bench.report.compare import places
from rosa_bench.report.comparison import comparison
from rosa_bench.report.tables.differences import Place
from rosa_bench.report.writers.text import MISSING, span

ROSA = "rosa"
QUESTION = f"method={ROSA},{BASELINE}"
EPOCHS = "epochs"  # the unit of a period unless a run changes it
ONCE = {"every 1 epochs": "every epoch"}
ENOUGH = 5  # seeds of a task, if any task has so many
AHEAD, LEVEL, BEHIND = "is ahead of", "is level with", "is behind"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A sentence in parts.

    period      ``resampled every 2 epochs``
    verdict     ``is level with``
    difference  with its interval and the number of seeds
    where       tasks and setting
    """

    period: str
    verdict: str
    difference: str
    where: str


@dataclass(frozen=True, kw_only=True)
class Best:
    """The variant with the highest score (the lowest error) on one task in one setting, as text.

    among    how many variants there are; the best of many is too good by chance
    minus    its difference to LoRA of the same rank, or to the best of LoRA's if it has none
    """

    task: str
    setting: str
    label: str
    score: str
    minus: str
    among: int


def verdicts(records: Sequence[RunRecord]) -> list[Verdict]:
    """Say whether ROSA is ahead of LoRA, for every period, setting and rank with two seeds or more; most seeds first.

    None is left out, whichever way it went. Each is the mean over the tasks with enough seeds of the differences that
    ``rosa-bench compare`` shows for ``method=rosa,lora method.resample_every=2,0``.
    """
    found = [
        (period, place, one)
        for period, arguments in _periods(records).items()
        for place in places(comparison([QUESTION, *arguments]), records)
        if (one := _overall(place)) is not None and one.low is not None
    ]
    found.sort(key=lambda item: -sum(item[2].seeds))
    return [_verdict(*item) for item in found]


def tally(found: Sequence[Verdict]) -> str:
    """Count the verdicts: ``3 comparisons, most seeds first: ROSA is ahead of LoRA in 0, level in 2, behind in 1``."""
    counts = Counter(one.verdict for one in found)
    ahead, level, behind = (counts[words] for words in (AHEAD, LEVEL, BEHIND))
    comparisons = f"{len(found)} comparison{'' if len(found) == 1 else 's, most seeds first'}"
    return f"{comparisons}: ROSA is ahead of LoRA in {ahead}, level in {level}, behind in {behind}"


def _periods(records: Iterable[RunRecord]) -> dict[str, list[str]]:
    """Return how often ROSA draws a new subspace in these records, in words and as arguments; the longest last."""
    found = {
        period_words(run): (run.settings.method.resample_every or 0, run.settings.method.resample_unit)
        for run in records
        if run.settings.method.name == ROSA
    }
    ordered = sorted(found.items(), key=lambda item: (item[1][0] or math.inf, item[0]))
    return {
        said: [
            f"method.resample_every={every:g},0",
            *([f"method.resample_unit={unit},{EPOCHS}"] if unit not in (None, EPOCHS) else []),
        ]
        for said, (every, unit) in ordered
    }


def best_variants(records: Iterable[RunRecord]) -> list[Best]:
    """Return the best variant of every task and setting that has several, those with the most runs first."""
    found = [
        (sum(len(cell.tried) for cell in cells.values()), _best(group, cells))
        for group in select(records)
        if not group.setting.is_timed
        for cells in _by_task(group)
        if len(cells) > 1
    ]
    return [best for _, best in sorted(found, key=lambda pair: -pair[0])]


def _tasks(place: Place) -> tuple[str, ...]:
    """Return the tasks with enough seeds. A mean over all tasks would have no interval if one has a single seed."""
    [pairs] = place.pairs.values()
    seeds = {task: len(ours.by_seed.keys() & theirs.by_seed.keys()) for task, (ours, theirs) in pairs.items()}
    return tuple(task for task, count in seeds.items() if count >= min(ENOUGH, max(seeds.values())))


def _overall(place: Place) -> Difference | None:
    """Return the mean difference over the tasks with enough seeds."""
    [pairs] = place.pairs.values()
    return stratified([(ours.by_seed, theirs.by_seed) for ours, theirs in map(pairs.__getitem__, _tasks(place))])


def _verdict(period: str, place: Place, found: Difference) -> Verdict:
    titles, measure = [place.titles[task] for task in _tasks(place)], place.scale(_tasks(place))
    model = place.runs[0].settings.model.title
    changes = [change.text for change in place.setting.deviations]
    rank = [] if place.rank is None else [f"rank {place.rank}"]
    return Verdict(
        period="never resampled" if period == "never" else f"resampled {ONCE.get(period, period)}",
        verdict=_verdict_words(found, measure),
        difference=_difference(found, measure),
        where=f"{', '.join(titles)}: {', '.join([model, f'protocol {place.setting.protocol}', *rank, *changes])}",
    )


def _verdict_words(found: Difference, measure: Scale) -> str:
    if found.within_noise:
        return LEVEL
    return AHEAD if measure.merit(found.mean) > 0 else BEHIND


def _by_task(group: Group) -> Iterator[dict[Variant, Cell]]:
    """Yield the cells of each task that have a mean."""
    for task in group.tasks:
        yield {variant: cell for variant, cell in group.of_task(task).items() if cell.is_defined}


def _best(group: Group, cells: dict[Variant, Cell]) -> Best:
    measure = scale(next(iter(cells.values())).runs[0])
    variant = max(cells, key=lambda one: measure.merit(cells[one].mean))
    cell = cells[variant]
    run, score = cell.runs[0], measure.text(cell.mean, cell.shown_interval)
    lora = _baseline(variant, cells, measure)
    minus = None if lora is None or lora is cell else paired(cell.by_seed, lora.by_seed)
    return Best(
        task=run.settings.task.title,
        setting=heading(group),
        label=variant.label,
        score=f"{score} ({len(cell.runs)})",
        minus=MISSING if minus is None else _difference(minus, measure),
        among=len(cells),
    )


def _baseline(variant: Variant, cells: Mapping[Variant, Cell], measure: Scale) -> Cell | None:
    """Return LoRA at the same rank; for a method without a rank, the best of LoRA's ranks."""
    same = tuple(change for change in variant.changes if change.key in SHARED)
    lora = [cell for one, cell in cells.items() if one.method == BASELINE and one.changes == same]
    if variant.rank is not None:
        lora = [cell for cell in lora if cell.runs[0].settings.method.rank == variant.rank]
    return max(lora, key=lambda cell: measure.merit(cell.mean), default=None)


def _difference(found: Difference, measure: Scale) -> str:
    """Format ``+0.4 [-1.1, +1.9] (13)``: the difference, its interval if known, and the number of seeds."""
    return f"{measure.signed(found.mean, found)} ({span(found.seeds)})"
