"""Left part of the headline figure: ROSA minus LoRA at the same rank, task by task, beside the paper's values."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from rosa_bench.config.files.looks import look_of
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.differences import Difference, stratified
from rosa_bench.report.cells.grid import BASELINE
from rosa_bench.report.cells.selection.select import Cell, Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.words.shown import SCORES
from rosa_bench.report.figures.drawing import drawn
from rosa_bench.report.published import load_published

METHOD, PRINTED = "rosa", "table2"
ENOUGH = 5  # seeds of a task that is drawn, if any task has so many: two or three give intervals wider than the figure
SMALL = 7  # points
GREY = "#555555"
FAR = 0.7  # of the greatest: a star further right has its name on the left
OURS, PAPER = 0.05, -0.27  # heights of the two markers within a row

Pair = tuple[Cell, Cell]  # ROSA's and LoRA's


@dataclass(frozen=True, kw_only=True)
class Rivals:
    """ROSA and LoRA at one rank in one setting.

    pairs  by task, those that share a seed
    paper  the difference that the paper printed, as a fraction, for the tasks that it has
    """

    group: Group
    rank: int | None
    pairs: Mapping[str, Pair]
    paper: Mapping[str, float]

    @property
    def differences(self) -> dict[str, Difference]:
        """ROSA minus LoRA by task, paired over seeds."""
        return {task: found for task in self.pairs if (found := self.over([task]))}

    @property
    def shown(self) -> list[str]:
        """The tasks with enough seeds to be drawn, in the paper's order and then by name."""
        seeds = {task: one.seeds[0] for task, one in self.differences.items()}
        enough = min(ENOUGH, max(seeds.values()))
        order = list(load_published(PRINTED).columns)
        known = [task for task, count in seeds.items() if count >= enough]
        return sorted(known, key=lambda task: (order.index(task) if task in order else len(order), task))

    def over(self, tasks: Iterable[str]) -> Difference | None:
        """Return the mean difference over some tasks."""
        return stratified([(ours.by_seed, theirs.by_seed) for ours, theirs in map(self.pairs.__getitem__, tasks)])

    @property
    def mean(self) -> Difference:
        """The mean difference over the tasks that are drawn."""
        found = self.over(self.shown)
        assert found is not None  # each of them shares seeds
        return found

    @property
    def paper_mean(self) -> float | None:
        """The mean of the paper's differences over the tasks that are drawn; None if it lacks one."""
        known = [self.paper[task] for task in self.shown if task in self.paper]
        return sum(known) / len(known) if len(known) == len(self.shown) else None

    @property
    def titles(self) -> dict[str, str]:
        """The tasks' titles by name."""
        return {task: ours.runs[0].settings.task.title for task, (ours, _) in self.pairs.items()}

    @property
    def runs(self) -> list[RunRecord]:
        """The runs of all pairs."""
        return [run for pair in self.pairs.values() for cell in pair for run in cell.runs]


def rivals_of(groups: Iterable[Group]) -> Rivals | None:
    """Return the setting and rank with the most pairs of seeds on tasks that are drawn; None without two such tasks."""
    found = [one for group in groups for one in _in_group(group) if len(one.shown) > 1]

    def place(one: Rivals) -> tuple:
        setting = one.group.setting
        return -sum(one.mean.seeds), setting.distance, setting.protocol, -(one.rank or 0)

    return min(found, key=place, default=None)


def _in_group(group: Group) -> Iterable[Rivals]:
    """Yield the paper's ROSA beside LoRA, at each rank that it printed."""
    printed = load_published(PRINTED)
    rows = dict(zip(printed.variants(group), printed.rows, strict=True))
    for ours, row in rows.items():
        theirs = next((one for one in rows if one.method == BASELINE and one.rank == ours.rank), None)
        if ours.method != METHOD or theirs is None:
            continue
        pairs = {task: pair for task in group.tasks if (pair := _pair(group, task, ours, theirs))}
        paper = {
            task: (float(row.figures[task]) - float(rows[theirs].figures[task])) / 100
            for task in row.figures.keys() & rows[theirs].figures.keys() & pairs.keys()
        }
        if pairs:
            yield Rivals(group=group, rank=ours.rank, pairs=pairs, paper=paper)


def _pair(group: Group, task: str, ours: Variant, theirs: Variant) -> Pair | None:
    one, other = group.cells.get((ours, task)), group.cells.get((theirs, task))
    if not one or not other or one.runs[0].scores.lower_is_better:
        return None
    return (one, other) if stratified([(one.by_seed, other.by_seed)]) else None


def verdict(found: Difference) -> str:
    """Say in a few words what a difference shows."""
    if found.p is None or found.within_noise:
        return "no difference shown"
    return "ahead of LoRA" if found.mean > 0 else "behind LoRA"


def plot_tasks(ax: Axes, found: Rivals) -> None:
    """Draw one row per task and one for their mean: our difference with its interval, and the paper's as a star."""
    rows = [(found.titles[task], found.differences[task], found.paper.get(task)) for task in found.shown]
    rows.append((f"mean of {len(found.shown)} tasks", found.mean, found.paper_mean))
    known = [paper for *_, paper in rows if paper is not None]
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    ax.axhspan(len(rows) - 1.5, len(rows) - 0.5, color="#F0F0F0", linewidth=0, zorder=0)
    for place, (_, ours, paper) in enumerate(rows):
        _plot_ours(ax, place + OURS, ours)
        if paper is not None:
            _plot_paper(ax, place + PAPER, paper, is_far=paper > FAR * max(known))
    ax.text(1.02, -0.6, "ours [95 %]", transform=ax.get_yaxis_transform(), fontsize=SMALL, va="center", color=GREY)
    ax.set_yticks(range(len(rows)), [drawn(title) for title, *_ in rows])
    ax.get_yticklabels()[-1].set_fontweight("bold")
    ax.set_ylim(len(rows) - 0.5, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x", linewidth=0.3, alpha=0.6)
    ax.set_axisbelow(True)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.set_xlabel("ROSA minus LoRA, points of score (above 0: ROSA is better)")


def _plot_ours(ax: Axes, y: float, ours: Difference) -> None:
    """Draw a difference with its interval, and write both to the right of the axes."""
    look = look_of(METHOD)
    if ours.low is not None and ours.high is not None:
        ax.plot([100 * ours.low, 100 * ours.high], [y, y], color=look.colour, linewidth=1.6)
    ax.plot([100 * ours.mean], [y], marker=look.marker, color=look.colour, markersize=6)
    said = SCORES.signed(ours.mean, ours)
    ax.text(1.02, y, said, transform=ax.get_yaxis_transform(), fontsize=SMALL, va="center")


def _plot_paper(ax: Axes, y: float, paper: float, *, is_far: bool) -> None:
    """Draw the paper's difference as a star with its name to the right, or to the left if it is far right."""
    ax.plot([100 * paper], [y], marker="*", color="black", markersize=8, linestyle="none")
    ax.annotate(
        f"paper {SCORES.signed(paper)}", (100 * paper, y), textcoords="offset points",
        xytext=(-6 if is_far else 6, 0), ha="right" if is_far else "left", va="center", fontsize=SMALL, color=GREY,
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )  # fmt: skip
