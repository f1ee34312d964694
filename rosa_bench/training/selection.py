"""The epoch that counts: the one with the best score on the selection data, and its weights if wanted."""

import operator

import torch
from torch import nn

from rosa_bench.metrics.base import Metric
from rosa_bench.system.errors import UserError
from rosa_bench.training.checkpoint import Snapshot
from rosa_bench.training.state import Scores, changing_tensors


class BestEpoch:
    """Remembers the epoch with the best score, the first of equals, and its weights if they will be wanted again."""

    def __init__(self, model: nn.Module, selects_by: Metric, *, keep_weights: bool):
        self.model, self.selects_by, self.keep_weights = model, selects_by.name, keep_weights
        self.is_better = operator.lt if selects_by.lower_is_better else operator.gt
        self.number, self.score = -1, float("nan")
        self._weights: dict[str, torch.Tensor] = {}

    def offer(self, number: int, scores: Scores) -> None:
        """Consider epoch ``number``, counted from 0."""
        better = self.is_better(scores[self.selects_by], self.score)
        if self.number >= 0 and not better:  # so that NaN never replaces a figure
            return
        self.number, self.score = number, scores[self.selects_by]
        if self.keep_weights:
            changing = changing_tensors(self.model).items()
            self._weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in changing}

    @property
    def state(self) -> Snapshot:
        """What a checkpoint keeps of it."""
        return Snapshot(self._weights, {"number": self.number, "score": self.score})

    @state.setter
    def state(self, state: Snapshot) -> None:
        self.number, self.score = state.values["number"], state.values["score"]
        if self.keep_weights and self.number >= 0 and not state.tensors:
            raise UserError(
                "the best epoch's weights were not kept when the run began, as save_model=false had it; "
                "go on with save_model=false, or start anew with resume=never"
            )
        self._weights = state.tensors if self.keep_weights else {}

    def restore(self) -> None:
        """Put the best epoch's weights back into the model, where they were kept."""
        with torch.no_grad():
            for name, tensor in changing_tensors(self.model).items():
                if name in self._weights:
                    tensor.copy_(self._weights[name])
