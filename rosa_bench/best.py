"""The epoch that counts: the one with the best score on the selection data, and its weights if wanted."""

import operator

import torch
from torch import nn

from rosa_bench.train import Scores


class BestEpoch:
    """Remembers the epoch with the best score, the first of equals, and its weights if they will be wanted again."""

    def __init__(self, model: nn.Module, reported: str, *, lower_is_better: bool = False, keep_weights: bool):
        self.model, self.reported, self.keep_weights = model, reported, keep_weights
        self.is_better = operator.lt if lower_is_better else operator.gt
        self.number, self.score = -1, float("nan")
        self._weights: dict[str, torch.Tensor] = {}

    def offer(self, number: int, scores: Scores) -> None:
        """Consider epoch ``number``, counted from 0."""
        if self.number >= 0 and not self.is_better(
            scores[self.reported], self.score
        ):  # so that NaN never replaces a figure
            return
        self.number, self.score = number, scores[self.reported]
        if self.keep_weights:
            # What training can change: trained parameters, and buffers, among them the residuals that resampling moves.
            trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
            changing = {**trained, **dict(self.model.named_buffers())}
            self._weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in changing.items()}

    def restore(self) -> None:
        """Put the best epoch's weights back into the model, where they were kept."""
        tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        with torch.no_grad():
            for name, kept in self._weights.items():
                tensors[name].copy_(kept)
