"""``rosa-bench next``: the runs that the tables still lack before their learning rates and their spread can be trusted.

A learning rate at an end of those compared may not be the best: the next one beyond it is wanted. One that is inside is
wanted with more seeds, for it is what stands in the table.
"""

import re
import shlex
from collections.abc import Iterable, Iterator
from typing import Any

from rosa_bench.record import RunRecord
from rosa_bench.report.select import Cell, Group, select

GROUPS = ("task", "model", "protocol", "method")
FEWEST_LRS = 3
HALF_DECADE = 10**0.5


def next_commands(
    records: Iterable[RunRecord], *, seeds: int, among: dict[str, set[str]], more: list[str]
) -> list[str]:
    """One command for each cell of the tables that wants runs, in the order of its settings.

    ``seeds``: how many the chosen learning rate shall have. ``among``: the groups' names to look at, all where none is
    given. ``more`` is added to every command.
    """
    kept = [
        record for record in records if all(record.config[group]["name"] in names for group, names in among.items())
    ]
    return [
        shlex.join(
            ["rosa-bench", "-m", *_settings(cell.runs[0]), f"lr={_several(lrs)}", f"seed={_several(wanted)}", *more]
        )
        for group in select(kept)
        if not group.setting.is_timed
        for cell in _ordered(group)
        for lrs, wanted in _wanted(cell, seeds)
    ]


def _ordered(group: Group) -> list[Cell]:
    return [
        group.cells[variant, task]
        for task in group.tasks
        for variant in group.variants
        if (variant, task) in group.cells
    ]


def _wanted(cell: Cell, seeds: int) -> Iterator[tuple[list[float], list[int]]]:
    """Learning rates and seeds that a cell wants."""
    have = list(cell.by_seed)
    ends = {cell.lrs[0]: 1 / HALF_DECADE, cell.lrs[-1]: HALF_DECADE}
    if len(cell.lrs) == 1:
        yield [_one_digit(cell.lr * step) for step in (1 / HALF_DECADE, HALF_DECADE)], have
    elif cell.lr in ends:
        yield [_one_digit(cell.lr * ends[cell.lr])], have
    elif missing := sorted(set(range(seeds)) - set(have)):
        yield [cell.lr], missing


def _one_digit(lr: float) -> float:
    return float(f"{lr:.0e}")


def _settings(run: RunRecord) -> list[str]:
    """What composes a run but for its learning rate and its seed."""
    config = run.config
    groups = [f"{group}={config[group]['name']}" for group in GROUPS]
    rank = [f"rank={config['method']['rank']}"] if "rank" in config["method"] else []
    return [*groups, *rank, *(f"{key}={_typed(value)}" for key, (value, _) in sorted(run.deviations.items()))]


def _typed(value: Any) -> str:
    """A value out of JSON as Hydra's grammar has it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list():
            return f"[{','.join(map(_typed, value))}]"
        case str() if not re.fullmatch(r"[\w./-]+", value):
            return "'" + value.replace("'", r"\'") + "'"
        case _:
            return str(value)


def _several(values: Iterable[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
