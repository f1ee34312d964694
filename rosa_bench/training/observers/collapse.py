"""End a run that has collapsed: all rows get the same prediction, and the training loss no longer falls.

Judged once, after the second epoch. The spread alone would also end runs that are only slow, because before a model
has learnt anything it gives all rows the most frequent class. Their training loss still falls.
"""

from rosa_bench.records.parts.mappings import Result
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.state import Epoch, Training

JUDGED = 2  # epochs, so that the warm-up is over and there are two losses to compare
LEAST_GAIN = 0.01  # a loss that falls by no more than this fraction is as good as constant


class CollapseStop(Observer):
    """Stops the training after the second epoch if it has collapsed by then."""

    def on_epoch_end(self, training: Training, number: int, epoch: Epoch) -> None:
        if number + 1 == JUDGED and (reason := collapsed(training.history[number - 1], epoch)):
            training.stop(reason)


def collapsed(before: Epoch, epoch: Epoch) -> str | None:
    """Return why an epoch, with the one before it, shows a collapse; None if it does not, or if that is unknown.

    Its predictions for the selection rows are nearly the same (`Result.has_collapsed`), and its training loss is not
    lower by more than `LEAST_GAIN`. If all labels are the same, no spread is known.
    """
    scores = Result(epoch.scores)
    if not scores.has_collapsed or epoch.train_loss < (1 - LEAST_GAIN) * before.train_loss:
        return None
    return (
        f"all rows get the same prediction (spread {scores.spread:.2g}), and the training loss no longer falls "
        f"({before.train_loss:.4g}, then {epoch.train_loss:.4g})"
    )
