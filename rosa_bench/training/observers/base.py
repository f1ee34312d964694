"""The hook points of the training loop.

Everything that watches a run or acts between its steps is an observer: the progress bar, checkpoints, selection of the
best epoch, trackers, and anything that a test or script adds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rosa_bench.methods.base import Changed
    from rosa_bench.training.state import Epoch, Training


class Observer:
    """An observer that does nothing. Override the hooks that you need.

    An exception ends the training. Do not read tensors at every step: each read makes the host wait for the GPU.
    """

    def on_train_start(self, training: Training) -> None:
        """Called when training is about to start, or to resume from a checkpoint."""

    def on_step_start(self, training: Training) -> None:
        """Called before step ``training.step``, counted from 0, and before the method acts."""

    def on_method_change(self, training: Training, changed: Changed) -> None:
        """Called after the method has changed the model and the optimizer was updated to match."""

    def on_step_end(self, training: Training) -> None:
        """Called after a step, when ``training.step`` already counts it."""

    def on_epoch_end(self, training: Training, number: int, epoch: Epoch) -> None:
        """Called after epoch ``number``, counted from 0, was trained and evaluated."""

    def on_train_end(self, training: Training) -> None:
        """Called when training has ended, with or without an exception."""


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
