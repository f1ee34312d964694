"""The panels of the capacity figure: arms that memorised, in one setting, by amount of data."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import Estimate, in_order, over_seeds
from rosa_bench.report.cells.selection.select import Cell, Group
from rosa_bench.report.cells.settings import Setting, Variant
from rosa_bench.report.cells.words.facts import RECALL, fact, is_learned_at_once, per_parameter, storable_per_parameter
from rosa_bench.report.cells.words.header import heading

# Settings that may differ along a line: how much data there is, and how long it is learnt.
SCALE = ("task.pairs", "task.digits", "task.passes", "epochs")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The arms of one setting, which may differ in the amount of data: cells by arm, and within it by bits."""

    group: Group
    arms: dict[Variant, dict[float, Cell]]

    @property
    def cells(self) -> list[Cell]:
        """All cells."""
        return [cell for by_bits in self.arms.values() for cell in by_bits.values()]

    @property
    def by_amount(self) -> dict[float, dict[Variant, Cell]]:
        """The cells by bits of data, from few to many, and within it by arm."""
        amounts = sorted({bits for by_bits in self.arms.values() for bits in by_bits})
        ordered = runs_of([self])
        return {
            bits: {variant: self.arms[variant][bits] for variant in ordered if bits in self.arms[variant]}
            for bits in amounts
        }

    @property
    def runs(self) -> list[RunRecord]:
        """The runs behind the cells."""
        return [run for cell in self.cells for run in cell.runs]

    @property
    def title(self) -> str:
        """The task and the setting."""
        return f"{self.runs[0].settings.task.title}: {heading(self.group, device=False)}"


def capacity_panels(groups: Iterable[Group]) -> list[Panel]:
    """Return the panels of all memorised data, those with most runs first.

    If the same data was learnt for several lengths of time, the length with most runs comes into the first panel, and
    the others into panels of their own.
    """
    found: dict[tuple[Setting, str], dict[float, list[tuple[Group, dict[Variant, Cell]]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for group in groups:
        for task in group.tasks:
            cells = {variant: cell for variant, cell in group.of_task(task).items() if _is_drawn(cell)}
            for bits, some in _by_bits(cells).items():
                found[_without_scale(group.setting), task][bits].append((group, some))
    panels = [panel for (setting, _), by_bits in found.items() for panel in _merged(setting, by_bits)]
    return sorted(panels, key=lambda panel: (-len(panel.runs), panel.title, panel.runs[0].id))


def _is_drawn(cell: Cell) -> bool:
    return all(is_learned_at_once(run) and per_parameter(run) for run in cell.runs) and recall(cell) is not None


def _by_bits(cells: dict[Variant, Cell]) -> dict[float, dict[Variant, Cell]]:
    found: dict[float, dict[Variant, Cell]] = defaultdict(dict)
    for variant, cell in cells.items():
        found[fact(cell.runs[0], "bits") or 0][variant] = cell
    return found


def _without_scale(setting: Setting) -> Setting:
    return replace(setting, deviations=tuple(change for change in setting.deviations if change.key not in SCALE))


def _merged(setting: Setting, by_bits: dict[float, list[tuple[Group, dict[Variant, Cell]]]]) -> Iterator[Panel]:
    """Yield panels that have each amount of data at most once."""
    queues = {
        bits: sorted(some, key=lambda pair: (-sum(len(cell.runs) for cell in pair[1].values()), heading(pair[0])))
        for bits, some in by_bits.items()
    }
    while any(queues.values()):
        arms: dict[Variant, dict[float, Cell]] = defaultdict(dict)
        group = next(queue[0][0] for queue in queues.values() if queue)
        for bits, queue in queues.items():
            for variant, cell in (queue.pop(0)[1] if queue else {}).items():
                arms[variant][bits] = cell
        yield Panel(group=replace(group, setting=setting), arms=dict(arms))


def runs_of(panels: Iterable[Panel]) -> dict[Variant, RunRecord]:
    """Return every arm of some panels in the order of legends, with one of its runs."""
    return in_order(
        {variant: next(iter(by_bits.values())).runs[0] for panel in panels for variant, by_bits in panel.arms.items()}
    )


def recall(cell: Cell) -> Estimate | None:
    """The fraction of names whose whole number is right."""
    return over_seeds(cell, lambda run: run.selected.get("recall"), lambda _: RECALL)


def stored(cell: Cell) -> Estimate | None:
    """The bits that are stored per trained parameter."""
    return over_seeds(cell, lambda run: run.bits_per_parameter, storable_per_parameter)
