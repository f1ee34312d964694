"""All methods of one setting side by side: score over tasks, memory, trained parameters, time and size when saved."""

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean, geometric_mean

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.costs import made_on, own_peak_bytes, peak_memory_bytes, time_ratio
from rosa_bench.report.cells.differences import Difference, stratified
from rosa_bench.report.cells.grid import BASELINE
from rosa_bench.report.cells.selection.select import Cell, Group
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.words.shown import Scale, metric, scale


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method on every task of a comparison, each at its best learning rate there.

    name          of the method, without its rank
    score         the mean over tasks, with its interval over seeds
    against_lora  the same minus LoRA's, paired over seeds; None for LoRA itself or without shared seeds
    memory_bytes  peak memory in training, the mean over tasks; None if not measured on the comparison's device
    time_ratio    time of a step, divided by LoRA's in the same batch of runs: the geometric mean over tasks
    saved_bytes   what must be stored beside the base model; None in older records
    """

    variant: Variant
    name: str
    cells: Mapping[str, Cell]
    score: Difference
    against_lora: Difference | None
    memory_bytes: float | None
    time_ratio: float | None
    saved_bytes: int | None

    @property
    def runs(self) -> list[RunRecord]:
        """The runs at the chosen learning rates."""
        return [run for cell in self.cells.values() for run in cell.runs]

    @property
    def tried(self) -> list[RunRecord]:
        """The runs at all learning rates."""
        return [run for cell in self.cells.values() for run in cell.tried]

    @property
    def trainable(self) -> int:
        """Number of trained parameters: the largest over tasks, whose heads differ."""
        return max(cell.trainable for cell in self.cells.values())

    @property
    def seeds(self) -> int:
        """The smallest number of seeds of a task."""
        return min(self.score.seeds)

    @property
    def collapsed(self) -> int:
        """How many of `runs` are known to have collapsed."""
        return sum(bool(run.has_collapsed) for run in self.runs)

    @property
    def untuned(self) -> float | None:
        """The mean score over tasks at the method's default learning rate; None if a task has no run at it.

        Defaults change as more is measured. The one of the newest run counts.
        """
        scores = []
        for cell in self.cells.values():
            run = max(cell.tried, key=lambda one: one.started)
            lr = run.setting(f"method.default_lr.{run.settings.protocol.name}")
            runs = cell.by_lr.get(lr) if isinstance(lr, int | float) else None
            if not runs:
                return None
            scores.append(fmean(one.score for one in runs))
        return fmean(scores)


@dataclass(frozen=True, kw_only=True)
class MethodComparison:
    """The methods of one setting with all of its tasks, the best first.

    tasks     names of the tasks
    rank      rank of the methods that have one
    kind      device on which memory was measured, and how the runs were made there (`costs.made_on`)
    left_out  tasks and methods that are not compared, and why
    spare     how many methods have seeds that most lack
    others    the comparison of these methods on those seeds; None if there is none
    follows   whether this is the `others` of another comparison
    """

    group: Group
    tasks: tuple[str, ...]
    rank: int | None
    kind: Hashable
    rows: tuple[MethodRow, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    spare: int = 0
    others: "MethodComparison | None" = None
    follows: bool = False

    @cached_property
    def scale(self) -> Scale:
        """The direction of all scores, and how they are shown."""
        return scale(self.runs[0]).fitted(row.score.mean for row in self.rows)

    @property
    def score_name(self) -> str:
        """What a score is called: ``score`` or, if lower is better, its metric."""
        return metric(self.runs[0]) if self.scale.lower_is_better else "score"

    @property
    def runs(self) -> list[RunRecord]:
        """The runs at the chosen learning rates of all methods."""
        return [run for row in self.rows for run in row.runs]

    @property
    def tried(self) -> list[RunRecord]:
        """The runs at all learning rates."""
        return [run for row in self.rows for run in row.tried]

    @cached_property
    def measured(self) -> list[RunRecord]:
        """The runs whose memory is compared."""
        return [run for run in self.tried if made_on(run) == self.kind and own_peak_bytes(run)]

    @property
    def common_seeds(self) -> int:
        """The number of seeds that most methods have; of ties, the larger."""
        counts = Counter(row.seeds for row in self.rows)
        return max(counts, key=lambda one: (counts[one], one))

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs at the chosen learning rates."""
        return sorted({run.settings.seed for run in self.runs})

    @property
    def spare_note(self) -> str | None:
        """What becomes of the seeds that most methods lack; None if there are none."""
        fate = "compared apart in the table of methods" if self.others else "left out"
        return (
            f"other seeds, which most methods lack, are {fate}; methods that have some: {self.spare}"
            if self.spare
            else None
        )

    def titles(self) -> dict[str, str]:
        """The tasks' titles by name."""
        return {task: self.group.tasks[task].settings.task.title for task in self.tasks}

    def few_seeds(self, row: MethodRow) -> bool:
        """Whether a method has fewer seeds than most."""
        return row.seeds < self.common_seeds


def method_row(
    variant: Variant, name: str, cells: Mapping[str, Cell], *, kind: Hashable, lora: Mapping[str, Cell] | None
) -> MethodRow:
    """Put together the row of one method from its cells by task and LoRA's. Every score must be defined."""
    score = stratified([(cell.by_seed, dict.fromkeys(cell.by_seed, 0.0)) for cell in cells.values()])
    assert score is not None
    memory = [peak_memory_bytes(cell.tried, kind) for cell in cells.values()]
    known = [bytes_ for bytes_ in memory if bytes_ is not None]
    ratios = [time_ratio(cell.tried, lora[task].tried) for task, cell in cells.items()] if lora else []
    timed = [ratio for ratio in ratios if ratio]
    saved = [run.parameters.saved_bytes for cell in cells.values() for run in cell.tried]
    is_lora = variant.method == BASELINE
    pairs = [] if lora is None else [(cell.by_seed, lora[task].by_seed) for task, cell in cells.items()]
    return MethodRow(
        variant=variant,
        name=name,
        cells=cells,
        score=score,
        against_lora=stratified(pairs) if pairs and not is_lora else None,
        memory_bytes=fmean(known) if len(known) == len(cells) else None,
        time_ratio=geometric_mean(timed) if timed and len(timed) == len(cells) else None,
        saved_bytes=max((one for one in saved if one is not None), default=None),
    )
