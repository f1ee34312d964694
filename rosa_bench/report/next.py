"""``rosa-bench next``: list the runs that the tables still need before their learning rates and spread can be trusted.

If a cell has a runner-up learning rate, it needs the seeds that either of the two lacks. If the chosen learning rate is
at an end of those tried, a better one may lie beyond: the next one is run with one seed, which shows whether more are
worthwhile. If the chosen learning rate is inside the range, it needs more seeds, because it appears in the table.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rosa_bench.config.schema import half_decades
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.select import Cell, Group, select
from rosa_bench.report.cells.settings import GROUPS


def next_commands(records: Sequence[RunRecord], *, seeds: int, more: Sequence[str] = ()) -> list[str]:
    """Return one command for each cell in the tables of ``records`` that needs runs, ordered by setting.

    ``seeds`` is how many the chosen learning rate should have. ``more`` is added to every command. A learning rate at
    which a run failed is not suggested again.
    """
    return [
        shlex.join(
            ["rosa-bench", "-m", *_settings(cell.runs[0]), f"lr={_several(lrs)}", f"seed={_several(some)}", *more]
        )
        for group in select(records)
        if not group.setting.is_timed
        for cell in _ordered(group)
        for lrs, some in _needed(cell, seeds)
    ]


def _ordered(group: Group) -> list[Cell]:
    places = [(variant, task) for task in group.tasks for variant in group.variants]
    return [group.cells[place] for place in places if place in group.cells]


def _needed(cell: Cell, seeds: int) -> Iterator[tuple[list[float], list[int]]]:
    """Yield learning rates and seeds to run: for the runner-up, beyond an end, or more seeds for the chosen one."""
    have = list(cell.by_seed)
    if cell.runner_up is not None and cell.runner_up not in cell.lrs_failed:
        theirs = {run.settings.seed for run in cell.by_lr[cell.runner_up]}
        lacks = sorted(set(have) - theirs)
        yield ([cell.runner_up], lacks) if lacks else ([cell.lr], sorted(theirs - set(have)))
        return
    beyond = [half_decades(cell.lr, step) for step, end in zip((-1, 1), cell.ends, strict=True) if cell.lr == end]
    if beyond:
        yield beyond, (list(cell.shared) or have)[:1]
    elif missing := sorted(set(range(seeds)) - set(have)):
        yield [cell.lr], missing


def _settings(run: RunRecord) -> list[str]:
    """Return the arguments that compose a run, without its learning rate and seed."""
    groups = [f"{group}={run.setting(f'{group}.name')}" for group in GROUPS]
    rank = [] if run.settings.method.rank is None else [f"rank={run.settings.method.rank}"]
    return [*groups, *rank, *(f"{key}={_typed(value)}" for key, (value, _) in sorted(run.deviations.items()))]


def _typed(value: Any) -> str:
    """Format a JSON value in Hydra's grammar."""
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
