"""Beyond the paper: how many runs ended by giving all rows the same, by method and learning rate."""

from collections.abc import Iterable

from rosa_bench.record import RunRecord
from rosa_bench.report.facts import heading
from rosa_bench.report.select import Cell, Group
from rosa_bench.report.settings import Variant
from rosa_bench.report.table import Column, Entry, Line, Section, Table

# Of the labels' standard deviation. A classifier of a thousand rows is below it if all get one class, and else above.
LEAST_SPREAD = 0.05
INTRO = [
    "Each cell: how many runs collapsed, of how many, one a seed. A run has collapsed if the model of its last epoch "
    "gives all reported rows the same prediction: with a standard deviation below "
    f"{LEAST_SPREAD:g} of that of the labels.",
    "All learning rates that were tried are here, also those that no other table shows. –: not run. Runs made before "
    "the spread of predictions was recorded are left out.",
]


def build(groups: list[Group]) -> Table:
    """Every variant, learning rate and task whose runs say how their predictions spread."""
    sections = [_section(group) for group in groups if _rows(group)]
    tidy = [row for number, group in enumerate(filter(_rows, groups), 1) for row in _tidy(number, group)]
    return Table(name="collapses", title="Collapsed runs", intro=INTRO, sections=sections, tidy=tidy)


def has_collapsed(run: RunRecord) -> bool | None:
    """Whether the last epoch's model gives all rows (nearly) the same; none where the record does not tell."""
    spread = run.scores["last"].get("spread")
    return None if spread is None else not spread >= LEAST_SPREAD  # no number: nothing was told apart


def _known(cell: Cell | None, lr: float) -> list[bool]:
    """Of each of a cell's runs at a learning rate whether it collapsed, as far as records tell."""
    found = [has_collapsed(run) for run in (cell.by_lr.get(lr, []) if cell else [])]
    return [collapsed for collapsed in found if collapsed is not None]


def _rows(group: Group) -> list[tuple[Variant, float]]:
    """The variants and learning rates that something is known of, in order."""
    lrs = {(variant, lr) for (variant, _), cell in group.cells.items() for lr in cell.by_lr if _known(cell, lr)}
    return [(variant, lr) for variant in group.variants for lr in sorted(lr for one, lr in lrs if one == variant)]


def _tasks(group: Group) -> dict[str, str]:
    """Names and titles of the tasks that something is known of."""
    return {
        task: run.config["task"]["title"]
        for task, run in group.tasks.items()
        if any(_known(group.cells.get((variant, task)), lr) for variant, lr in _rows(group))
    }


def _section(group: Group) -> Section:
    return Section(
        heading=heading(group),
        facts={},
        columns=[Column(title=title) for title in _tasks(group).values()],
        lines=[
            Line(
                label=f"{variant.label}, lr {lr:g}",
                entries=[_entry(_known(group.cells.get((variant, task)), lr)) for task in _tasks(group)],
            )
            for variant, lr in _rows(group)
        ],
    )


def _entry(known: list[bool]) -> Entry:
    return Entry(mean=f"{sum(known)} of {len(known)}" if known else None)


def _tidy(number: int, group: Group) -> Iterable[dict[str, str]]:
    """One row a cell with a figure."""
    for variant, lr in _rows(group):
        for task in _tasks(group):
            if known := _known(group.cells.get((variant, task)), lr):
                yield {
                    "setting": str(number),
                    "model": group.setting.model,
                    "protocol": group.setting.protocol,
                    "device": group.setting.device,
                    "task": task,
                    "variant": variant.label,
                    "lr": f"{lr:g}",
                    "runs": str(len(known)),
                    "collapsed": str(sum(known)),
                }
