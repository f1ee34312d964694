"""Evaluate a model on data: predictions, mean loss and scores."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rosa_bench.data.batches import Batch, Batches, targets, to_device
from rosa_bench.metrics.load import LoadedMetric
from rosa_bench.records.predictions import RowPredictions
from rosa_bench.system import processes
from rosa_bench.system.resources.device import Autocast
from rosa_bench.system.tensors import is_sharded
from rosa_bench.training.cuda_graphs import Replay, eager


class Predictions(NamedTuple):
    """The model's outputs for each example, the true labels in the same order, and the mean loss."""

    outputs: Tensor
    labels: Tensor
    loss: float


@dataclass(frozen=True)
class Forward:
    """Compute a batch's outputs and mean loss in float32. Instances with the same model are equal and share graphs."""

    model: nn.Module
    autocast: Autocast

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with self.autocast():
            result = self.model(**batch)
        return result.logits.float(), result.loss.float()


@dataclass(frozen=True)
class Loss:
    """Compute a batch's mean loss and its number of labels, without keeping the outputs, which may be large."""

    model: nn.Module
    autocast: Autocast

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with self.autocast():
            loss = self.model(**batch).loss
        return loss.double(), targets(batch)


def predict(
    model: nn.Module, batches: Batches, *, device: torch.device, autocast: Autocast, replay: Replay = eager
) -> Predictions:
    """Run the model over all batches, without dropout. Return all outputs in float32 on the CPU."""
    model.eval()
    forward = replay(Forward(model, autocast))

    def evaluate(batch: Batch) -> tuple[Tensor, Tensor]:
        logits, loss = forward(to_device(batch, device))
        return logits, loss * len(batch["labels"])

    outputs, labels = [], []
    with gradients_off(model):
        total = torch.zeros((), device=device)
        for batch, (logits, loss) in evaluated(batches, evaluate):
            labels.append(batch["labels"])
            outputs.append(logits)
            total += loss
    return Predictions(torch.cat(outputs).cpu(), torch.cat(labels).cpu(), total.item() / batches.examples)


def mean_loss(
    model: nn.Module, batches: Batches, *, device: torch.device, autocast: Autocast, replay: Replay = eager
) -> float:
    """Return the model's mean loss over all labels that count, without dropout. Outputs are not kept."""
    model.eval()
    mean = replay(Loss(model, autocast))
    with gradients_off(model):
        total = torch.zeros((), dtype=torch.float64, device=device)
        labels = torch.zeros((), dtype=torch.int64, device=device)
        for _, (loss, count) in evaluated(batches, lambda batch: mean(to_device(batch, device))):
            total += loss * count
            labels += count
    return (total / labels).item()


def evaluated(
    batches: Batches, evaluate: Callable[[Batch], tuple[Tensor, ...]]
) -> Iterator[tuple[Batch, tuple[Tensor, ...]]]:
    """Yield every batch and what ``evaluate`` returns for it: scalars, or tensors with one row per example.

    Several processes take turns, and each gets the results of all. Those without a batch at the end evaluate the last
    one too, because with sharded weights all must make the same passes.
    """
    count, rank, last = processes.count(), processes.rank(), len(batches) - 1
    if count == 1:
        yield from ((batch, evaluate(batch)) for batch in batches.epoch())
        return
    seen, own, latest = [], dict[int, tuple[Tensor, ...]](), tuple[Tensor, ...]()
    for number, batch in enumerate(batches.epoch()):
        seen.append(batch)
        owner = number % count
        if owner == rank or (number == last and rank > owner):
            own[number] = latest = evaluate(batch)
    for number, batch in enumerate(seen):
        rows, owner = len(batch["labels"]), number % count
        mine = (
            own[number] if owner == rank else (it.new_empty((rows, *it.shape[1:]) if it.ndim else ()) for it in latest)
        )
        yield batch, tuple(processes.take_from(it.contiguous(), owner) for it in mine)


def gradients_off(model: nn.Module) -> torch.inference_mode | torch.no_grad:
    """Return a context for evaluations. FSDP gathers weights into tensors that later passes write into again."""
    return torch.no_grad() if any(map(is_sharded, model.parameters())) else torch.inference_mode()


def answers(outputs: Tensor) -> Tensor:
    """Return a regression's single output, or else the likeliest class: (rows, outputs) -> (rows)."""
    return outputs.squeeze(-1) if outputs.shape[-1] == 1 else outputs.argmax(-1)


def by_row(predictions: Predictions, *, run: str, epoch: int, rows: str) -> RowPredictions | None:
    """Return predictions in the form in which they are stored, or None if an output is not finite.

    ``epoch`` is counted from 1. ``rows`` is the fingerprint of the rows.
    """
    outputs, labels = predictions.outputs, predictions.labels
    if not torch.isfinite(outputs).all():
        return None
    if outputs.shape[-1] == 1:
        return RowPredictions.of_values(
            answers(outputs).tolist(), labels=labels.tolist(), run=run, epoch=epoch, rows=rows
        )
    probabilities = outputs.double().softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
    return RowPredictions(
        run=run,
        epoch=epoch,
        rows=rows,
        labels=labels.tolist(),
        predictions=answers(outputs).tolist(),
        percent=(100 * probabilities).round().long().tolist(),
    )


def score(predictions: Predictions, metric: LoadedMetric) -> dict[str, float]:
    """Return the metric's values, ``loss`` and ``spread``, for the likeliest class or a regression's single output.

    ``spread`` is the standard deviation of the predictions divided by that of the labels. It is 0 if all predictions
    are the same, and left out if all labels are the same. If an output is not finite, only a NaN ``loss`` is returned.
    """
    outputs = predictions.outputs
    guesses = answers(outputs)
    if not torch.isfinite(outputs).all():
        return {"loss": float("nan")}
    figures = metric.module.compute(predictions=guesses.tolist(), references=predictions.labels.tolist()) or {}
    figures["loss"] = predictions.loss
    labels = predictions.labels.double()
    if labels.min() < labels.max():
        figures["spread"] = (guesses.double().std(correction=0) / labels.std(correction=0)).item()
    return figures
