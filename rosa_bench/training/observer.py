"""The hook points of the training loop.

Everything that watches a run or acts between its steps is an observer: the progress bar, checkpoints, the selection of
the best epoch, trackers, and whatever a test or script adds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rosa_bench.methods.base import Changed
    from rosa_bench.training.state import Epoch, Training


class Observer:
    """Does nothing at every hook point. Override what you need.

    An exception ends the training. Reading a tensor makes the host wait for a GPU, so read none at every step.
    """

    def on_train_start(self, training: Training) -> None:
        """Training is about to start, or to go on from a checkpoint."""

    def on_step_start(self, training: Training) -> None:
        """Step ``training.step``, counted from 0, is about to be made. The method has not acted yet."""

    def on_method_change(self, training: Training, changed: Changed) -> None:
        """The method has changed the model before the step, and the optimizer knows of it."""

    def on_step_end(self, training: Training) -> None:
        """A step was made; ``training.step`` counts it."""

    def on_epoch_end(self, training: Training, number: int, epoch: Epoch) -> None:
        """Epoch ``number``, counted from 0, was trained and evaluated."""

    def on_train_end(self, training: Training) -> None:
        """Training has ended, whether or not with an exception."""


class Observers(Observer):
    """Several observers as one. Each hook calls them in order."""

    def __init__(self, observers: Iterable[Observer]):
        self.observers = tuple(observers)

    def on_train_start(self, training: Training) -> None:
        for observer in self.observers:
            observer.on_train_start(training)

    def on_step_start(self, training: Training) -> None:
        for observer in self.observers:
            observer.on_step_start(training)

    def on_method_change(self, training: Training, changed: Changed) -> None:
        for observer in self.observers:
            observer.on_method_change(training, changed)

    def on_step_end(self, training: Training) -> None:
        for observer in self.observers:
            observer.on_step_end(training)

    def on_epoch_end(self, training: Training, number: int, epoch: Epoch) -> None:
        for observer in self.observers:
            observer.on_epoch_end(training, number, epoch)

    def on_train_end(self, training: Training) -> None:
        for observer in self.observers:
            observer.on_train_end(training)
