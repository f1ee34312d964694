"""Select the epoch with the best score on the selection data, and keep its weights if they are needed."""

import math
import operator
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rosa_bench.metrics.base import Metric
from rosa_bench.system.errors import UserError
from rosa_bench.system.tensors import whole
from rosa_bench.training.checkpoint import Snapshot
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.state import Epoch, Scores, Training


class BestEpoch(Observer):
    """Remembers the epoch with the best score, or the first of several with the same score.

    tensors       returns the tensors that training can change, by name (`rosa_bench.methods.base.Method.state`)
    keep_weights  whether to keep that epoch's weights too
    predictions   returns what the epoch that has just ended predicts, as tensors by name. Those of the best epoch are
                  in ``predicted``
    last_only     whether only the run's last epoch can be selected
    """

    def __init__(
        self,
        tensors: Callable[[], Mapping[str, Tensor]],
        selects_by: Metric,
        *,
        keep_weights: bool,
        predictions: Callable[[], Mapping[str, Tensor]] = dict,
        last_only: bool = False,
    ):
        self.last_only = last_only
        self.predictions, self.predicted = predictions, dict[str, Tensor]()
        self.tensors, self.selects_by, self.keep_weights = tensors, selects_by.name, keep_weights
        self.is_better = operator.lt if selects_by.lower_is_better else operator.gt
        self.number, self.score, self.selectable = -1, float("nan"), False
        self._weights: dict[str, Tensor] = {}

    def on_epoch_end(self, training: Training, number: int, epoch: Epoch) -> None:
        step, length = training.step, training.length
        in_time = not self.last_only or step == length.total_steps
        self.offer(number, epoch.scores, selectable=in_time and training.method.is_selectable(step, length))

    def offer(self, number: int, scores: Scores, *, selectable: bool = True) -> None:
        """Consider epoch ``number``, counted from 0, as the best so far.

        One that is not ``selectable`` is only the best until one that is comes along. Any number is better than NaN.
        """
        score = scores[self.selects_by]
        if self.number >= 0:
            better = self.is_better(score, self.score) or (math.isnan(self.score) and not math.isnan(score))
            if selectable < self.selectable or (selectable == self.selectable and not better):
                return
        self.number, self.score, self.selectable = number, score, selectable
        self.predicted = dict(self.predictions())
        if self.keep_weights:
            self._weights = {
                name: whole(tensor.detach()).to("cpu", copy=True) for name, tensor in self.tensors().items()
            }

    @property
    def state(self) -> Snapshot:
        """The state to store in a checkpoint."""
        return Snapshot(self._weights, {"number": self.number, "score": self.score, "selectable": self.selectable})

    @state.setter
    def state(self, state: Snapshot) -> None:
        self.number, self.score, self.selectable = (state.values[key] for key in ("number", "score", "selectable"))
        if self.keep_weights and self.number >= 0 and not state.tensors:
            raise UserError(
                "the best epoch's weights were not kept when the run began without save_model, save_adapter and "
                "forgetting_on; resume with these settings, or start again with resume=never"
            )
        self._weights = state.tensors if self.keep_weights else {}

    def restore(self) -> None:
        """Put the best epoch's weights back into the model, if they were kept."""
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                if name in self._weights:
                    tensor.copy_(self._weights[name])
