"""Progress of a run: a live bar on a terminal, and one log line per epoch."""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich import get_console
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rosa_bench.metrics.base import FRACTIONS
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.state import Epoch, Scores, Training

log = logging.getLogger(__name__)

T = TypeVar("T")

REFRESH_S = 0.25
LINES = 25  # most epochs of a run that are logged


def counting_bar(console: Console | None = None) -> Progress:
    """Return a bar that counts and shows the time left. It is not drawn where there is no terminal."""
    console = console or get_console()
    columns = TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def progress_over(items: Sequence[T], what: str) -> Iterator[T]:
    """Yield the items one by one, with a progress bar."""
    with counting_bar() as bar:
        yield from bar.track(items, description=what)


def is_logged(number: int, total: int) -> bool:
    """Return whether epoch ``number``, counted from 0, gets a line: at most `LINES` do, and always the last."""
    return (number + 1) % math.ceil(total / LINES) == 0 or number + 1 == total


def shown(scores: Scores) -> str:
    """Return an epoch's scores for its line, in the units of the run's last line: fractions times 100."""
    texts = {name: f"{100 * value:.2f}" if name in FRACTIONS else f"{value:#.4g}" for name, value in scores.items()}
    return "  ".join(f"{name} {text}" for name, text in texts.items() if "." not in name)


class TrainingProgress(Observer):
    """Shows epoch, step, loss, learning rate, examples per second and time left.

    It reads the losses only a few times a second (`due`), because each read makes the host wait for the GPU.
    """

    def __init__(
        self, *, epochs: int, steps_per_epoch: int, batch_size: int, console: Console | None = None, label: str = ""
    ):
        self.label = label  # before each line, if several runs train together
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        console = console or get_console()
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=None),
            TextColumn("step {task.completed}/{task.total}"),
            TextColumn("{task.fields[measured]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.task = self.bar.add_task("train", total=epochs * steps_per_epoch, epoch=1, epochs=epochs, measured="")
        self._shown = (0.0, 0)  # when, and at which step, the bar was last drawn

    def on_train_start(self, training: Training) -> None:
        self.start(training.step)

    def on_step_end(self, training: Training) -> None:
        if self.due():
            self.show(training.step, loss=training.checked_losses()[-1], lr=training.lr)

    def on_epoch_end(self, training: Training, number: int, epoch: Epoch) -> None:  # noqa: ARG002 - a hook point
        self.end_epoch(number, loss=epoch.train_loss, scores=epoch.scores, seconds=epoch.time_s)

    def on_train_end(self, training: Training) -> None:  # noqa: ARG002 - a hook point
        self.stop()

    def start(self, step: int = 0) -> None:
        """Start drawing, from ``step`` steps that were made earlier."""
        self.bar.start()
        self._shown = (time.monotonic(), step)

    def stop(self) -> None:
        """Remove the bar from the terminal."""
        self.bar.stop()

    def due(self) -> bool:
        """Return whether it is time to draw again."""
        return time.monotonic() - self._shown[0] >= REFRESH_S

    def show(self, step: int, *, loss: float, lr: float) -> None:
        """Draw the state after ``step`` steps."""
        now, (before, steps_before) = time.monotonic(), self._shown
        rate = (step - steps_before) * self.batch_size / max(now - before, 1e-9)
        self._shown = (now, step)
        epoch = min(step // self.steps_per_epoch + 1, self.epochs)
        measured = f"loss {loss:#.4g}  lr {lr:.2e}  {rate:.0f} examples/s"
        self.bar.update(self.task, completed=step, epoch=epoch, measured=measured)

    def end_epoch(self, epoch: int, *, loss: float, scores: Scores, seconds: float) -> None:
        """Log a line for the epoch. Long runs log at most `LINES` evenly spaced epochs, always including the last."""
        self._shown = (time.monotonic(), (epoch + 1) * self.steps_per_epoch)
        if is_logged(epoch, self.epochs):
            log.info(
                "%sepoch %d/%d  train loss %#.4g  %s  (%.1f s)",
                self.label, epoch + 1, self.epochs, loss, shown(scores), seconds,
            )  # fmt: skip
        if epoch == 0 and "spread" in scores:
            log.info("  spread: of the predictions, relative to the labels'; 0 if all rows get the same answer")


class CandidateProgress(Observer):
    """Shows how many candidates of a method that trains nothing have been scored, and the time left."""

    def __init__(self, names: Sequence[str], *, console: Console | None = None):
        self.names, self.bar = names, counting_bar(console)
        self.task = self.bar.add_task("candidate", total=len(names))

    def on_train_start(self, training: Training) -> None:
        self.bar.update(self.task, completed=len(training.history))
        self.bar.start()

    def on_epoch_end(self, training: Training, number: int, epoch: Epoch) -> None:  # noqa: ARG002 - a hook point
        self.bar.update(self.task, completed=number + 1)
        if is_logged(number, total := len(self.names)):
            name, scores = self.names[number], shown(epoch.scores)
            log.info("candidate %d/%d  %s  %s  (%.1f s)", number + 1, total, name, scores, epoch.time_s)

    def on_train_end(self, training: Training) -> None:  # noqa: ARG002 - a hook point
        self.bar.stop()
