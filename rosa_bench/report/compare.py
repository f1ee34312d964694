"""``rosa-bench compare``: the effect of one setting, all else equal, on each task and over all tasks.

The arguments look like those of a run: ``method=rosa method.resample_every=1,2,0 protocol=fair``. The setting with
several values is compared: each value minus the last, in pairs of runs with the same seed. Settings with equally many
values change together: ``method=rosa,lora method.init=svd,kaiming``. A method's own settings that are not given must be
the protocol's. Each model, protocol, rank and other setting gets its own section, as in the tables.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.header import (
    AT_AN_END,
    END_NOTE,
    UNSETTLED,
    UNSETTLED_NOTE,
    device_words,
    heading,
    model_words,
    numbered_notes,
)
from rosa_bench.report.cells.select import COUNTED, Cell, Group, cell_of, open_ended, split_by_data
from rosa_bench.report.cells.settings import Setting, setting_of, variant_of, words
from rosa_bench.report.cells.statistics import Difference, paired_over_tasks
from rosa_bench.report.comparison import ABSENT, Comparison, value_of
from rosa_bench.report.tables.table import Column, Entry, Line, Section
from rosa_bench.report.writers.text import signed, signed_error
from rosa_bench.system.errors import UserError

Show = Callable[[float], str]
Chosen = Mapping[tuple[str, str], Cell]  # keyed by a side in words and a task's title

SHOWN = 3  # the most kinds of excluded runs that an error lists
ERRORS = "errors: a difference below 0 is better"
HOW = (
    "Scores times 100, errors as they are: mean difference (95 % interval; seeds) by Student's t of the differences, "
    "seed by seed, not corrected for how many are looked at. All: the mean over the tasks, of the seeds that all of "
    "them have."
)


class Compared(NamedTuple):
    """Sections of differences, and the ids of the runs behind them."""

    sections: list[Section]
    runs: set[str]


def compare(asked: Comparison, runs: Sequence[RunRecord]) -> Compared:
    """Compare the completed ``runs``: one section of differences per setting and rank that has any.

    Errors and scores are never in one section, because a mean over both would say nothing.

    As in the tables, each side uses its best learning rate, unless ``lr`` is given. Raises `UserError` if there is
    nothing to compare.
    """
    for key, values in asked.settings.items():
        _check(key, values, runs)
    admitted = [run for run in runs if run.status in COUNTED and asked.admits(run, asked.sides)]
    places: dict[tuple[Setting, bool], list[RunRecord]] = defaultdict(list)
    for run in admitted:
        setting = setting_of(run)
        if not setting.is_timed and not asked.not_asked(variant_of(run).changes):
            place = replace(setting, deviations=asked.not_asked(setting.deviations))
            places[place, run.scores.lower_is_better].append(run)
    count = Counter(place.distance for (place, _), here in places.items() for _ in here)
    found = [
        one
        for (place, is_error), here in sorted(places.items(), key=lambda item: (item[0][1], _order(item[0][0], count)))
        for rank, some in _by_rank(asked, here)
        if (one := _section(asked, place, rank, some, is_error=is_error))
    ]
    if not found:
        left_out = _left_out(asked, admitted)
        raise UserError(f"no two runs share a task and a seed and differ only in {' and '.join(asked.keys)}{left_out}")
    return Compared([one.section for one in found], {run.id for one in found for run in one.runs})


def why_not(asked: Comparison, run: RunRecord) -> str:
    """Say why a completed run is behind no difference."""
    if not asked.admits(run, asked.sides):
        return "with other settings than those given"
    if setting_of(run).is_timed:
        return "with pad_to_max=true, made for times"
    if asked.not_asked(variant_of(run).changes):
        return "with changed settings of their method that are not given"
    if not math.isfinite(run.score):
        return "with an undefined score"
    return "without a partner of the same seed, data and setting at the learning rates compared"


def _check(key: str, values: Iterable[Hashable], runs: Iterable[RunRecord]) -> None:
    """Raise `UserError` if no run has this setting or one of these values."""
    there = {value_of(run, key) for run in runs} - {ABSENT}
    if not there:
        raise UserError(f"these runs have no setting {key}; rosa-bench --cfg job lists the settings")
    if absent := [value for value in values if value not in there]:
        have = ", ".join(sorted(map(words, there)))
        raise UserError(f"no run has {key}={words(absent[0])}; values found: {have}")


def _order(place: Setting, runs: Mapping[tuple[int, str], int]) -> tuple[int, int, str, str]:
    """Sort key: nearest to its protocol first, then the model with the most runs."""
    return len(place.deviations), -runs[place.distance], place.model, place.protocol


def _left_out(asked: Comparison, admitted: Iterable[RunRecord]) -> str:
    """List runs that were excluded because their methods have changes that were not given as arguments."""
    changes = Counter(
        " ".join(f"{change.key}={words(change.value)}" for change in further)
        for run in admitted
        if (further := asked.not_asked(variant_of(run).changes))
    )
    listed = "; ".join(f"{count} with {change}" for change, count in changes.most_common(SHOWN))
    return f"; runs excluded because of settings not given: {listed}" if listed else ""


def _by_rank(asked: Comparison, runs: list[RunRecord]) -> list[tuple[int | None, list[RunRecord]]]:
    """Group runs by rank; runs of methods without a rank join every group. One group if ranks are compared."""
    ranks = sorted({rank for run in runs if (rank := value_of(run, "rank")) is not ABSENT})
    if "rank" in asked.keys or not ranks:
        return [(None, runs)]
    return [(rank, [run for run in runs if value_of(run, "rank") in (rank, ABSENT)]) for rank in ranks]


class _Found(NamedTuple):
    section: Section
    runs: list[RunRecord]


def _section(
    asked: Comparison, place: Setting, rank: int | None, runs: list[RunRecord], *, is_error: bool
) -> _Found | None:
    """Build the section of one setting and rank; None if it has no differences."""
    show = signed_error if is_error else signed
    titles = {run.settings.task.name: run.settings.task.title for run in runs}
    *sides, last = asked.sides
    found: dict[tuple[Hashable, ...], dict[str, tuple[Cell, Cell]]] = {}
    for side in sides:
        if pairs := {task: pair for task in sorted(titles) if (pair := _pair(asked, side, task, runs))}:
            found[side] = pairs
    if not found:
        return None
    cells = {(variant_of(ours.runs[0]), task): ours for pairs in found.values() for task, (ours, _) in pairs.items()}
    group = Group(setting=place, cells=cells)
    used = [run for pairs in found.values() for pair in pairs.values() for cell in pair for run in cell.runs]
    numbers, notes = numbered_notes(group.tasks, titles)
    chosen = _chosen(asked, found)
    tasks = list(group.tasks)
    whole = [Column(title="all")] if len(tasks) > 1 else []
    section = Section(
        heading=heading(group) + ("" if rank is None else f", r={rank}"),
        header={"Model": model_words(used[0]), "Device": device_words(used), **_header(asked, chosen)},
        head=", ".join(asked.keys),
        columns=[*(Column(title=titles[task], note=numbers.get(task)) for task in tasks), *whole],
        lines=[_line(f"{_side(side)} less {_side(last)}", pairs, tasks, show) for side, pairs in found.items()],
        notes=[*notes, *([ERRORS] if is_error else []), *_doubts(chosen)],
    )
    return _Found(section, used)


def _side(side: tuple[Hashable, ...]) -> str:
    return ", ".join(map(words, side))


def _pair(asked: Comparison, side: tuple[Hashable, ...], task: str, runs: list[RunRecord]) -> tuple[Cell, Cell] | None:
    """Return a side's cell and the last side's, on a task's largest shared data; None if they share no seed."""
    for part in split_by_data(run for run in runs if run.settings.task.name == task):
        ours, theirs = (cell_of(run for run in part if asked.admits(run, [one])) for one in (side, asked.sides[-1]))
        if ours and theirs and _difference([(ours, theirs)]):
            return ours, theirs
    return None


def _difference(pairs: Iterable[tuple[Cell, Cell]]) -> Difference | None:
    return paired_over_tasks([(ours.by_seed, theirs.by_seed) for ours, theirs in pairs])


def _line(label: str, pairs: Mapping[str, tuple[Cell, Cell]], tasks: Sequence[str], show: Show) -> Line:
    entries = [_entry(_difference([pairs[task]]) if task in pairs else None, show) for task in tasks]
    if len(tasks) > 1:
        some = f", {len(pairs)} of {len(tasks)} tasks" if len(pairs) < len(tasks) else ""
        entries.append(_entry(_difference(pairs.values()), show, some))
    return Line(label=label, entries=entries)


def _entry(difference: Difference | None, show: Show, some: str = "") -> Entry:
    """Format ``-2.5 (-4.3 to -0.8; 5)``, bold if the interval excludes 0."""
    if difference is None:
        return Entry()
    low, high = difference.low, difference.high
    interval = "" if low is None or high is None else f"{show(low)} to {show(high)}; "
    return Entry(mean=f"{show(difference.mean)} ({interval}{difference.seeds}{some})", best=not difference.within_noise)


def _chosen(asked: Comparison, found: Mapping[tuple[Hashable, ...], Mapping[str, tuple[Cell, Cell]]]) -> Chosen:
    """Return the cells of each side if their learning rates were chosen; empty if ``lr`` was given."""
    if "lr" in asked.settings:
        return {}
    sides = [(side, ours) for side, pairs in found.items() for ours, _ in pairs.values()]
    last = [(asked.sides[-1], theirs) for pairs in found.values() for _, theirs in pairs.values()]
    return {(_side(side), cell.runs[0].settings.task.title): cell for side, cell in [*sides, *last]}


def _header(asked: Comparison, chosen: Chosen) -> dict[str, str]:
    """Say which settings were given and which learning rates were chosen, marked as in the tables."""
    given = [f"{key}={','.join(map(words, values))}" for key, values in asked.given.items()]
    lines = {"Of runs with": ", ".join(given)} if given else {}
    ends = open_ended(chosen)
    by_lr: dict[str, dict[float, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (side, title), cell in chosen.items():
        marks = {AT_AN_END: (side, title) in ends, UNSETTLED: cell.runner_up is not None}
        by_lr[side][cell.lr].append(title + "".join(mark for mark, holds in marks.items() if holds))
    return lines | {f"lr of {side}": _rates(sorted(titles.items())) for side, titles in by_lr.items()}


def _doubts(chosen: Chosen) -> list[str]:
    """Write the notes that explain the marks on learning rates."""
    runners_up: dict[str, dict[float, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (side, title), cell in chosen.items():
        if cell.runner_up is not None:
            runners_up[side][cell.runner_up].append(title)
    which = "; ".join(f"{side} {_rates(titles.items())}" for side, titles in runners_up.items())
    return [*([END_NOTE] if open_ended(chosen) else []), *([f"{UNSETTLED_NOTE}{which}"] if which else [])]


def _rates(titles: Iterable[tuple[float, list[str]]]) -> str:
    """Format ``0.0006 on MRPC; 0.002 on CoLA, RTE``."""
    return "; ".join(f"{lr:g} on {', '.join(tasks)}" for lr, tasks in titles)
