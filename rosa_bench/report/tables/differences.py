"""A section of ``rosa-bench compare``: the differences of one setting and rank, as text."""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.differences import FEW_SEEDS_NOTE, Difference, stratified
from rosa_bench.report.cells.selection.select import Cell, Group, open_ended
from rosa_bench.report.cells.settings import Setting, variant_of, words
from rosa_bench.report.cells.words.header import (
    changed_words,
    device_words,
    heading,
    lr_marks,
    lr_notes,
    model_words,
    modified_notes,
    numbered_notes,
)
from rosa_bench.report.cells.words.shown import Scale
from rosa_bench.report.comparison import Comparison
from rosa_bench.report.tables.building.table import Column, Entry, Line, Section
from rosa_bench.report.writers.text import span

Side = tuple[Hashable, ...]
Pair = tuple[Cell, Cell]  # a side's cell and the last side's
Key = tuple[Side, tuple[str, ...]]  # a side, and the tasks over which the difference is the mean
Chosen = Mapping[tuple[str, str], Cell]  # keyed by a side in words and a task

ERRORS = "errors: a difference below 0 is better"


@dataclass(frozen=True)
class Place:
    """The pairs of cells of one setting and rank: side -> task -> pair. ``titles`` are those of the tasks."""

    setting: Setting
    rank: int | None
    lower_is_better: bool
    titles: Mapping[str, str]
    pairs: Mapping[Side, Mapping[str, Pair]]

    @cached_property
    def differences(self) -> dict[Key, Difference]:
        """Each side's difference in every task, and its mean over all of them."""
        return {
            (side, tasks): found
            for side, pairs in self.pairs.items()
            for tasks in [*((task,) for task in pairs), tuple(pairs)]
            if (found := stratified([(ours.by_seed, theirs.by_seed) for ours, theirs in map(pairs.__getitem__, tasks)]))
        }

    def scale(self, tasks: Iterable[str]) -> Scale:
        """Return the scale of a difference over some tasks: it has the decimals that their scores have."""
        cells = [cell for pairs in self.pairs.values() for task in tasks for cell in pairs.get(task, ())]
        return Scale(self.lower_is_better).fitted(cell.mean for cell in cells)

    @property
    def has_power(self) -> bool:
        """Whether the power of any difference is known. It needs two seeds of every task."""
        return any(one.detectable is not None for one in self.differences.values())

    @property
    def runs(self) -> list[RunRecord]:
        """All runs behind the differences."""
        return [run for pairs in self.pairs.values() for pair in pairs.values() for cell in pair for run in cell.runs]


def differences_section(asked: Comparison, place: Place, significant: Collection[Key]) -> Section:
    """Write the section of one setting and rank, with the ``significant`` differences marked."""
    last = asked.sides[-1]
    cells = {
        (variant_of(ours.runs[0]), task): ours for pairs in place.pairs.values() for task, (ours, _) in pairs.items()
    }
    group = Group(setting=place.setting, cells=cells)
    tasks = list(group.tasks)
    numbers, notes = numbered_notes(group.tasks, place.titles)
    chosen = _chosen(asked, place)
    columns = [Column(title=place.titles[task], note=numbers.get(task)) for task in tasks]
    columns += [Column(title="all")] if len(tasks) > 1 else []
    columns += [Column(title="detectable")] if place.has_power else []
    return Section(
        heading=heading(group) + ("" if place.rank is None else f", r={place.rank}"),
        header={
            "Model": model_words(place.runs[0]),
            "Device": device_words(place.runs),
            **_header(asked, chosen, place.titles),
        },
        head=", ".join(asked.keys),
        columns=columns,
        lines=[
            Line(label=f"{_words(side)} minus {_words(last)}", entries=_entries(place, side, tasks, significant))
            for side in place.pairs
        ],
        notes=[
            *notes,
            *([ERRORS] if place.lower_is_better else []),
            *_doubts(chosen, place.titles),
            *([FEW_SEEDS_NOTE] if any(place.differences[key].has_few_seeds for key in significant) else []),
            *modified_notes(list({run.id: run for run in place.runs}.values())),
        ],
    )


def _words(side: Side) -> str:
    return ", ".join(map(words, side))


def _entries(place: Place, side: Side, tasks: list[str], significant: Collection[Key]) -> list[Entry]:
    """Return one entry per task, that over all of them if there are several, and the detectable difference."""
    pairs = place.pairs[side]
    keys = [(side, (task,)) for task in tasks]
    whole = (side, tuple(pairs))
    some = f", {len(pairs)} of {len(tasks)} tasks" if len(pairs) < len(tasks) else ""
    entries = [_entry(place, key, significant, place.scale(key[1])) for key in keys]
    if len(tasks) > 1:
        entries.append(_entry(place, whole, significant, place.scale(tasks), some))
    if place.has_power:
        detectable = place.differences[whole].detectable
        entries.append(Entry(mean=None if detectable is None else place.scale(tasks).text(detectable)))
    return entries


def _entry(place: Place, key: Key, significant: Collection[Key], scale: Scale, some: str = "") -> Entry:
    """Format ``-2.5 [-4.3, -0.8] (5)*``, bold if significant; with collapsed runs ``(5; collapsed 0/1)``."""
    difference = place.differences.get(key)
    if difference is None:
        return Entry()
    side, tasks = key
    counts = [sum(column) for column in zip(*(_collapsed(place.pairs[side][task]) for task in tasks), strict=True)]
    collapsed = f"; collapsed {'/'.join(map(str, counts))}" if any(counts) else ""
    mark = "*" if key in significant else ""
    shown = scale.signed(difference.mean, difference)
    text = f"{shown} ({span(difference.seeds)}{some}{collapsed}){mark}"
    return Entry(mean=text, best=key in significant)


def _collapsed(pair: Pair) -> tuple[int, int]:
    """Count the collapsed runs of both sides, among the seeds that both have."""
    both = pair[0].by_seed.keys() & pair[1].by_seed.keys()
    ours, theirs = (sum(bool(run.has_collapsed) for run in cell.runs if run.settings.seed in both) for cell in pair)
    return ours, theirs


def _chosen(asked: Comparison, place: Place) -> Chosen:
    """Return the cells of each side if their learning rates were chosen; empty if ``lr`` was given."""
    if "lr" in asked.settings:
        return {}
    sides = [(side, ours) for side, pairs in place.pairs.items() for ours, _ in pairs.values()]
    last = [(asked.sides[-1], theirs) for pairs in place.pairs.values() for _, theirs in pairs.values()]
    return {(_words(side), cell.runs[0].settings.task.name): cell for side, cell in [*sides, *last]}


def _header(asked: Comparison, chosen: Chosen, titles: Mapping[str, str]) -> dict[str, str]:
    """Say which settings were given and which learning rates were chosen, marked as in the tables."""
    given = [f"{key}={','.join(map(words, values))}" for key, values in asked.given.items()]
    lines = {"Only runs with": ", ".join(given)} if given else {}
    own = sorted({changed_words(change) for changes in asked.own for change in changes})
    lines |= {"Changed": "; ".join(own)} if own else {}
    ends = open_ended(chosen)
    by_lr: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (side, task), cell in chosen.items():
        mark = lr_marks(at_an_end=(side, task) in ends, unsettled=cell.runner_up is not None)
        by_lr[side][_lr_words(cell)].append(titles[task] + mark)
    return lines | {f"lr of {side}": _rates(sorted(tasks.items())) for side, tasks in by_lr.items()}


def _lr_words(cell: Cell) -> str:
    """``0.002``, or if each seed chose for itself ``0.0006 (4 of 13), 0.002 (9 of 13)``."""
    if len(cell.lr_counts) == 1:
        return f"{cell.lr:g}"
    return ", ".join(f"{lr:g} ({count} of {len(cell.runs)})" for lr, count in cell.lr_counts.items())


def _doubts(chosen: Chosen, titles: Mapping[str, str]) -> list[str]:
    """Write the notes that explain the marks on learning rates."""
    runners_up: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (side, task), cell in chosen.items():
        if cell.runner_up is not None:
            runners_up[side][f"{cell.runner_up:g}"].append(titles[task])
    which = "; ".join(f"{side} {_rates(tasks.items())}" for side, tasks in runners_up.items())
    return lr_notes(at_an_end=bool(open_ended(chosen)), unsettled=which)


def _rates(titles: Iterable[tuple[str, list[str]]]) -> str:
    """Format ``0.0006 on MRPC; 0.002 on CoLA, RTE``."""
    return "; ".join(f"{lr} on {', '.join(tasks)}" for lr, tasks in titles)
