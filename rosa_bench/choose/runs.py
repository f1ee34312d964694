"""Make the runs of a choice: start, pause and continue them within the budget."""

import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec import structs

from rosa_bench import api
from rosa_bench.choose.budget import Budget
from rosa_bench.choose.plan import Arm, Counting
from rosa_bench.choose.search import score_at
from rosa_bench.choose.state import Choice
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_record
from rosa_bench.runs.lock import BusyError, locked
from rosa_bench.system.errors import PAUSED, PausedError, UserError

if TYPE_CHECKING:
    from rosa_bench.runs.resolve import ResolvedRun

log = logging.getLogger(__name__)


class Runs:
    """The runs of a choice. ``resolved`` returns the run of an arm and a seed, and ``save`` stores the choice.

    made  the ids of the runs that were made or found
    """

    def __init__(
        self,
        choice: Choice,
        budget: Budget,
        *,
        resolved: "Callable[[Arm, int], ResolvedRun]",
        save: Callable[[], None],
    ):
        self.choice, self.budget, self.resolved, self.save = choice, budget, resolved, save
        self.made: dict[str, None] = {}

    def reach(self, arm: Arm, *, seed: int, epochs: int, keep: bool) -> RunRecord | None:
        """Continue a run, as `rosa_bench.choose.search.Runner` says."""
        run = self.resolved(arm, seed)
        record = _known(run)
        done = 0 if record is None else len(record.scores.epochs)
        if record is not None and (record.status in ("completed", "failed") or epochs <= done < run.config.epochs):
            self.made[run.id] = None
            return record
        if not self.budget.allows(self._needed_s(arm, epochs - done, ends=epochs == run.config.epochs, keep=keep)):
            return None
        record = self._continue(run, arm, epochs, done)
        self.made[run.id] = None
        return record if record.status in ("completed", "failed") or len(record.scores.epochs) >= epochs else None

    def drop(self, arm: Arm) -> None:
        """Remove the checkpoint of an arm's first run, if the run is paused."""
        run = self.resolved(arm, 0)
        record = _known(run)
        if record is None or record.status != "interrupted" or not (record.error or "").startswith(PAUSED):
            return
        with suppress(BusyError), locked(run.lock, run.id):
            shutil.rmtree(run.checkpoints, ignore_errors=True)

    def _continue(self, run: "ResolvedRun", arm: Arm, epochs: int, done: int) -> RunRecord:
        """Run until ``epochs`` or the end of the budget, and return the record."""
        import torch

        from rosa_bench.training.observers.pause import Pause
        from rosa_bench.training.state import TrainingFailedError

        before_s = self.budget.spent_s
        try:
            record = api.complete_resolved(run, [Pause(epochs, self.budget.is_over)])
        except PausedError:
            record = load_record(run.record_path)
        except TrainingFailedError as error:
            log.warning("%s: %s", arm, error)
            record = load_record(run.record_path)
        except UserError as error:
            if not isinstance(error.__cause__, torch.OutOfMemoryError | MemoryError):
                raise
            log.warning("%s: %s", arm, error)
            record = load_record(run.record_path)
        finally:
            self.choice.spent_s = self.budget.spent_s
            self.save()
        self._learn(arm, record, self.budget.spent_s - before_s, len(record.scores.epochs) - done)
        self._say(arm, run, record)
        return record

    def _needed_s(self, arm: Arm, epochs: int, *, ends: bool, keep: bool) -> float:
        """Return the seconds that so many more epochs take, and those of one finalist if ``keep``."""
        size, counting = self.choice.size, Counting(self.choice.costs, self.choice.rows, self.choice.reference)
        train = size.rows or self.choice.rows.train
        needed = counting.segment_s(arm.kind, train, epochs, ends=ends)
        return needed + (counting.segment_s(arm.kind, train, size.epochs - epochs, ends=True) if keep else 0)

    def _learn(self, arm: Arm, record: RunRecord, seconds: float, epochs: int) -> None:
        """Correct the cost of a kind by what a run took, if that is more than was measured at first."""
        cost, rows = self.choice.costs[arm.kind], self.choice.rows
        if epochs < 1 or record.status not in ("completed", "interrupted"):
            return
        trained, selected = rows.parts(self.choice.size.rows or rows.train)
        known = [epoch.time_s or 0.0 for epoch in record.scores.epochs]
        training_s = known[-1] - (known[-epochs - 1] if len(known) > epochs else 0.0)
        row_s = max(0.0, training_s / epochs - selected * cost.selected_s) / trained
        self.choice.costs[arm.kind] = structs.replace(
            cost, row_s=row_s, start_s=cost.start_s if record.status == "completed" else max(0.0, seconds - training_s)
        )

    def _say(self, arm: Arm, run: "ResolvedRun", record: RunRecord) -> None:
        done, minutes = len(record.scores.epochs), self.budget.spent_s / 60
        score, criterion = score_at(record, done).value, record.scores.selected_by
        shown = f"{-score:.3g}" if criterion.lower_is_better else f"{100 * score:.1f}"
        log.info(
            "%.1f of %.3g min: %s, seed %d: %s %s after %d of %d epochs",
            minutes, self.budget.seconds / 60, arm, run.config.seed, criterion.name, shown, done, run.config.epochs,
        )  # fmt: skip


def _known(run: "ResolvedRun") -> RunRecord | None:
    """Return the run's record, if there is a sound one."""
    if not run.record_path.is_file():
        return None
    try:
        return load_record(run.record_path)
    except UserError:  # damaged: the run is made again, and the file kept as superseded
        return None
