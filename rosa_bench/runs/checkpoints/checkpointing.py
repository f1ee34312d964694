"""Saving a run's checkpoints: when one is due, and when somebody asks the run to stop."""

import logging
from collections.abc import Callable

from rosa_bench.system import processes
from rosa_bench.system.errors import PAUSED, PausedError
from rosa_bench.system.resources.meter import Meter
from rosa_bench.system.signals.stopping import StopRequest, stopped_by
from rosa_bench.training.checkpoint import Checkpoints, Snapshot, joined
from rosa_bench.training.distributed.together import own_randomness
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.observers.selection import BestEpoch
from rosa_bench.training.state import Epoch, Training

log = logging.getLogger(__name__)


class InStep:
    """Lets runs that train together decide as the first of them does, so that all are saved after the same step."""

    def __init__(self) -> None:
        self._place: tuple[int, int] | None = None
        self._decided: tuple[int | None, bool] = None, False

    def __call__(self, training: Training, decide: Callable[[], tuple[int | None, bool]]) -> tuple[int | None, bool]:
        """Return what ``decide`` has returned when it was first called at this place of the training."""
        if self._place != (place := (training.step, len(training.history))):
            self._place, self._decided = place, decide()
        return self._decided


class Agreed(InStep):
    """Lets the processes of a run stop, pause and save after the same step: as soon as one of them is to."""

    def __call__(self, training: Training, decide: Callable[[], tuple[int | None, bool]]) -> tuple[int | None, bool]:
        signal, due = decide()
        number, saves, pauses = processes.most([signal or 0, due, training.paused is not None])
        if pauses and training.paused is None:
            training.pause(f"{PAUSED} with the other processes")
        return number or None, bool(saves)


class Checkpointing(Observer):
    """Saves the run's state after a step or an epoch if a checkpoint is due or the run is asked to stop or to pause.

    It must be the last observer, because a checkpoint implies that all other observers have acted. When asked to stop,
    it ends the run with `StoppedError` or `PreemptedError`; if an observer paused it, with `PausedError`. A checkpoint
    that cannot be written, as on a full disk, is a warning while the run lives: the run needs it only if it is
    interrupted.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        best: BestEpoch,
        meter: Meter,
        asked_to_stop: StopRequest,
        in_step: InStep | None = None,
    ):
        self.checkpoints, self.best, self.meter, self.asked_to_stop = checkpoints, best, meter, asked_to_stop
        self.in_step = in_step or (InStep() if processes.count() == 1 else Agreed())
        self.problem: str | None = None

    def on_step_end(self, training: Training) -> None:
        self._save_if_due(training)

    def on_epoch_end(self, training: Training, number: int, epoch: Epoch) -> None:  # noqa: ARG002 - a hook point
        self._save_if_due(training)

    def _save_if_due(self, training: Training) -> None:
        signal, due = self.in_step(training, self._decide)
        if signal is None and training.paused is None and not due:
            return
        problem = self._save(training)
        place = f"step {training.step}" if training.method.trains else f"candidate {len(training.history)}"
        if signal is not None and problem is None:
            raise stopped_by(signal, f" after {place}; the same command continues from there")
        if signal is not None:
            raise stopped_by(
                signal,
                f" after {place}, which could not be saved ({problem}); the same command continues from the last "
                "checkpoint",
            )
        if training.paused is not None:
            unsaved = "" if problem is None else f"; this could not be saved ({problem})"
            raise PausedError(f"{training.paused}, after {place}{unsaved}")
        if problem and problem != self.problem:
            log.warning("no checkpoint was saved, and the run goes on without it: %s", problem)
        self.problem = problem

    def _decide(self) -> tuple[int | None, bool]:
        """Return the signal that asks to stop, if any, and whether a checkpoint is due."""
        signal = self.asked_to_stop.number  # read once; a later signal is handled after the next step
        return signal, signal is not None or self.checkpoints.due()

    def _save(self, training: Training) -> str | None:
        """Save a checkpoint. Returns what was wrong if it could not be written."""
        state = joined(
            training=training.state,
            best=self.best.state,
            predictions=Snapshot(self.best.predicted, {}),
            meter=Snapshot({}, self.meter.totals),
            processes=own_randomness(training.device),
        )
        try:
            self.checkpoints.save(training.step, len(training.history), state)
        except OSError as error:
            return f"{error.filename}: {error.strerror}"
        return None
