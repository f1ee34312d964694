"""``rosa-bench compare``: the effect of one setting, all else equal, on each task and over all tasks.

The arguments look like those of a run: ``method=rosa method.resample_every=1,2,0 protocol=fair``. The setting with
several values is compared: each value minus the last, in pairs of runs with the same seed. Settings with equally many
values change together: ``method=rosa,lora method.init=svd,kaiming``. A method's own settings that are not given must be
the protocol's; if there are no such runs, they are those that all runs of a side share. Each model, protocol, rank and
other setting gets its own section, as in the tables.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.differences import holm, paired, survives
from rosa_bench.report.cells.selection.learning_rate import RULE
from rosa_bench.report.cells.selection.same_data import split_by_data
from rosa_bench.report.cells.selection.select import COUNTED, cell_of
from rosa_bench.report.cells.settings import Setting, listed, setting_of, variant_of, words
from rosa_bench.report.comparison import ABSENT, Comparison, check_values, typed, value_of
from rosa_bench.report.tables.building.table import Section
from rosa_bench.report.tables.differences import Pair, Place, Side, differences_section
from rosa_bench.system.errors import UserError

SHOWN = 3  # the most kinds of excluded runs that an error lists
WORDS = {
    "median": "has the best median over seeds",
    "mean": "has the best mean over seeds",
    "seed": "is the best of each seed by itself",
}
HOW = (
    "Scores times 100, errors as they are. Each cell: mean difference [95 % interval] (seeds), paired over seeds, by "
    "Student's t. All: the mean over tasks, which are fixed strata with independent seeds (Satterthwaite's degrees of "
    "freedom). Detectable: the smallest true overall difference that a two-sided test at 5 % finds with 80 % power, at "
    "these seeds and this spread. Collapsed a/b: runs that predict the same for every row, on the first and on the "
    "second side. Unless lr is given, the learning rate {rule}."
)
FAMILY = "* and bold: significant at 5 % after Holm's correction over all {tests} differences tested here."
ALONE = "* and bold: significant at 5 %; one difference is tested here, so none is corrected."


class Compared(NamedTuple):
    """Sections of differences, the ids of the runs behind them, and how to read them."""

    sections: list[Section]
    runs: set[str]
    how: str


def compare(asked: Comparison, runs: Sequence[RunRecord], *, rule: str = RULE) -> Compared:
    """Compare the completed ``runs``: one section of differences per setting and rank that has any.

    Errors and scores are never in one section, because a mean over both would say nothing. All differences are one
    family, over which Holm's correction is made.

    Unless ``lr`` is given, each side uses its best learning rate by ``rule`` (`learning_rate.RULES`), the median as in
    the tables. Raises `UserError` if there is nothing to compare.
    """
    for key, values in asked.settings.items():
        check_values(key, values, runs)
    _check_sides(asked, [run for run in runs if run.status in COUNTED])
    admitted = _admitted(asked, runs)
    if not (found := _places(asked, admitted, rule)):
        asked = _as_they_are(asked, admitted)
        found = _places(asked, admitted, rule)
    if not found:
        left_out = _left_out(asked, admitted)
        raise UserError(f"no two runs share a task and a seed and differ only in {' and '.join(asked.keys)}{left_out}")
    family = [(number, key, one.p) for number, place in enumerate(found) for key, one in place.differences.items()]
    adjusted = zip(family, holm([p for _, _, p in family]), strict=True)
    significant = {(number, key) for (number, key, _), p in adjusted if survives(p)}
    tests = sum(p is not None for *_, p in family)
    return Compared(
        [
            differences_section(asked, place, {key for number, key in significant if number == here})
            for here, place in enumerate(found)
        ],
        {run.id for place in found for run in place.runs},
        " ".join([HOW.format(rule=WORDS[rule]), ALONE if tests == 1 else FAMILY.format(tests=tests)]),
    )


def places(asked: Comparison, runs: Iterable[RunRecord], *, rule: str = RULE) -> list[Place]:
    """Return the pairs and differences behind the sections of `compare`; none if there is nothing to compare."""
    return _places(asked, _admitted(asked, runs), rule)


def _admitted(asked: Comparison, runs: Iterable[RunRecord]) -> list[RunRecord]:
    return [run for run in runs if run.status in COUNTED and asked.admits(run, asked.sides)]


def why_not(asked: Comparison, run: RunRecord) -> str:
    """Say why no difference uses a completed run."""
    if not asked.admits(run, asked.sides):
        return "with other settings than those given"
    if setting_of(run).is_timed:
        return "with pad_to_max=true, made for times"
    if not asked.allows(variant_of(run).changes):
        return "with changed settings of their method that are not given"
    if not math.isfinite(run.score):
        return "with an undefined score"
    return "without a partner of the same seed, data and setting at the learning rates compared"


def _check_sides(asked: Comparison, runs: Sequence[RunRecord]) -> None:
    """Raise `UserError` if a method's setting, given once for all sides, has another value in all runs of a side.

    Methods without the setting are not restricted by it.
    """
    for key, (value,) in asked.of_methods.items():
        found = [asked.values_without(key, side, runs) for side in asked.sides]
        each = [value if not there or value in there else max(there, key=there.__getitem__) for there in found]
        for side, there, own in zip(asked.sides, found, each, strict=True):
            if own != value:
                name = " ".join(f"{one}={words(its)}" for one, its in zip(asked.keys, side, strict=True))
                raise UserError(
                    f"no run with {name} has {key}={words(value)}; values found: {listed(there)}. "
                    f"Give each side its own, for example: {key}={','.join(map(typed, each))}"
                )


def _as_they_are(asked: Comparison, admitted: Iterable[RunRecord]) -> Comparison:
    """Let each side have the changes to its method's settings that all of its runs share.

    Returns ``asked`` itself if the runs of some side differ in them: then the user has to say which are meant.
    """
    changes = [(run, asked.not_asked(variant_of(run).changes)) for run in admitted]
    own = [{some for run, some in changes if asked.admits(run, [side])} for side in asked.sides]
    return replace(asked, own=frozenset().union(*own)) if all(len(some) == 1 for some in own) else asked


def _places(asked: Comparison, admitted: Iterable[RunRecord], rule: str) -> list[Place]:
    """Pair the admitted runs: one place per setting and rank that has any pair, in the order of the sections."""
    by_place: dict[tuple[Setting, bool], list[RunRecord]] = defaultdict(list)
    for run in admitted:
        setting = setting_of(run)
        if not setting.is_timed and asked.allows(variant_of(run).changes):
            place = replace(setting, deviations=asked.not_asked(setting.deviations))
            by_place[place, run.scores.lower_is_better].append(run)
    count = Counter(setting.distance for (setting, _), here in by_place.items() for _ in here)
    ordered = sorted(by_place.items(), key=lambda item: (item[0][1], _order(item[0][0], count)))
    found = [
        Place(setting, rank, is_error, _titles(some), _pairs(asked, some, rule))
        for (setting, is_error), here in ordered
        for rank, some in _by_rank(asked, here)
    ]
    return [place for place in found if place.pairs]


def _order(place: Setting, runs: Mapping[tuple[int, str], int]) -> tuple[int, int, str, str]:
    """Sort key: nearest to its protocol first, then the model with the most runs."""
    return len(place.deviations), -runs[place.distance], place.model, place.protocol


def _left_out(asked: Comparison, admitted: Iterable[RunRecord]) -> str:
    """List runs that were excluded because their methods have changes that were not given as arguments."""
    changes = Counter(
        " ".join(change.text for change in further)
        for run in admitted
        if (further := asked.not_asked(variant_of(run).changes))
    )
    said = "; ".join(f"{count} with {change}" for change, count in changes.most_common(SHOWN))
    return f"; runs excluded because of settings not given: {said}" if said else ""


def _by_rank(asked: Comparison, runs: list[RunRecord]) -> list[tuple[int | None, list[RunRecord]]]:
    """Group runs by rank; runs of methods without a rank join every group. One group if ranks are compared."""
    without = (ABSENT, None)
    ranks = sorted({rank for run in runs if (rank := value_of(run, "rank")) not in without})
    if "rank" in asked.keys or not ranks:
        return [(None, runs)]
    return [(rank, [run for run in runs if value_of(run, "rank") in (rank, *without)]) for rank in ranks]


def _titles(runs: Iterable[RunRecord]) -> dict[str, str]:
    return {run.settings.task.name: run.settings.task.title for run in runs}


def _pairs(asked: Comparison, runs: list[RunRecord], rule: str) -> dict[Side, dict[str, Pair]]:
    """Pair every side but the last with the last one, by task; sides without a pair are left out."""
    *sides, _ = asked.sides
    tasks = sorted(_titles(runs))
    found = {
        side: {task: pair for task in tasks if (pair := _pair(asked, side, task, runs, rule=rule))} for side in sides
    }
    return {side: pairs for side, pairs in found.items() if pairs}


def _pair(asked: Comparison, side: tuple[Hashable, ...], task: str, runs: list[RunRecord], *, rule: str) -> Pair | None:
    """Return a side's cell and the last side's, on a task's largest shared data; None if they share no seed."""
    for part in split_by_data(run for run in runs if run.settings.task.name == task):
        ours, theirs = (
            cell_of((run for run in part if asked.admits(run, [one])), rule=rule) for one in (side, asked.sides[-1])
        )
        if ours and theirs and paired(ours.by_seed, theirs.by_seed):
            return ours, theirs
    return None
