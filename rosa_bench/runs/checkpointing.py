"""Saving a run's checkpoints: when one is due, and when SIGTERM arrives."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rosa_bench.system.errors import PreemptedError
from rosa_bench.system.meter import Meter
from rosa_bench.training.checkpoint import Checkpoints, Snapshot, joined
from rosa_bench.training.observer import Observer
from rosa_bench.training.selection import BestEpoch
from rosa_bench.training.state import Epoch, Training


class Checkpointing(Observer):
    """Saves the run's state after a step or an epoch if a checkpoint is due or SIGTERM has arrived.

    It must be the last observer, because a checkpoint implies that all other observers have acted. After SIGTERM it
    ends the run with `PreemptedError`. ``asked_to_end`` tells whether that signal has arrived.
    """

    def __init__(self, checkpoints: Checkpoints, *, best: BestEpoch, meter: Meter, asked_to_end: Callable[[], bool]):
        self.checkpoints, self.best, self.meter, self.asked_to_end = checkpoints, best, meter, asked_to_end

    def on_step_end(self, training: Training) -> None:
        self._save_if_due(training)

    def on_epoch_end(self, training: Training, number: int, epoch: Epoch) -> None:  # noqa: ARG002 - a hook point
        self._save_if_due(training)

    def _save_if_due(self, training: Training) -> None:
        ending = self.asked_to_end()  # read once; a later signal is handled after the next step
        if ending or self.checkpoints.due():
            state = joined(training=training.state, best=self.best.state, meter=Snapshot({}, self.meter.totals))
            self.checkpoints.save(training.step, len(training.history), state)
        if ending:
            raise PreemptedError(
                f"stopped by SIGTERM after step {training.step}; the same command continues from there"
            )


@contextmanager
def sigterm_held_back() -> Iterator[Callable[[], bool]]:
    """Defer SIGTERM inside the block. Yields a function that tells whether one has arrived.

    Only the main thread receives signals, so this does nothing in any other thread.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
