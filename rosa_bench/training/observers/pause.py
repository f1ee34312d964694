"""Put a run aside after some of its epochs, or when time is up, so that it can continue later exactly where it was."""

from collections.abc import Callable

from rosa_bench.system.errors import PAUSED
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.state import Epoch, Training


class Pause(Observer):
    """Pauses a run after ``epochs`` epochs, counted from its start, and after the first step at which ``is_over``.

    The learning rate is that of the full length. The last epoch is never paused at its end: the run is then completed.
    """

    def __init__(self, epochs: int, is_over: Callable[[], bool] = lambda: False):
        self.epochs, self.is_over = epochs, is_over

    def on_step_end(self, training: Training) -> None:
        if self.is_over():
            training.pause(f"{PAUSED} because the time is up")

    def on_epoch_end(self, training: Training, number: int, epoch: Epoch) -> None:  # noqa: ARG002 - a hook point
        if self.epochs <= number + 1 < training.recipe.epochs:
            training.pause(f"{PAUSED} after {number + 1} of {training.recipe.epochs} epochs")
