"""A model and data in, predictions and scores out."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rosa_bench.data.batches import Batches, targets, to_device
from rosa_bench.metrics import LoadedMetric


class Predictions(NamedTuple):
    """The model's outputs for each example, the true labels in the same order, and the mean loss."""

    outputs: Tensor
    labels: Tensor
    loss: float


@torch.inference_mode()
def predict(
    model: nn.Module, batches: Batches, *, device: torch.device, autocast: Callable[[], AbstractContextManager]
) -> Predictions:
    """Run the model over all batches, without dropout. Outputs come back in float32 on the CPU."""
    model.eval()
    outputs, labels, loss = [], [], torch.zeros((), device=device)
    for batch in batches.epoch():
        with autocast():
            result = model(**to_device(batch, device))
        outputs.append(result.logits.float())
        labels.append(batch["labels"])
        loss += result.loss.float() * len(batch["labels"])
    return Predictions(torch.cat(outputs).cpu(), torch.cat(labels), loss.item() / batches.examples)


@torch.inference_mode()
def mean_loss(
    model: nn.Module, batches: Batches, *, device: torch.device, autocast: Callable[[], AbstractContextManager]
) -> float:
    """The model's mean loss over all labels that count, without dropout; its outputs are not kept."""
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=device)
    labels = torch.zeros((), dtype=torch.int64, device=device)
    for batch in batches.epoch():
        moved = to_device(batch, device)
        with autocast():
            mean = model(**moved).loss
        count = targets(moved)
        loss += mean.double() * count
        labels += count
    return (loss / labels).item()


def score(predictions: Predictions, metric: LoadedMetric) -> dict[str, float]:
    """The metric's figures and the ``loss``: of the likeliest class, or of the one output itself for regression."""
    outputs = predictions.outputs
    guesses = outputs.squeeze(-1) if outputs.shape[-1] == 1 else outputs.argmax(-1)
    if not torch.isfinite(outputs).all():
        return {"loss": float("nan")}
    figures = metric.module.compute(predictions=guesses.tolist(), references=predictions.labels.tolist()) or {}
    return {**figures, "loss": predictions.loss}
