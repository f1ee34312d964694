"""Beyond the paper: how many runs ended by giving all rows the same, by method and learning rate."""

from collections.abc import Iterator

from rosa_bench.record import RunRecord
from rosa_bench.report.facts import heading
from rosa_bench.report.select import Group
from rosa_bench.report.settings import Variant
from rosa_bench.report.table import Column, Entry, Line, Section, Table

# Of the labels' standard deviation. A classifier of a thousand rows is below it if all get one class, and else above.
LEAST_SPREAD = 0.05
# Of each variant and learning rate, by task: how many runs collapsed, of how many.
Counts = dict[tuple[Variant, float], dict[str, tuple[int, int]]]
INTRO = [
    "Each cell: how many runs collapsed, of how many, one a seed. A run has collapsed if the model of its last epoch "
    "gives all reported rows the same prediction: with a standard deviation below "
    f"{LEAST_SPREAD:g} of that of the labels.",
    "All learning rates that were tried are here, also those that no other table shows. –: not run. Runs made before "
    "the spread of predictions was recorded are left out.",
]


def build(groups: list[Group]) -> Table:
    """Every variant, learning rate and task whose runs say how their predictions spread."""
    counted = [(group, counts) for group in groups if (counts := _counts(group))]
    return Table(
        name="collapses",
        title="Collapsed runs",
        intro=INTRO,
        sections=[_section(group, counts) for group, counts in counted],
        tidy=[row for number, (group, counts) in enumerate(counted, 1) for row in _tidy(number, group, counts)],
    )


def has_collapsed(run: RunRecord) -> bool | None:
    """Whether the last epoch's model gives all rows (nearly) the same; none where the record does not tell."""
    spread = run.scores["last"].get("spread")
    return None if spread is None else not spread >= LEAST_SPREAD  # no number: nothing was told apart


def _counts(group: Group) -> Counts:
    """What records tell, variants and learning rates in order."""
    found: Counts = {}
    for variant in group.variants:
        by_lr = {task: cell.by_lr for (one, task), cell in group.cells.items() if one == variant}
        for lr in sorted({lr for runs in by_lr.values() for lr in runs}):
            for task, runs in by_lr.items():
                told = [collapsed for run in runs.get(lr, []) if (collapsed := has_collapsed(run)) is not None]
                if told:
                    found.setdefault((variant, lr), {})[task] = sum(told), len(told)
    return found


def _section(group: Group, counts: Counts) -> Section:
    told = {task for by_task in counts.values() for task in by_task}
    titles = {task: run.config["task"]["title"] for task, run in group.tasks.items() if task in told}
    return Section(
        heading=heading(group),
        facts={},
        columns=[Column(title=title) for title in titles.values()],
        lines=[
            Line(
                label=f"{variant.label}, lr {lr:g}",
                entries=[Entry(mean="{} of {}".format(*by_task[task]) if task in by_task else None) for task in titles],
            )
            for (variant, lr), by_task in counts.items()
        ],
    )


def _tidy(number: int, group: Group, counts: Counts) -> Iterator[dict[str, str]]:
    """One row a cell with a figure."""
    for (variant, lr), by_task in counts.items():
        for task in group.tasks:
            if task in by_task:
                collapsed, runs = by_task[task]
                yield {
                    "setting": str(number),
                    "model": group.setting.model,
                    "protocol": group.setting.protocol,
                    "device": group.setting.device,
                    "task": task,
                    "variant": variant.label,
                    "lr": f"{lr:g}",
                    "runs": str(runs),
                    "collapsed": str(collapsed),
                }
