"""Keep the best epoch's predictions if the rows that select it are the reported ones.

Then no evaluation follows the training, and the predictions of each epoch are made only once.
"""

from collections.abc import Callable, Mapping

from torch import Tensor
from transformers import PreTrainedModel

from rosa_bench.tasks.prepared import PreparedTask
from rosa_bench.training.cuda_graphs import Replay
from rosa_bench.training.evaluation import Predictions
from rosa_bench.training.state import Epoch, Scores

OUTPUTS, LABELS = "outputs", "labels"  # names of the tensors in a checkpoint


class Selecting:
    """Scores the model on the selection rows. ``predicted`` has the latest predictions, if they are to be stored."""

    def __init__(self, problem: PreparedTask):
        self.problem, self.predicted = problem, dict[str, Tensor]()

    def scores(self, replay: Replay, stand_in: Callable[[PreTrainedModel], PreTrainedModel]) -> Scores:
        """Return the scores of the model as it is now. The one that ``stand_in`` returns is evaluated in its place."""
        result = self.problem.select(stand_in(self.problem.model), replay)
        if keeps_predictions(self.problem) and (found := result.predictions) is not None:
            self.predicted = {OUTPUTS: found.outputs, LABELS: found.labels}
        return result.scores


def keeps_predictions(problem: PreparedTask) -> bool:
    """Return whether the predictions for the selection rows are those to be stored."""
    return problem.reported is not None and problem.report is None


def predictions_of(predicted: Mapping[str, Tensor], epoch: Epoch) -> Predictions | None:
    """Return the predictions of an epoch from their tensors. None if they were not kept."""
    return Predictions(predicted[OUTPUTS], predicted[LABELS], epoch.scores["loss"]) if predicted else None
